"""bench/attack.py: a few attacks with small sizes, and the page that it writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import attack
from bench.attack_tools import Found


@pytest.mark.parametrize("name", ["encodings", "links", "clock", "sessions", "formulas"])
def test_an_attack_holds(name: str) -> None:
    rows = attack.ATTACKS[name](True)
    assert rows
    assert [row for row in rows if not row.held] == []


def test_the_page_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Found("a|b", "x <y>", "held\nwell", "1 s", True), Found("c", "z", "fell", "–", False)]
    file, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(attack, "PAGE", page)
    monkeypatch.setattr(attack, "ROOT", tmp_path)
    assert attack.main(["--from", str(file), "--write"]) == 1
    text = page.read_text(encoding="utf-8")
    assert "| a\\|b | x &lt;y> | held well | 1 s | held |" in text
    assert "| c | z | fell | – | **fell** |" in text
    file.write_text(json.dumps(asdict(rows[0])) + "\n", encoding="utf-8")
    assert attack.main(["--from", str(file)]) == 0
    monkeypatch.setitem(attack.ATTACKS, "gz", lambda quick: [Found("d", str(quick), "fell", "–", False)])  # pyright: ignore
    assert attack.main(["--only", "gz", "--quick", "--json", str(file)]) == 1
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["tried"] == "True"
    assert "FELL  d: True" in capsys.readouterr().out
