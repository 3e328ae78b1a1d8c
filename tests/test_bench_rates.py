"""The table of rates: cells in order, what is done is not run again, the page by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignloop.records import Demonstration, Label, Message, Preference
from bench import rates
from bench.rates import SMALL, SOURCE, Cell, cells, measure, read, rows_of
from bench.rates_report import cells_table, defaults_table, page


def row(rate: float, loss: float | None, **more: Any) -> dict[str, Any]:
    own = {
        "model": SMALL,
        "method": "dpo",
        "lora_r": 0,
        "rate": rate,
        "seed": 1,
        "loss": loss,
        "accuracy": 0.6,
    }
    return {**own, "rows": 50, "steps": 60, **more}


def test_full_fine_tuning_comes_before_lora_and_the_first_seed_before_others() -> None:
    found = list(cells([SMALL, SOURCE], ["dpo"], [1, 2]))
    assert len(found) == 2 * 2 * 2 * 4  # models, adapters, seeds, rates
    assert [cell.lora_r for cell in found[:16]] == [0] * 8 + [16] * 8
    assert {cell.seed for cell in found[:16]} == {1}
    assert Cell(SMALL, "dpo", 16, 2e-5, 1).name == "small-dpo-lora-2e-05-1"


def test_pairs_in_each_form() -> None:
    prompt = (Message("user", "q"),)
    pairs = [Preference(prompt, "good", "bad")]
    assert rows_of("preference", pairs) == pairs
    (demonstration,) = rows_of("demonstration", pairs)
    assert isinstance(demonstration, Demonstration)
    assert demonstration.completion == "good"
    labels = [one for one in rows_of("label", pairs) if isinstance(one, Label)]
    assert [(one.completion, one.desirable) for one in labels] == [("good", True), ("bad", False)]


def test_what_is_done_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Cell] = []

    def run_cell(cell: Cell, work: Path) -> dict[str, Any]:
        ran.append(cell)
        return {**vars(cell), "loss": 0.5, "accuracy": 0.5, "rows": 2, "steps": 1}

    monkeypatch.setattr(rates, "run_cell", run_cell)
    monkeypatch.setattr(rates, "prepare", lambda work: None)
    monkeypatch.setattr(rates, "_size", lambda work, name: 10)
    monkeypatch.setattr(rates, "machine", lambda threads: {"cpu": "x"})
    file = tmp_path / "rates.json"
    wanted = list(cells([SMALL], ["dpo"], [1]))
    measure(tmp_path, file, wanted[:2])
    measure(tmp_path, file, wanted)
    assert ran == wanted
    assert len(read(file)["rows"]) == len(wanted)
    assert json.loads(file.read_text(encoding="utf-8"))["parameters"] == {SMALL: 10}


def test_the_lowest_loss_is_bold_and_what_is_missing_is_a_dash() -> None:
    lines = cells_table(
        [row(1e-4, 0.7), row(1e-3, 0.5), row(1e-3, 0.7, seed=2), row(1e-4, 0.65, method="ipo")]
    )
    assert lines.splitlines()[0] == "| | 0.0001 | 0.001 |"
    assert lines.splitlines()[2] == "| DPO | 0.700 (60 %) | **0.600** (60 %) |"  # (0.5 + 0.7) / 2
    assert lines.splitlines()[3] == "| IPO | **0.650** (60 %) | – |"
    assert lines.splitlines()[-1] == "| reward model | – | – |"


def test_the_page_says_what_is_not_measured() -> None:
    assert "below 20 M | 20 M to 500 M | 500 M to 3 B | above" in defaults_table()
    assert "**Not measured here**" in page({"rows": []})
    found = {"rows": [row(1e-4, 0.7)], "machine": {"cpu": "x"}, "parameters": {SMALL: 2_000_000}}
    text = page(found)
    assert "Seeds: 1." in text
    assert "50 held-out rows give accuracy ± 14 points" in " ".join(text.split())  # 98 / √50
    assert "### small, all weights, float32" in text
