"""`alignloop chat` in a pseudo-terminal and through a pipe."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.cli.chat import _say
from alignloop.data.columns import read_records

# The new session takes its standard input as its terminal, so that Ctrl-C typed there reaches it.
IN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from alignloop.cli import main
main()
"""


def test_in_a_terminal(tmp_path: Path) -> None:
    """Streaming, Ctrl-C in an answer, votes, Ctrl-D."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, "chat", "tiny", "--max-tokens", "900", "--seed", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "dumb"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def read_until(enough: Callable[[], bool], at_once: int) -> None:
        nonlocal seen
        end = time.monotonic() + 100
        while not enough():
            assert time.monotonic() < end, seen.decode("utf-8", "replace")
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, at_once)

    def expect(*words: str) -> None:
        read_until(lambda: all(word.encode() in seen for word in words), 65536)

    try:
        expect("Ctrl-D ends.", "> ")
        seen = b""
        os.write(ours, "비가 오나요?\n".encode())
        expect("비가 오나요?\r\n")
        seen = b""
        read_until(lambda: len(seen) >= 20, 1)  # the answer has begun
        os.write(ours, b"\x03")
        expect("[stopped]", "> ")
        seen = b""
        os.write(ours, b"/good\n")
        expect("kept in votes", "> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert len(read_records(str(tmp_path / "votes" / "labels.jsonl")).records) == 1


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def call(text: bytes | str, *words: str):
        return CliRunner().invoke(app, ["chat", "tiny", "--max-tokens", "5", *words], input=text)

    return call


def test_through_a_pipe(chat) -> None:
    done = chat("첫째\n/compare tiny\n둘째\n/good a\n/save a.jsonl\n", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert "[A] " in done.output
    assert "kept in votes" in done.output
    assert Path("a.jsonl").exists()
    assert chat("hi\n", "--seed", "1").output == chat("hi\n", "--seed", "1").output


def test_what_a_model_writes_does_not_steer_the_terminal(capsys) -> None:
    _say("가\x1b[2J나\u202e\r\n")
    assert capsys.readouterr().out == "가␛[2J나[U+202E]␍\n"


def test_input_that_is_not_utf8(chat) -> None:
    done = chat(b"hi\n\xff\xfe\n")
    assert done.exit_code == 2
    assert "error: the input is not UTF-8 text" in done.output


def test_models_that_cannot_talk(chat) -> None:
    done = CliRunner().invoke(app, ["chat", "runs/nowhere"])
    assert done.exit_code == 2
    assert "model 'runs/nowhere'" in done.output
    assert chat("", "--compare", "runs/nowhere").exit_code == 2
