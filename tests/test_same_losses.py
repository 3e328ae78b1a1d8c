"""The guard of refactorings: what it reads of runs, what it leaves out, and the least that it sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.test_mutate import load

same = load("same_losses")


def make_runs(folder: Path, loss: float = 0.5, weight: float = 1.0, seconds: float = 2.0) -> Path:
    """A pipeline of one stage with a metric, a result and a weight."""
    stage = folder / "dpo"
    (stage / "model").mkdir(parents=True)
    line = {"step": 1, "loss": loss, "step_s": seconds, "tokens_per_s": 1 / seconds, "time_s": seconds}
    (stage / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    results = {"held_out": {"accuracy": [loss, 1.0]}, "memory_gb": seconds, "file": f"{folder}/dpo/x"}
    (stage / "run.json").write_text(
        json.dumps({"results": results, "created": str(seconds)}), encoding="utf-8"
    )
    save_file({"w": torch.tensor([weight])}, stage / "model" / "model.safetensors")
    return folder


def test_what_time_and_place_change_is_left_out(tmp_path: Path) -> None:
    before, after = make_runs(tmp_path / "a"), make_runs(tmp_path / "b", seconds=3.0)
    assert same.differences(same.numbers(before), same.numbers(after)) == []
    assert "dpo: metrics.jsonl:1: loss" in same.numbers(before)
    assert same.numbers(before)["dpo: results: file"] == '"RUNS/dpo/x"'


def test_the_last_bit_of_a_loss_and_of_a_weight_is_seen(tmp_path: Path) -> None:
    before = same.numbers(make_runs(tmp_path / "a"))
    loss = same.numbers(make_runs(tmp_path / "b", loss=0.5000000000000001))
    assert same.differences(before, loss) == [
        "dpo: results: held_out.accuracy[0]: 0.5 → 0.5000000000000001",
        "dpo: metrics.jsonl:1: loss: 0.5 → 0.5000000000000001",
    ]
    weight = same.numbers(make_runs(tmp_path / "c", weight=1.0 + 2**-23))
    assert [line.split(" → ")[0].rsplit(": ", 1)[0] for line in same.differences(before, weight)] == [
        "dpo: model/model.safetensors: bytes"
    ]


def test_a_stage_that_only_one_has_is_a_difference(tmp_path: Path) -> None:
    before = same.numbers(make_runs(tmp_path / "a"))
    assert all(line.endswith("→ nothing") for line in same.differences(before, {}))
    assert len(same.differences(before, {})) == len(before)


def test_a_commit_is_compared_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def run(tree: Path, output: Path) -> None:
        made.append(tree)
        make_runs(output)

    monkeypatch.setattr(same, "run", run)
    assert same.main(["HEAD", "--keep", str(tmp_path / "kept")]) == 0
    assert len(made) == 2  # the commit in a tree of its own, and the working tree
    assert made[1] == same.ROOT
    assert same.main(["HEAD", "HEAD", "--keep", str(tmp_path / "kept")]) == 0
    assert len(made) == 2  # what lies there is used again
    shutil.rmtree(tmp_path / "kept")
