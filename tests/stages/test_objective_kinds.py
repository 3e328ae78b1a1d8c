"""What an objective declares it gets: every kind of record that it names, in the stage that trains it."""

import json
import math
from pathlib import Path

import pytest

from alignloop.config import resolve
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.model.load import LoadedModel
from alignloop.model.tiny import tiny_model
from alignloop.objectives import registry
from alignloop.stages.recipe_check import read_stage
from tests.stages.task import run_stage

ROWS = {
    "document": lambda k: {"text": f"rain {k} falls on the hills"},
    "demonstration": lambda k: {"prompt": f"q {k}", "completion": "yes"},
    "preference": lambda k: {"prompt": f"q {k}", "chosen": "yes, rain", "rejected": "no"},
    "ranking": lambda k: {"prompt": f"q {k}", "responses": ["rain", "fog", "sun"], "ranking": [2, 1, 3]},
    "rating": lambda k: {"prompt": f"q {k}", "completion": "yes", "scores": {"help": k % 5, "tone": 2}},
    "label": lambda k: {"prompt": f"q {k}", "completion": "yes", "label": k % 2 == 0},
}
STAGES = {"sft": {"demonstration": "sft", "document": "pretrain"}}
TRAINED = {
    name: registry.load(name).records
    for name in registry.names()
    if registry.load(name).records != ("prompt",)
}
CASES = [(name, kind) for name, kinds in TRAINED.items() for kind in kinds]


def stage_of(objective: str, kind: str) -> tuple[str, dict[str, str]]:
    if objective in STAGES:
        return STAGES[objective][kind], {}
    needs = registry.load(objective)().needs
    return ("reward", {"objective": objective}) if "scores" in needs else (objective, {})


@pytest.mark.parametrize(("objective", "kind"), CASES)
def test_every_declared_kind_trains(objective: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(ROWS[kind](k)) for k in range(8)), encoding="utf-8")
    stage, more = stage_of(objective, kind)
    keys = {"model_name_or_path": "tiny", "dataset": str(path), "output_dir": str(tmp_path / "run"), **more}
    keys |= {"max_steps": 1, "per_device_train_batch_size": 4, "num_threads": 1, "eval_fraction": 0.25}
    (row,) = run_stage(stage, keys).metrics()
    assert math.isfinite(row["loss"])
    assert math.isfinite(row["eval_loss"])
    config, loss = resolve(stage, keys)
    model, tokenizer = tiny_model(seed=0)
    assert read_stage(config, loss, LoadedModel(model, tokenizer, "tiny")).data.kind == kind


def test_rows_of_no_declared_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(ROWS["label"](k)) for k in range(4)), encoding="utf-8")
    with pytest.raises(DataError, match="the rows look like label"):
        read_records(str(path), ("preference", "ranking"))
    assert read_records(str(path), ("rating", "label")).kind == "label"
