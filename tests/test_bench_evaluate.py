"""The evaluation benchmark's own arithmetic, and a short run of both sides on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignloop.model.tiny import tiny_model
from bench import evaluate


def test_summary_compares_medians_and_answers() -> None:
    chosen = evaluate.options(["--prompts", "2", "--threads", "1"])
    mine = {"answers": [["a", "b"], ["c", "d"]], "kl": 0.5, "gold_pass_rate": [0.5, 1.0]}
    other = mine | {"answers": [["a", "b"], ["c", "x"]], "tokens": 9}
    report = evaluate.summary(chosen, {"8": 3.0, "16": 2.0}, [2.0, 9.0, 3.0], [30.0, 10.0, 12.0], mine, other)
    assert (report["alignloop_s"], report["transformers_s"], report["share"]) == (3.0, 12.0, 0.25)
    assert (report["batch_size"], report["target_met"], report["equal_answers"]) == (16, True, 0.75)
    assert "16: 2.0 s" in evaluate.page(report, "python -m bench.evaluate")


def test_both_sides_find_the_same(tmp_path: Path) -> None:
    for number in (0, 1):
        model, tokenizer = tiny_model(seed=number)
        model.save_pretrained(tmp_path / f"model-{number}")
        tokenizer.save_pretrained(tmp_path / f"model-{number}")
    names = [str(tmp_path / f"model-{number}") for number in (0, 1)]
    words = f"--before {names[0]} --after {names[1]} --prompts 7 --tokens 6 --threads 1 --batch-sizes 2 4"
    report = evaluate.measure(evaluate.options(words.split()))
    assert report["equal_answers"] == 1
    assert report["kl"][0] == pytest.approx(report["kl"][1], rel=1e-4)
    assert abs(report["kl"][0]) > 0.01
    assert report["gold_pass_rate"][0] == report["gold_pass_rate"][1]
    assert report["trial_s"].keys() == {"2", "4"}
