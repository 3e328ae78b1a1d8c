"""What data and model decide: the table by hand, the trap, and one set of defaults behind every door."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import alignloop
from alignloop.config import (
    PreferenceConfig,
    Recipe,
    RewardConfig,
    SFTConfig,
    TrainConfig,
    find_stage,
    flatten,
    make_plan,
    methods,
    parse_recipe,
    resolve,
    stage_names,
    stage_schema,
    starter_recipe,
)
from alignloop.config.defaults import RATES, RunSize, decide, family, open_keys, usual_rate
from alignloop.config.fields import fixed
from alignloop.config.recipe_file import located
from alignloop.config.rl import IterateConfig
from alignloop.config.shipped import find_method, stage_of_method
from alignloop.errors import ConfigError
from alignloop.objectives.dpo import DPO
from alignloop.objectives.kto import KTO
from alignloop.pipeline import settle_defaults, stage_inputs
from alignloop.runs import Run
from alignloop.stages.defaults import settled
from alignloop.stages.lint_settings import lint_schedule

LARGE = 134_515_008
LOSS: Any = DPO()
MARKS: Any = KTO()


def made(kind: Any = PreferenceConfig, **keys: Any) -> Any:
    return kind(dataset="x.jsonl", output_dir="runs/x", **keys)


@pytest.mark.parametrize(
    ("rows", "share", "batch"),
    [
        (15, 0.0, 4),  # fewer than 20 prompts; 15 / 4 = 4 steps
        (100, 0.1, 4),  # 90 / 8 = 11 steps are too few, so the smallest batch
        (500, 0.1, 4),  # 450 / 8 = 56 steps are below 60, 450 / 4 = 112
        (600, 0.1, 8),  # 540 / 8 = 67
        (2000, 0.1, 16),  # 1800 / 16 = 112, / 32 = 56
        (5000, 0.1, 64),  # 4500 / 64 = 70
        (50_000, 0.01, 64),  # 500 rows held out
    ],
)
def test_share_and_batch_by_rows(rows: int, share: float, batch: int) -> None:
    found = decide(made(), "dpo", RunSize(rows, rows, LARGE))
    assert found["eval_fraction"].value == pytest.approx(share)
    assert found["per_device_train_batch_size"].value == batch
    assert found["learning_rate"].value == RATES["preference"][1].full


def test_the_batch_counts_epochs_accumulation_and_ktos_mean() -> None:
    facts = RunSize(500, 500, LARGE)
    assert decide(made(num_train_epochs=4), "dpo", facts)["per_device_train_batch_size"].value == 16
    assert decide(made(gradient_accumulation_steps=2), "dpo", facts)["per_device_train_batch_size"].value == 2
    assert decide(made(), "kto", RunSize(100, 50, LARGE))["per_device_train_batch_size"].value == 8


def test_what_is_given_is_not_decided() -> None:
    config = made(learning_rate=1e-6, per_device_train_batch_size=8, eval_fraction=0.2)
    assert open_keys(config) == []
    assert settled(config, None).decisions == {}  # and the file that is not there was not read
    assert list(decide(made(learning_rate=3e-6), "dpo", RunSize(100, 100, 1))) == [
        "eval_fraction",
        "per_device_train_batch_size",
    ]
    held = decide(made(eval_dataset="held.jsonl"), "dpo", RunSize(500, 500, LARGE))
    assert held["eval_fraction"].value == 0
    assert held["per_device_train_batch_size"].value == 8  # 500 / 8 = 62 steps


def test_rates_by_method_size_and_lora() -> None:
    assert family(made(RewardConfig), "bradley_terry") == "reward"
    assert family(made(), "orpo") == "orpo"
    assert family(made(), "ipo") == family(made(), "an_objective_of_tomorrow") == "preference"
    assert family(made(SFTConfig)) == "sft"
    rewards = [{"verifier": "constraints"}]
    assert family(made(IterateConfig, rewards=rewards), "dpo") == "preference"
    for row in RATES.values():
        assert [one.full for one in row] == sorted((one.full for one in row), reverse=True)
        assert all(one.lora > one.full for one in row)
    for size, column in ((130_000, 0), (LARGE, 1), (1_500_000_000, 2), (8_000_000_000, 3)):
        assert usual_rate("preference", size, lora=False) == RATES["preference"][column].full
        assert usual_rate("preference", size, lora=True) == RATES["preference"][column].lora


def test_a_key_that_is_still_auto_is_no_number() -> None:
    assert fixed(0.1) == 0.1
    with pytest.raises(ConfigError, match="still 'auto'"):
        fixed("auto")


def test_the_trap_of_500_pairs() -> None:
    """8 steps at 1e-6 are 8e-6 of the 60 · 2e-5 = 1.2e-3 that are usual; 112 steps at 2e-5 are 2.2e-3."""
    old = made(learning_rate=1e-6)
    (found,) = lint_schedule(old, 8, objective=LOSS, num_parameters=LARGE)
    assert (found.code, found.severity) == ("AL213", "warning")
    assert found.sentence.startswith("8 steps of 1e-06 will hardly move this model: usual are 60 steps")
    new = made(learning_rate=2e-5)
    assert lint_schedule(new, 112, objective=LOSS, num_parameters=LARGE) == []
    assert lint_schedule(new, 30, objective=LOSS, num_parameters=LARGE) == []
    assert [f.code for f in lint_schedule(new, 29, objective=LOSS, num_parameters=LARGE)] == ["AL213"]
    assert [f.code for f in lint_schedule(new, 1, objective=MARKS, num_parameters=LARGE)] == ["AL213"]


GIVEN: dict[str, Any] = {
    "dataset": "x.jsonl",
    "labels": "labels",
    "reward_model": "runs/reward",
    "human": "human.jsonl",
    "ai": "ai.jsonl",
    "models": ["tiny"],
    "sets": [{"kind": "prompts", "path": "x.jsonl"}],
    "before": "tiny",
    "after": "tiny",
    "run": "runs/ppo",
    "policy": "runs/dpo",
    "reference": "tiny",
    "comparison": "runs/compare",
    "rewards": [{"verifier": "constraints"}],
    "judges": [{"model": "tiny"}],
}


def required(stage: str) -> dict[str, Any]:
    fields = find_stage(stage).config.model_fields
    return {"output_dir": "out"} | {key: GIVEN[key] for key, field in fields.items() if field.is_required()}


def without(keys: dict[str, Any], stage: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in required(stage)}


@pytest.mark.parametrize("stage", stage_names())
def test_init_recipes_train_and_python_have_one_set_of_defaults(stage: str) -> None:
    given = required(stage)
    wanted = flatten(*resolve(stage, given))
    init = re.sub(r"(?m)^# (\w+: )", r"\1", starter_recipe(stage))  # every commented default taken
    known = stage_schema(stage)["properties"]
    lines = [line for line in init.splitlines()[1:] if line.partition(": ")[0] in known]
    written = {k: e.value for k, e in parse_recipe("\n".join(lines), file="init").entries.items()}
    assert flatten(*resolve(stage, {**written, **given})) == wanted
    method = find_method(stage)
    if method.is_shipped and not method.recipe.stages:
        entries = {k: e.value for k, e in method.recipe.entries.items() if k != "stage"}
        found = flatten(*resolve(stage, {**given, **entries}))
        assert without(found, stage) == without(wanted, stage)
    for name, of in methods.class_names().items():
        if of == stage:
            config = getattr(methods, name)(**given)
            assert flatten(*config.resolved()) == wanted


@pytest.mark.parametrize(
    "member", ["bradley_terry", "odin", "plackett_luce", "regression", "lipo_lambda", "group_relative"]
)
def test_members_of_a_stage_train_with_its_defaults(member: str) -> None:
    """Their recipes set what makes the method (`objective`, `method`, and the paper's own strength)."""
    method = find_method(member)
    entries = {k: e.value for k, e in method.recipe.entries.items() if k != "stage"}
    found = flatten(*resolve(method.stage, {**required(method.stage), **entries, member_key(member): member}))
    plain = flatten(*resolve(method.stage, {**required(method.stage), member_key(member): member}))
    differing = {key for key, value in found.items() if plain[key] != value}
    assert differing <= {"normalize", "beta"}


def member_key(member: str) -> str:
    return stage_of_method(member)[1]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"What is {i} plus 2?", "chosen": f"It is {i + 2}.", "rejected": f"Not {i}!"}
        for i in range(40)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_run_holds_numbers_and_their_reasons(pairs: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"dataset": str(pairs), "model_name_or_path": "tiny", "max_steps": 2}
    run = alignloop.train("dpo", output_dir=str(tmp_path / "run"), **keys)
    recipe = Run.open(run.path).config()
    assert (recipe["eval_fraction"], recipe["per_device_train_batch_size"]) == (0.1, 4)
    assert recipe["learning_rate"] == usual_rate("preference", 129_728, lora=False)
    decided = run.record["decided"]
    assert list(decided) == ["eval_fraction", "per_device_train_batch_size", "learning_rate"]
    assert decided["learning_rate"]["reason"].startswith("preferences, 0.13 M parameters, all weights")
    assert run.results["eval_rows"] == 4  # a tenth of 40 prompts
    again = alignloop.train("dpo", output_dir=str(tmp_path / "run"), **keys)
    assert again.record["created"] == run.record["created"]  # the same settings: used again


def test_a_run_keeps_its_numbers(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed under one table of rates and continued under another one: the first one's numbers hold."""
    out = str(tmp_path / "run")
    keys: dict[str, Any] = {"dataset": str(pairs), "model_name_or_path": "tiny", "output_dir": out}
    plan = make_plan(Recipe(), located(keys), stage="dpo")
    first, decisions = settle_defaults(plan.stages[0])
    with Run.create(out, stage="dpo", config=first.keys, seed=42, inputs=stage_inputs(first)[0]) as begun:
        begun.set_decided({key: one._asdict() for key, one in decisions.items()})
        begun.interrupt()
    column = RATES["preference"][0]
    changed = {**RATES, "preference": (column._replace(full=column.full * 2), *RATES["preference"][1:])}
    monkeypatch.setattr("alignloop.config.defaults.RATES", changed)
    second, _ = settle_defaults(plan.stages[0])
    assert second.config == first.config
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    moved = plan.stages[0].config.model_copy(
        update={"output_dir": str(tmp_path / "x"), "num_train_epochs": 9.0}
    )
    longer, _ = settle_defaults(replace(plan.stages[0], config=moved), checkpoint)
    assert longer.config.learning_rate == first.config.learning_rate  # pyright: ignore
    elsewhere = plan.stages[0].config.model_copy(update={"output_dir": str(tmp_path / "new")})
    assert settled(elsewhere, LOSS).config.learning_rate == 2 * column.full  # pyright: ignore


def test_rows_and_model_are_read_once(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a run and by a dry run, which both ask for numbers first; changed rows are read again."""
    from alignloop.stages import defaults

    read: list[str] = []
    monkeypatch.setattr(defaults, "_left", {})
    for name in ("read_records", "load_skeleton"):
        original = getattr(defaults, name)
        monkeypatch.setattr(
            defaults, name, lambda *a, _of=original, _name=name, **k: (read.append(_name), _of(*a, **k))[1]
        )
    keys: dict[str, Any] = {"dataset": str(pairs), "model_name_or_path": "tiny", "max_steps": 1}
    alignloop.train("dpo", output_dir=str(tmp_path / "run"), **keys)
    assert read == ["read_records", "load_skeleton"]
    read.clear()
    config: Any = resolve("dpo", {**keys, "output_dir": "x"}).config
    objective = DPO()
    settled = defaults.settled(config, objective).config
    assert isinstance(settled, TrainConfig)
    assert len(defaults.counted_records(settled, objective.records).records) == 40
    defaults.read_skeleton(settled)
    assert read == ["read_records"]  # no stage has asked for the skeleton, which is still that of the run
    defaults.settled(config, objective)
    pairs.write_text(pairs.read_text(encoding="utf-8") * 2, encoding="utf-8")
    assert len(defaults.counted_records(settled, objective.records).records) == 80
