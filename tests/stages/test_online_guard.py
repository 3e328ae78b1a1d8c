"""Alarms, what they lead to, and which weights stay, on whole runs of the tiny model."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop.runs import Run
from alignloop.stages import scoring
from alignloop.stages.reward_model import Combination
from tests.stages.task import recipe, run_stage

SMALL = {"num_generations": 8, "rollout_prompts": 6, "per_device_train_batch_size": 6, "guard_window": 1}
SMALL |= {"beta": 0.0, "max_steps": 12}
BANDIT = {"rewards": [{"function": "tests.stages.task:is_b"}]}
HARM = {**BANDIT, "gold": "exact", "gold_drop": 0.1}
"""Gold is the letter asked for, the reward is b: the reward can only rise by giving up gold."""
ALARMS = {
    "kl_over_budget": {**BANDIT, "kl_budget": 0.3},
    "entropy_collapse": {**BANDIT, "entropy_factor": 0.5},
    "length_growth": {
        "rewards": [{"function": "tests.stages.task:lengths"}],
        "length_factor": 1.5,
        "temperature": 2.0,
        "max_new_tokens": 12,
    },
    "reward_up_gold_down": HARM,
    "spread_growth": {"rewards": [{"model": "bold"}, {"model": "shy"}], "spread_factor": 1.5},
}


class Factor:
    """A reward model that scores the answer b with a number of its own: bold 3, shy −1."""

    num_members, combination = 1, Combination()

    def __init__(self, path: str, **_: object) -> None:
        self.factor = {"bold": 3.0, "shy": -1.0}[path]

    def score(
        self, prompts: list[object], completions: list[list[str]], *, member: int | None = None
    ) -> list[list[float]]:
        return [[self.factor * (text == "b") for text in texts] for texts in completions]


@pytest.fixture(autouse=True)
def two_reward_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of an ensemble that differ the more, the more often the policy says b."""
    monkeypatch.setattr(scoring, "RewardModel", Factor)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("alarm", ALARMS)
def test_each_alarm_ends_the_run(tmp_path: Path, alarm: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_stage("grpo", recipe(tmp_path, **SMALL, **ALARMS[alarm], on_alarm="stop"))
    assert run.record["results"]["ended_by"] == alarm
    rows = list(run.metrics())
    assert 0 < len(rows) < 12
    assert rows[-1][f"alarm_{alarm}"] == 1.0
    assert not any(f"alarm_{alarm}" in row for row in rows[:-1])
    assert any(re.match(rf"rollout \d+: {alarm}: ", text) for text in run.record["warnings"])
    assert f": {alarm}: " in capsys.readouterr().err


def test_a_warning_lets_the_run_go_on(tmp_path: Path) -> None:
    run = run_stage("grpo", recipe(tmp_path, **SMALL, **ALARMS["kl_over_budget"], on_alarm="warn"))
    assert "ended_by" not in run.record["results"]
    rows = list(run.metrics())
    assert rows[-1]["step"] == 12
    assert sum("alarm_kl_over_budget" in row for row in rows) > 1
    assert sum("kl_over_budget" in text for text in run.record["warnings"]) == 1


@pytest.mark.parametrize("follow", ["gold", "reward"])
@pytest.mark.parametrize("on_alarm", ["warn", "rollback"])
def test_the_best_weights_are_those_of_their_step(tmp_path: Path, follow: str, on_alarm: str) -> None:
    keys = {**SMALL, **HARM, "keep_best": follow, "on_alarm": on_alarm, "save_steps": 3}
    run = run_stage("grpo", recipe(tmp_path, **keys))
    results = run.record["results"]
    assert ("ended_by" in results) == (on_alarm == "rollback")
    rows = [row for row in run.metrics() if follow in row]
    step, best = results["best"]["step"], max(row[follow] for row in rows)
    assert results["best"]["value"] == pytest.approx(best)
    assert rows[step][follow] == best  # measured by the rollout after so many steps
    if step == 0:
        assert same(weights(run), load_file(tmp_path / "start/model.safetensors"))
        return
    plain = {**SMALL, **HARM, "output_dir": str(tmp_path / "plain")}
    shorter = run_stage("grpo", recipe(tmp_path, **{**plain, "max_steps": step}))
    assert same(weights(run), weights(shorter))
