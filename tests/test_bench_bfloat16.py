"""The comparison of types: its statistics, and one method run to its end on the tiny model."""

import json
import sys
from pathlib import Path

import pytest

from bench import bfloat16, bfloat16_report


def run(dtype, seed, value):
    return {"method": "dpo", "dtype": dtype, "seed": seed, "figures": {"eval_loss": value}, "cpu_s": 60.0}


def test_seeds_that_both_types_have_are_compared() -> None:
    runs = [run("float32", seed, value) for seed, value in enumerate((1.0, 2.0, 3.0))]
    runs += [run("bfloat16", seed, value) for seed, value in enumerate((1.5, 2.25, 3.0))]
    runs.append(run("float32", 3, 100.0))  # its other half was not run
    (row,) = bfloat16_report.compared(runs)
    assert (row["seeds"], row["range"], row["inside"]) == (3, (1.0, 3.0), True)
    # differences 0.5, 0.25, 0: mean 0.25, deviation 0.25, t of two degrees 4.30
    assert row["paired"] == pytest.approx((0.25, 4.30 * 0.25 / 3**0.5))
    assert row["float32"][0] == pytest.approx(2.0)
    runs[3] = run("bfloat16", 0, 9.0)
    assert not bfloat16_report.compared(runs)[0]["inside"]  # a mean of 4.75


def test_a_method_in_both_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "found.json"
    words = ["--out", str(out), "--model", "tiny", "--seeds", "1", "--steps", "1", "--methods", "ipo"]
    monkeypatch.setattr(sys, "argv", ["bfloat16.py", *words, "--eval-rows", "8", "--max-length", "256"])
    bfloat16.main()
    found = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert [(row["dtype"], row["seed"]) for row in found] == [("float32", 0), ("bfloat16", 0)]
    losses = [row["figures"]["eval_loss"] for row in found]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert "| ipo | eval_loss | 1 |" in capsys.readouterr().out
