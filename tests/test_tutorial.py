"""Every command of docs/tutorial.md runs as it stands there, on `tiny` and made-up dialogues."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from tests import helpers_docs
from tests.test_guide import SERVES, small

ROOT = Path(__file__).parents[1]
TUTORIALS = ("tutorial.md", "ko/tutorial.md")


def commands(page: str) -> list[str]:
    return list(helpers_docs.commands((ROOT / "docs" / page).read_text(encoding="utf-8")))


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """Forty pairs as in HH-RLHF: two whole dialogues each, and a row that cannot be used."""
    rows = [
        {
            end: f"\n\nHuman: What is {n} plus 1?\n\nAssistant: {answer}"
            for end, answer in (("chosen", f"It is {n + 1}."), ("rejected", f"I will not say {n}."))
        }
        for n in range(40)
    ]
    rows.append({"chosen": rows[0]["chosen"], "rejected": rows[1]["rejected"]})
    file = tmp_path / "hh_harmless_pairs.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return tmp_path


def test_the_commands_run(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dialogues)
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(dialogues / "cache"))
    for command in commands("tutorial.md"):
        if command.startswith(SERVES):
            continue
        if command.startswith("alignloop label export"):
            _judge()
        done = CliRunner().invoke(app, small(command), input="hello\n/good a\n")
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert (dialogues / "judged.jsonl").exists()


def _judge() -> None:
    """What people do on the page that `label serve` shows."""
    Path("said.jsonl").write_text(
        '{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": "r", "chosen": "a", "rejected": "b"}\n',
        encoding="utf-8",
    )
    for words in ("import labels said.jsonl", "submit said.jsonl labels --annotator me"):
        assert CliRunner().invoke(app, ["label", *words.split()]).exit_code == 0


def test_both_languages_have_the_same_commands() -> None:
    english, korean = (commands(page) for page in TUTORIALS)
    assert english == korean
