"""Plans: recipes of one stage and of many, `@name`, overrides, and the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import alignloop
from alignloop.config import find_stage, make_plan, parse_overrides, read_recipe
from tests.helpers_config import findings, plan_of

RECIPES = sorted((Path(alignloop.__file__).parent / "recipes").glob("*.yaml"))


def test_a_resolved_recipe_reads_back() -> None:
    plan = plan_of("stage: dpo\ndataset: [a.jsonl, {path: b, weight: 2}]\nlr: 1e-5\nbeta: 0.3\n")
    text = yaml.safe_dump(plan.stages[0].keys, allow_unicode=True, sort_keys=False)
    again = plan_of(text)
    assert again.stages == plan.stages


def test_stage_names_that_contradict() -> None:
    assert findings("dataset: a") == ["r.yaml: 'stage' is missing; name it, as in `stage: sft`"]
    assert findings("stage: sft\ndataset: a", stage="dpo") == [
        "r.yaml:1: stage: is 'sft', but 'dpo' was asked for"
    ]
    assert plan_of("dataset: a", stage="kto").stages[0].name == "kto"


PIPELINE = """output_dir: out/loop
learning_rate: 3e-5
max_new_tokens: 32
stages:
  - stage: sft
    dataset: rows.jsonl
  - stage: sample
    model_name_or_path: "@sft"
    dataset: prompts.jsonl
  - stage: dpo
    name: first
    lr: 1e-6
    dataset: ["@sample#10", extra.jsonl]
  - stage: evaluate
    before: "@sft"
    after: "@first/checkpoints/step-5"
    dataset: held_out.jsonl
"""


def test_pipeline() -> None:
    plan = plan_of(PIPELINE, "seed=7", "first.beta=0.2", "sft.seed=8")
    assert [stage.name for stage in plan.stages] == ["sft", "sample", "first", "evaluate"]
    sft, sample, first, evaluate = (stage.keys for stage in plan.stages)
    assert (sft["learning_rate"], first["learning_rate"]) == (3e-5, 1e-6)  # shared, own under another name
    assert (sample["max_new_tokens"], evaluate["max_new_tokens"]) == (32, 32)
    assert (sft["seed"], sample["seed"], first["beta"]) == (8, 7, 0.2)
    assert sample["model_name_or_path"] == "out/loop/sft"
    assert first["dataset"] == ["out/loop/sample#10", "extra.jsonl"]
    assert evaluate["after"] == "out/loop/first/checkpoints/step-5"
    assert first["output_dir"] == "out/loop/first"


def test_pipeline_elsewhere() -> None:
    plan = plan_of(PIPELINE, "output_dir=b")
    assert plan.stages[1].keys["model_name_or_path"] == "b/sft"


def test_pipeline_findings() -> None:
    text = """output_dir: out
lerning_rate: 1
stages:
  - stage: sft
    dataset: a
    model_name_or_path: "@dpo"
  - stage: dpo
    model_name_or_path: "@sfx"
    dataset: a
  - stage: dpo
    dataset: b
  - name: ../x
    stage: sft
  - dataset: c
  - stage: sample
    output_dir: elsewhere
"""
    assert findings(text, "spf.seed=1") == [
        "r.yaml:6: model_name_or_path: '@dpo': stage 'dpo' does not run before this one",
        "r.yaml:8: model_name_or_path: '@sfx': no stage is named 'sfx'; did you mean 'sft'?",
        "r.yaml:10: a stage named 'dpo' exists already; give this one a `name:`",
        "r.yaml:12: name: '../x' is not usable; expected letters, digits, _ and -",
        "r.yaml:14: item 5 of stages has no `stage:`",
        *[line for line in findings(text) if line.startswith("r.yaml:15: 'dataset' is missing")],
        "r.yaml:16: output_dir: belongs to the whole recipe, not to a stage",
        "command line: 'spf.seed': no stage is named 'spf'; did you mean 'sft'?",
    ]


def test_a_shared_key_that_no_stage_has() -> None:
    (line,) = findings("output_dir: o\nlerning_rate: 1\nstages:\n  - stage: sft\n    dataset: a\n")
    assert line == "r.yaml:2: unknown key 'lerning_rate': no stage has it; did you mean 'learning_rate'?"


def test_a_reference_without_stages() -> None:
    assert findings("stage: dpo\ndataset: '@sample'\n") == [
        "r.yaml:2: dataset: '@sample': no stage is named 'sample'; there is no earlier stage"
    ]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_that_come_with_the_package(file: Path) -> None:
    recipe = read_recipe(file)
    words = ["dataset=rows.jsonl"] if not recipe.stages and file.stem != "compare" else []
    for item in recipe.stages:
        name = item["stage"].value
        if "dataset" in find_stage(name).config.model_fields and "dataset" not in item:
            words.append(f"{name}.dataset=rows.jsonl")
    needs = {
        "best_of_n": ["reward_model=runs/reward"],
        "reward_bench": ["reward_model=runs/reward"],
        "evaluate": ["after=runs/dpo"],
        "loop": ["labels=my-labels"],
        "mixed": ["mix.human=human.jsonl", "mix.ai=runs/judge"],
    }
    needs["compare"] = ["models=[runs/sft, runs/dpo]", "sets=[{kind: exact, path: gsm8k.jsonl}]"]
    plan = make_plan(recipe, parse_overrides([*words, *needs.get(file.stem, [])]), output_dir="runs/x")
    assert plan.stages
    assert not plan.notices
    assert file.read_text(encoding="utf-8").startswith("# ")
