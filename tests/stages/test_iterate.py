from pathlib import Path

import numpy as np

from alignloop.records import Label, Message, Preference, Prompt
from alignloop.stages.iterate import comparisons
from tests.stages.task import recipe, run_stage

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


def test_rounds_raise_the_reward(tmp_path: Path) -> None:
    keys = recipe(tmp_path, num_generations=16, pairs_per_prompt=8, rounds=4, num_train_epochs=3)
    keys = {k: v for k, v in keys.items() if k not in ("rollout_prompts", "log_samples")}
    run = run_stage("iterate", {**keys, "learning_rate": 3e-4})
    rewards = [row["reward"] for row in run.metrics()]
    assert rewards[-1] > rewards[0] + 0.1
    assert (run.path / "rounds" / "4-rows.jsonl").exists()
    assert (run.model / "model.safetensors").exists()
