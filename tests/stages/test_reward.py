"""The reward stage on the tiny model."""

import json
from pathlib import Path

import pytest

from tests.stages.task import run_stage


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chosen answers contain a word that rejected ones lack, and are shorter every second time."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = []
    for i in range(24):
        filler = " the hills are green" * 3
        chosen, rejected = "yes, rain falls", "no, mist"
        if i % 2:
            rejected += filler
        else:
            chosen += filler
        rows.append({"prompt": f"question {i}", "chosen": chosen, "rejected": rejected})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def keys(pairs: Path, folder: Path, **more: object) -> dict[str, object]:
    return {
        "model_name_or_path": "tiny",
        "dataset": str(pairs),
        "output_dir": str(folder),
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-3,
        "num_threads": 1,
        **more,
    }


def test_held_out_accuracy_is_in_the_results(pairs: Path, tmp_path: Path) -> None:
    run = run_stage("reward", keys(pairs, tmp_path / "r", eval_fraction=0.25, num_train_epochs=4))
    results = run.record["results"]
    held = results["held_out"]
    assert held["pairs"] == 6
    assert held["accuracy"] == pytest.approx(results["eval_accuracy"], abs=1e-6)
    low, high = held["accuracy_interval"]
    assert low < held["accuracy"] <= high
    table = results["held_out_by_length"]
    assert sum(row["pairs"] for row in table) == 6
    assert table[2]["pairs"] == 0  # no pair of nearly equal length
    right = sum(row["pairs"] * row["accuracy"] for row in table if row["pairs"])
    assert right / 6 == pytest.approx(held["accuracy"])


def test_without_held_out_rows_nothing_is_claimed(pairs: Path, tmp_path: Path) -> None:
    results = run_stage("reward", keys(pairs, tmp_path / "r", max_steps=1)).record["results"]
    assert not [name for name in results if name.startswith("held_out")]
