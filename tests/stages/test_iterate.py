from pathlib import Path

import numpy as np
import pytest

from alignloop.config import resolve
from alignloop.config.rl import IterateConfig
from alignloop.data.columns import write_records
from alignloop.errors import DataError
from alignloop.model.scheduler import Sampled
from alignloop.records import Label, Message, Preference, Prompt
from alignloop.runs import Run
from alignloop.stages.iterate import compared, comparisons
from tests.stages.task import recipe, run_stage

ITERATE = {"output_dir": "x", "dataset": "y", "num_generations": 2}
ITERATE |= {"rewards": [{"function": "tests.stages.task:is_b"}]}
PROMPT = Prompt((Message("user", "질문"),))


def test_best_is_compared_with_worst_and_ties_are_left_out() -> None:
    texts, values = ["a", "b", "", "c", "d"], np.array([1.0, 3.0, 9.0, 2.0, 3.0])
    rows = comparisons(PROMPT, texts, values, 2, labels=False, source="m")
    assert [(r.chosen, r.rejected) for r in rows if isinstance(r, Preference)] == [("b", "a"), ("d", "c")]
    assert comparisons(PROMPT, ["a", "b"], np.array([1.0, 1.0]), 1, labels=False, source="m") == []
    labels = comparisons(PROMPT, ["a", "b"], np.array([1.0, 2.0]), 1, labels=True, source="m")
    found = [(r.completion, r.desirable) for r in labels if isinstance(r, Label)]
    assert found == [
        ("b", True),
        ("a", False),
    ]


def test_a_round_whose_answers_are_all_worth_the_same_is_said(tmp_path: Path) -> None:
    keys = recipe(tmp_path, num_generations=2, rewards=[{"function": "tests.stages.test_grpo:equal"}])
    keys = {k: v for k, v in keys.items() if k not in ("rollout_prompts", "log_samples")}
    with pytest.raises(DataError, match="round 1: every prompt's answers have the same reward"):
        run_stage("iterate", keys)
    assert Run.open(tmp_path / "run").status == "failed"
    best = {name: keys[name] for name in ("model_name_or_path", "dataset", "max_new_tokens", "num_threads")}
    best |= {"reward_model": "gold", "n": 2, "max_new_tokens": 1, "output_dir": str(tmp_path / "best")}
    rows = [
        Prompt((Message("user", letter),), constraints=({"kind": "min_words", "limit": 99},))
        for letter in "ab"
    ]
    write_records(tmp_path / "hard.jsonl", rows)
    with pytest.raises(DataError, match="every prompt's answers have the same reward, so none is best"):
        run_stage("best_of_n", {**best, "dataset": str(tmp_path / "hard.jsonl")})


def test_a_cut_answer_is_worth_what_missing_eos_says(tmp_path: Path) -> None:
    config = resolve("iterate", {**ITERATE, "missing_eos": "replace", "missing_eos_value": -5.0}).config
    assert isinstance(config, IterateConfig)
    done = [[Sampled([5], [-1.0], "b", "eos"), Sampled([5, 6], [-1.0, -1.0], "b b", "length")]]
    fresh = compared(config, [PROMPT], done, "m", 0, labels=False)
    assert fresh.reward == (1.0 - 5.0) / 2
    assert [(r.chosen, r.rejected) for r in fresh.rows if isinstance(r, Preference)] == [("b", "b b")]


def test_rounds_raise_the_reward(tmp_path: Path) -> None:
    keys = recipe(tmp_path, num_generations=16, pairs_per_prompt=8, rounds=4, num_train_epochs=3)
    keys = {k: v for k, v in keys.items() if k not in ("rollout_prompts", "log_samples")}
    run = run_stage("iterate", {**keys, "learning_rate": 3e-4})
    rewards = [row["reward"] for row in run.metrics()]
    assert rewards[-1] > rewards[0] + 0.1
    assert (run.path / "rounds" / "4-rows.jsonl").exists()
    assert (run.model / "model.safetensors").exists()
