"""Held-out rows: never all of them, never half a prompt."""

import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import mean_interval, rate_interval
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.sft import SFT
from alignloop.stages.held_out import held_out_intervals, hold_out
from alignloop.training.held_out import GroupMeans, evaluate
from alignloop.training.reference import with_reference_logprobs
from tests.training.helpers import make_trainer, pair_groups


def groups(*prompts: int) -> list[Group]:
    return [Group(np.array([p], np.int32), (completion([5, i]),), i) for i, p in enumerate(prompts)]


def test_rows_of_one_prompt_leave_nothing_to_train_on() -> None:
    """50 rows of one prompt were all held out, and training "finished" with loss 0."""
    with pytest.raises(DataError, match=r"eval_fraction 0\.1: the 50 rows have one prompt"):
        hold_out(groups(*[7] * 50), 0.1, 0)
    assert hold_out(groups(7, 7), 0.0, 0)[1] == []


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_at_least_one_prompt_on_each_side(fraction: float) -> None:
    train, held = hold_out(groups(1, 1, 2, 2, 2), fraction, 3)
    assert {len(train), len(held)} == {2, 3}


def test_documents_are_held_out_one_by_one() -> None:
    """Documents have no prompt; they are not one prompt for that."""
    made = [Group(np.zeros(0, np.int32), (completion([5, i]),), i) for i in range(10)]
    train, held = hold_out(made, 0.2, 0)
    assert (len(train), len(held)) == (8, 2)


def test_intervals_of_held_out_means_are_those_of_their_prompts() -> None:
    rng = np.random.default_rng(3)
    losses, right = rng.normal(0.6, 0.2, 30), rng.random(30) < 0.7
    asked = [bytes([i // 2]) for i in range(30)]  # two rows of each prompt
    each = [
        GroupMeans(question, {"loss": (loss, 1.0), "accuracy": (float(hit), 1.0)})
        for question, loss, hit in zip(asked, losses, right, strict=True)
    ]
    found = held_out_intervals(each, 7)
    loss, accuracy = mean_interval(losses, asked, seed=7), rate_interval(right.astype(float), asked)
    assert found == pytest.approx(
        {
            "eval_loss_low": loss.low,
            "eval_loss_high": loss.high,
            "eval_accuracy_low": accuracy.low,
            "eval_accuracy_high": accuracy.high,
        }
    )
    assert held_out_intervals(each[:8], 7) == {}  # four prompts
    assert held_out_intervals([*each, GroupMeans(b"x", {"loss": (float("nan"), 1.0)})], 7).keys() == {
        "eval_accuracy_low",
        "eval_accuracy_high",
    }


def test_a_long_row_weighs_by_its_tokens_in_the_interval_too() -> None:
    """20 rows of 1 nat a token; one of 3 nats with as many tokens as half of them."""
    each = [GroupMeans(bytes([i]), {"loss": (10.0, 10.0)}) for i in range(20)]
    found = held_out_intervals([*each, GroupMeans(b"long", {"loss": (300.0, 100.0)})], 0)
    mean = (200 + 300) / 300
    assert found["eval_loss_low"] < mean < found["eval_loss_high"]


@pytest.mark.parametrize("objective", [SFT(), DPO(), BradleyTerry()], ids=["sft", "dpo", "reward"])
@pytest.mark.parametrize("budget", [40, 4096])
def test_groups_of_held_out_rows_add_up_to_their_means(objective, budget) -> None:
    trainer = make_trainer(budget=budget, head=isinstance(objective, BradleyTerry))
    groups = pair_groups(7)
    if isinstance(objective, DPO):
        groups, _ = with_reference_logprobs(groups, make_trainer(seed=1).model, token_budget=100)
    each: list[GroupMeans] = []
    means = evaluate(trainer, objective, groups, each)
    assert means == evaluate(trainer, objective, groups)
    assert sorted(one.question for one in each) == sorted(group.question for group in groups)
    for name in ("loss", "margin", "accuracy", "chosen_reward"):
        if f"eval_{name}" in means:
            total, count = np.sum([one.means[name] for one in each], axis=0)
            assert total / count == pytest.approx(means[f"eval_{name}"], rel=1e-5, abs=1e-6), name
