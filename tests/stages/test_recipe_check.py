"""The linter at work: clean recipes give no alarm, seeded faults stop a stage before its first step."""

import json
import re
from pathlib import Path

import pytest

import alignloop
from alignloop.cli import doctor
from alignloop.config import StagePlan, find_stage, make_plan, parse_overrides, read_recipe
from alignloop.config.rl import IterateConfig, OnlineConfig
from alignloop.errors import ConfigError
from alignloop.runs import Run
from alignloop.stages.recipe_check import lint_recipe
from tests.stages.task import run_stage

ROOT = Path(alignloop.__file__).parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
NUM_ROWS = 24


def rows_of(kind, number):
    prompt = f"Question {number}: which number comes after {number}?"
    right, wrong, worse = f"It is {number + 1}.", f"It is {number + 2}.", "숫자입니다."
    return {
        "document": {"text": f"After {number} comes {number + 1}, and then {number + 2}."},
        "prompt": {"prompt": prompt},
        "demonstration": {"prompt": prompt, "completion": right},
        "preference": {"prompt": prompt, "chosen": right, "rejected": wrong},
        "label": {"prompt": prompt, "completion": right, "label": number % 2 == 0},
        "rating": {"prompt": prompt, "completion": right, "scores": {"help": number % 6, "truth": 5}},
        "ranking": {"prompt": prompt, "responses": [wrong, right, worse], "ranking": [2, 1, 3]},
    }[kind]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for kind in ("document", "prompt", "demonstration", "preference", "label", "rating", "ranking"):
        lines = [json.dumps(rows_of(kind, number), ensure_ascii=False) for number in range(NUM_ROWS)]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def kind_of(stage: StagePlan) -> str:
    if isinstance(stage.config, OnlineConfig | IterateConfig) or stage.stage == "best_of_n":
        return "prompt"
    if stage.objective is None:
        return "document" if stage.stage == "pretrain" else "demonstration"
    return stage.objective.records[0]


def linted_stages():
    """Stages with a linter of the recipes that need nothing but rows from their user."""
    found = []
    for file in RECIPES:
        recipe = read_recipe(file)
        words = ["dataset=x"] if not recipe.stages else []
        words += [
            f"{item['stage'].value}.dataset=x"
            for item in recipe.stages
            if "dataset" not in item and "dataset" in find_stage(item["stage"].value).config.model_fields
        ]
        more = {"best_of_n": ["reward_model=gold"]}.get(file.stem, [])
        try:
            plan = make_plan(recipe, parse_overrides([*words, *more]), output_dir="runs/x")
        except ConfigError:  # wants paths of something else, and has no linter
            continue
        found += [(f"{file.stem}:{stage.name}", stage) for stage in plan.stages if stage.spec.lint]
    return dict(found)


STAGES = linted_stages()


def test_enough_recipes_are_looked_at():
    assert len({name.partition(":")[0] for name in STAGES}) >= 10


@pytest.mark.parametrize("name", STAGES)
def test_a_clean_recipe_gives_no_alarm(name, data):
    stage = STAGES[name]
    keys = {"dataset": str(data / f"{kind_of(stage)}.jsonl"), "model_name_or_path": "tiny"}
    if getattr(stage.config, "eval_dataset", None) is not None:
        keys["eval_dataset"] = None  # an earlier stage makes it
    config = stage.config.model_copy(update=keys)
    found = lint_recipe(config, stage.objective)
    of_these_rows = ("AL213", "AL114")  # few, and half desirable where the recipe has a fifth
    assert [one for one in found if not one.startswith(of_these_rows)] == []
    assert lint_recipe(stage.config, stage.objective, read=False) == []


def test_every_code_is_explained_and_no_other():
    used = {c for f in ROOT.rglob("*.py") for c in re.findall(r"AL\d{3}", f.read_text(encoding="utf-8"))}
    page = (ROOT.parent / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (AL\d{3}) \| (\S[^|]*) \| [^|]{20,} \| [^|]{5,} \|$", page, re.MULTILINE)
    assert [code for code, _ in rows] == sorted(used)
    assert {kind.split(",")[0] for _, kind in rows} == {"error", "warning", "refused"}


def keys_for(data, tmp_path, kind, **keys):
    return {
        "model_name_or_path": "tiny",
        "dataset": str(data / f"{kind}.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
        "num_threads": 1,
        **keys,
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_fault_stops_training_before_step_1(data, tmp_path):
    rows = [{**rows_of("label", number), "label": True} for number in range(8)]
    keys = keys_for(data, tmp_path, "label", dataset=write(tmp_path / "good.jsonl", rows))
    with pytest.raises(ConfigError, match="AL111 error: all rows are desirable"):
        run_stage("kto", keys)
    assert list(Run.open(tmp_path / "run").metrics()) == []


def test_warnings_are_told_and_kept_and_training_goes_on(data, tmp_path, capsys):
    rows = [rows_of("preference", number) for number in range(8)]
    rows.append({**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]})
    keys = keys_for(data, tmp_path, "preference", dataset=write(tmp_path / "both.jsonl", rows))
    run = run_stage("orpo", keys)
    assert "warning: AL110: 2 of 9 rows (first: row 1) contradict another row" in capsys.readouterr().err
    assert any(text.startswith("AL110") for text in run.record["warnings"])
    assert len(list(run.metrics())) == 1


@pytest.mark.parametrize(
    ("stage", "kind", "more", "code"),
    [
        ("dpo", "preference", {"reference": "none"}, "AL207"),
        ("kto", "label", {"per_device_train_batch_size": 1}, "AL205"),
        ("sft", "demonstration", {"max_length": 64, "overlength": "truncate", "dataset": "long"}, "AL103"),
        ("reward", "preference", {"max_length": 4000, "dataset": "long"}, "AL115"),
    ],
)
def test_doctor_and_train_agree(data, tmp_path, stage, kind, more, code, capsys):
    keys = keys_for(data, tmp_path, kind, **more)
    if keys["dataset"] == "long":
        long = "many words " * 400
        row = (
            {"prompt": "p", "completion": long}
            if stage == "sft"
            else {"prompt": "p", "chosen": long, "rejected": "x"}
        )
        keys["dataset"] = write(tmp_path / "long.jsonl", [row] * 2)
    with pytest.raises(ConfigError, match=f"{code} error"):
        run_stage(stage, keys)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"stage": stage, **keys}), encoding="utf-8")  # JSON is YAML
    with pytest.raises(doctor.typer.Exit):
        doctor.check_recipe(str(recipe), [], as_json=True)
    (found,) = {line for line in json.loads(capsys.readouterr().out)["findings"] if code in line}
    assert found.startswith(f"{stage}: {code} error: ")


def test_doctor_finds_a_wrong_reference(data, tmp_path):
    from alignloop.model.save import save_model
    from alignloop.model.tiny import tiny_model

    save_model(*tiny_model(num_layers=3), tmp_path / "other")
    keys = keys_for(data, tmp_path, "preference", reference=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"AL208 error: reference: .* is another architecture"):
        run_stage("dpo", keys)
    save_model(*tiny_model(texts=("other words make another tokenizer",)), tmp_path / "third")
    keys["reference"], keys["output_dir"] = str(tmp_path / "third"), str(tmp_path / "again")
    with pytest.raises(ConfigError, match=r"AL208 error: reference: .* has another tokenizer"):
        run_stage("dpo", keys)
    save_model(*tiny_model(seed=5), tmp_path / "fine")
    keys["reference"], keys["output_dir"] = str(tmp_path / "fine"), str(tmp_path / "fine run")
    report = list(run_stage("dpo", keys).metrics())
    assert report[0]["loss"] != pytest.approx(0.6931, abs=1e-4)  # another model's log-probs
