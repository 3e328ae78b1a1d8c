"""A new objective is one file: nothing outside objectives/ names an objective or asks which one it is."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignloop import objectives
from alignloop.config import methods, resolve
from alignloop.errors import ConfigError
from alignloop.objectives import registry
from alignloop.objectives.base import Objective
from alignloop.pipeline import load_function
from tests.stages.task import run_stage

ROOT = Path(objectives.__file__).resolve().parents[1]
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent.name != "objectives" and path != ROOT / "__init__.py"  # the package offers every name
]
CLASSES = {registry.load(name).__name__ for name in registry.names()}


def leaks(source: str) -> Iterator[str]:
    """What in a file knows a concrete objective: imports, names of classes, comparisons, isinstance."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for module in modules:
                folder, _, name = module.rpartition(".")
                if folder == "alignloop.objectives" and name in registry.names():
                    yield f"{node.lineno}: imports {module}"
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in CLASSES:
                yield f"{node.lineno}: names {name}"
        elif isinstance(node, ast.Compare):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            for name in sorted(constants & {*registry.names(), *CLASSES}, key=str):
                yield f"{node.lineno}: compares with {name!r}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = ast.unparse(node.args[0])
            if asked.rpartition(".")[2] in ("objective", "loss") or "Objective" in ast.unparse(node.args[1]):
                yield f"{node.lineno}: isinstance of {asked}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outside_knows_an_objective(path: Path) -> None:
    assert list(leaks(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from alignloop.objectives.kto import weight_advice", "1: imports alignloop.objectives.kto"),
        ("import alignloop.objectives.dpo", "1: imports alignloop.objectives.dpo"),
        ("loss = module.DPO(beta=0.1)", "1: names DPO"),
        ("if config.objective == 'kto': pass", "1: compares with 'kto'"),
        ("if name in ('dpo', 'x'): pass", "1: compares with 'dpo'"),
        ("isinstance(objective, Wide)", "1: isinstance of objective"),
        ("isinstance(x, StepObjective)", "1: isinstance of x"),
    ],
)
def test_what_a_leak_is(line: str, found: str) -> None:
    assert list(leaks(line)) == [found]


TOY = '''
"""A toy: a weighted margin that the step's mean is taken from."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from alignloop.objectives.base import (
    Objective, Output, Passes, UsualRange, extra, group_count, log_ratios, mean_of, pairs,
)


@dataclass(frozen=True)
class ToyMargin(Objective):
    """Weighted margin of log-ratios below a target, less the step's mean margin."""

    target: Annotated[float, Field(gt=0, description="nats")] = 0.5

    records: ClassVar = ("preference",)
    needs: ClassVar = frozenset({"logprobs", "reference_logprobs"})
    statistics_need: ClassVar = frozenset({"logprobs", "reference_logprobs"})
    usual: ClassVar = UsualRange("target", 0.1, 5.0, "0.5")
    fewest_rows: ClassVar = 2
    smallest_batch: ClassVar = 16
    mean_over_step: ClassVar = "the toy's mean margin"

    def arranged(self, groups, seed):
        return [replace(g, values={**g.values, "weight": 1.0 + (seed + k) % 2}) for k, g in enumerate(groups)]

    def data_advice(self, groups):
        return f"the toy wants more than {len(groups)} rows"

    def passes(self, group):
        return Passes(np.full(2, group.values["weight"] > 1))

    def count(self, inputs):
        return group_count(inputs)

    def step_statistics(self, inputs):
        chosen, rejected = pairs(log_ratios(inputs))
        return {"toy_mean": mean_of(chosen - rejected)}

    def __call__(self, inputs, *, denominator):
        chosen, rejected = pairs(log_ratios(inputs))
        margin = chosen - rejected - extra(inputs, "toy_mean")
        loss = (extra(inputs, "weight") - 1) * (self.target - margin)
        return Output(loss.sum() / denominator, {"toy_weight": mean_of(extra(inputs, "weight"))})
'''


def forget() -> None:
    for found in (registry.names, registry.load, methods.class_names):
        found.cache_clear()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Objective]]:
    """The objective's file, in a folder that objectives/ is extended by."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "toy_margin.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(folder)])
    forget()
    yield registry.load("toy_margin")
    sys.modules.pop("alignloop.objectives.toy_margin")
    monkeypatch.undo()
    forget()


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., dict[str, object]]:
    rows = [
        json.dumps({"prompt": f"q {k}", "chosen": f"yes, {k} times rain", "rejected": "no"}) for k in range(9)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    common = {
        "model_name_or_path": "tiny",
        "dataset": str(tmp_path / "pairs.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "num_threads": 1,
        "max_steps": 2,
        "lora_r": 0,
        "eval_fraction": 0.2,
    }
    return lambda **more: {**common, **more}


def test_a_new_objective_is_one_file(toy: type[Objective], keys: Callable[..., dict[str, object]]) -> None:
    """It is a stage with its keys, trained, linted and previewed by what its file declares."""
    assert methods.class_names()["ToyMarginConfig"] == "toy_margin"
    config, objective = resolve("toy_margin", keys(target=50, per_device_train_batch_size=4))
    assert objective == toy(target=50)  # pyright: ignore[reportCallIssue]
    run = run_stage("toy_margin", keys(target=50, per_device_train_batch_size=4, learning_rate=1e-4))
    rows = list(run.metrics())
    assert [row["toy_weight"] for row in rows] == [2.0, 2.0]  # the others are counted and not run
    assert rows[1]["loss"] != rows[0]["loss"]
    assert "eval_toy_weight" in rows[1]
    warned = "\n".join(run.record["warnings"])
    assert "target: 50 is outside 0.1 to 5, the scale of ToyMargin (the paper has 0.5)" in warned
    assert "AL114" in warned
    assert "the toy wants more than 7 rows" in warned
    shown = load_function("alignloop.stages.preview:preview")(config, objective)
    assert shown["steps"].startswith("2 of 4 rows")


def test_the_new_objectives_batch_and_trap(
    toy: type[Objective], keys: Callable[..., dict[str, object]]
) -> None:
    with pytest.raises(ConfigError, match=r"the toy's mean margin is a mean over .* at least 16 is usual"):
        run_stage("toy_margin", keys(per_device_train_batch_size=1))
    run = run_stage("toy_margin", keys(max_steps=1, output_dir=f"{keys()['output_dir']}-auto"))
    assert run.config()["per_device_train_batch_size"] == toy.smallest_batch
