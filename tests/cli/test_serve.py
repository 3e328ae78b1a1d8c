"""`alignloop serve` as a process: it listens, answers, ends in order; what is wrong is one sentence."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from alignloop.cli import app


def test_it_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "alignloop", "serve", "tiny", "--name", "작은", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("작은: listening on http://127.0.0.1:")
        address = line.split()[-1]
        body = {"messages": [{"role": "user", "content": "안녕"}], "max_tokens": 2}
        answer = httpx.post(f"{address}/chat/completions", json=body, timeout=60).json()
        assert answer["model"] == "작은"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_two_servers_on_one_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "tiny", "--port", str(port)])
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: another server is there" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/nowhere"], "model 'runs/nowhere' is neither a folder"),
        (["tiny", "tiny"], "a --name of its own"),
        (["tiny", "--name", "a", "--name", "b"], "a --name of its own"),
        (["tiny", "--host", "256.1.1.1"], "cannot listen"),
        (["tiny", "--chat-template", "nonsense"], "chat template 'nonsense'"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["serve", *arguments, "--port", "0"])
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output
