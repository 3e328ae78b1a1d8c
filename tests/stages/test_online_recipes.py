"""The recipes of online RL that come with AlignLoop, to their end on the tiny model."""

import json
from pathlib import Path

import pytest

from alignloop.config import make_plan, parse_overrides, read_recipe
from alignloop.config.shipped import SHIPPED
from alignloop.pipeline import run_plan
from alignloop.runs import Run

STEP = {"per_device_train_batch_size": 4, "max_steps": 2}
ROLLOUT = {"rollout_prompts": 4, **STEP}
EVALUATE = {"num_prompts": 4, "max_new_tokens": 8}
EASY = "[lowercase, no_commas, quoted, ends_with_question]"
"""Kinds that random text obeys now and then, so that some answers are better than others."""
RECIPES = {
    "rlhf-ppo": {
        "demonstrations": {"num_rows": 12},
        "prompts": {"num_rows": 12, "kinds": EASY},
        "held_out": {"num_rows": 4},
        "sft": {"model_name_or_path": "tiny", **STEP},
        "sample": {"max_new_tokens": 16},
        "feedback": {},
        "reward": STEP,
        "best_of_n": {**STEP, "n": 2, "max_new_tokens": 8},
        "ppo": {**ROLLOUT, "max_steps": 8, "max_new_tokens": 8},
        "evaluate": EVALUATE,
    },
    "grpo-instructions": {
        "prompts": {"num_rows": 12, "kinds": EASY},
        "held_out": {"num_rows": 4},
        "grpo": {"model_name_or_path": "tiny", "num_generations": 4, **ROLLOUT, "max_new_tokens": 8},
        "evaluate": {"before": "tiny", **EVALUATE},
    },
}
"""What makes each stage of a pipeline small; everything else is the recipe's."""


@pytest.mark.parametrize("name", RECIPES)
def test_pipelines_run_to_their_end(tmp_path: Path, name: str) -> None:
    words = [f"{stage}.{key}={value}" for stage, keys in RECIPES[name].items() for key, value in keys.items()]
    plan = make_plan(
        read_recipe(SHIPPED / f"{name}.yaml"), parse_overrides([*words, f"output_dir={tmp_path / 'run'}"])
    )
    outcomes = run_plan(plan, say=lambda text: None)
    assert [outcome.status for outcome in outcomes] == ["finished"] * len(plan.stages)
    assert {outcome.name for outcome in outcomes} == set(RECIPES[name])
    if "evaluate" in RECIPES[name]:
        assert outcomes[-1].results["num_prompts"] == 4
    trained = next(o for o in outcomes if o.stage in ("ppo", "grpo"))
    assert (Run.open(trained.path).model / "model.safetensors").exists()


def test_gsm8k_rows_are_learned_from_as_they_come(tmp_path: Path) -> None:
    file = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It doubles.\n#### {2 * i}"} for i in range(8)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    keys = {"model_name_or_path": "tiny", "dataset": file, "output_dir": tmp_path / "run", **ROLLOUT}
    keys |= {"num_generations": 4, "max_new_tokens": 8, "max_length": 64}
    plan = make_plan(
        read_recipe(SHIPPED / "grpo-gsm8k.yaml"), parse_overrides([f"{k}={v}" for k, v in keys.items()])
    )
    run_plan(plan, say=lambda text: None)
    first = next(Run.open(tmp_path / "run").metrics())
    assert first["gold"] == first["reward"] == first["reward_math"]
