"""What objectives report beside their loss, by hand. One number a row, so that each can be seen alone."""

import math

import pytest
import torch

from alignloop.objectives.base import with_statistics
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.listwise import Listwise
from alignloop.objectives.odin import Odin
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.plackett_luce import PlackettLuce
from alignloop.objectives.ppo import PPO
from alignloop.objectives.simpo import SimPO


def values(output) -> dict[str, float]:
    return {name: mean.value for name, mean in output.metrics.items()}


def test_kto(make_inputs, evaluate) -> None:
    """Log-ratios 0.5 (desirable), −2 (undesirable), and 0.5 and 1.5 of the mismatched rows: z = 1."""
    inputs = make_inputs(
        [[1]] * 4,
        [0, 0, 1, 1],
        logprobs=[[-1.0], [-2.0], [-3.0], [-4.0]],
        reference_logprobs=[[-1.5], [-2.5], [-1.0], [-5.5]],
        mismatched=[False, True, False, True],
        desirable=[True, True, False, True],
    )
    assert values(evaluate(KTO(beta=0.5), inputs, 2.0)) == {
        "chosen_reward": 0.25,
        "rejected_reward": -1.0,
        "chosen_logprob": -1.0,
        "rejected_logprob": -3.0,
        "reference_point": 1.0,
    }


@pytest.mark.parametrize("method", ["plackett_luce", "lipo_lambda", "group_relative"])
def test_listwise(make_inputs, evaluate, method) -> None:
    """Log-ratios 1, 0 and −1 of the second, the best and the last: gaps −1, 1 and 2."""
    inputs = make_inputs(
        [[1]] * 3,
        [0] * 3,
        logprobs=[[-1.0], [-2.0], [-3.0]],
        reference_logprobs=[[-2.0]] * 3,
        old_logprobs=[[-2.0]] * 3,
        ranks=[2, 1, 3],
    )
    found = values(evaluate(Listwise(method=method, beta=0.5), inputs, 1.0))
    beta = 1.0 if method == "group_relative" else 0.5
    if method == "group_relative":
        # advantages 0, + and −; ratios e, 1 and 1/e: only the last one's clip at 0.8 binds
        assert found.pop("clip_fraction") == pytest.approx(1 / 3)
    assert found == pytest.approx(
        {
            "accuracy": 2 / 3,
            "margin": beta * 2 / 3,
            "chosen_reward": 0.0,
            "rejected_reward": -beta,
            "chosen_logprob": -2.0,
            "rejected_logprob": -3.0,
        }
    )


def test_orpo(make_inputs, evaluate) -> None:
    """Mean log-probs −1 of one token and −2 of two. odds(−1) / odds(−2) = (e² − 1)/(e − 1) = e + 1."""
    inputs = make_inputs([[1, 0], [1, 1]], [0, 0], logprobs=[[-1.0, -9.0], [-1.0, -3.0]])
    assert values(evaluate(ORPO(lam=0.5), inputs, 1.0)) == pytest.approx(
        {
            "chosen_reward": -0.5,
            "rejected_reward": -1.0,
            "margin": 0.5,
            "accuracy": 1.0,
            "chosen_logprob": -1.0,
            "rejected_logprob": -4.0,
            "nll": 1.0,
            "log_odds_ratio": math.log(math.e + 1),
        }
    )


@pytest.mark.parametrize(
    ("objective", "chosen", "rejected"),
    [
        # log-ratios 1, and −1 and −2: their mean or their sum, times β = ½
        (IPO(beta=0.5), 0.5, -0.75),
        (IPO(beta=0.5, reduction="sum"), 0.5, -1.5),
        # mean log-probs −1 and −2, times β = 2
        (SimPO(beta=2.0), -2.0, -4.0),
    ],
)
def test_ipo_and_simpo(make_inputs, evaluate, objective, chosen, rejected) -> None:
    inputs = make_inputs(
        [[1, 0], [1, 1]],
        [0, 0],
        logprobs=[[-1.0, -9.0], [-1.0, -3.0]],
        reference_logprobs=[[-2.0, -9.0], [0.0, -1.0]],
    )
    assert values(evaluate(objective, inputs, 1.0)) == pytest.approx(
        {
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "margin": chosen - rejected,
            "accuracy": 1.0,
            "chosen_logprob": -1.0,
            "rejected_logprob": -4.0,
        }
    )


def test_odin(make_inputs, evaluate) -> None:
    """Quality prefers the second row, the longer first one wins with length; two points lie on a line."""
    inputs = make_inputs([[1, 1, 1], [1, 0, 0]], [0, 0], scores=[[0.0, 2.0], [1.0, 0.0]])
    assert values(evaluate(Odin(), inputs, 1.0)) == pytest.approx(
        {
            "accuracy": 0.0,
            "accuracy_with_length": 1.0,
            "margin": -1.0,
            "chosen_reward": 0.0,
            "rejected_reward": 1.0,
            "quality_tokens_correlation": -1.0,
            "length_tokens_correlation": 1.0,
            "quality_length_correlation": -1.0,
        }
    )


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_odins_correlations_do_not_depend_on_the_scale(make_inputs, evaluate, scale) -> None:
    """Spread is measured against the size: scores of ±10⁻⁹ have one, equal scores of 10⁹ have none."""
    spread = [[scale * (1 + 1.5e-6), 0.0], [scale * (1 - 1.5e-6), 0.0]]
    inputs = make_inputs([[1, 1], [1, 0]], [0, 0], scores=spread)
    found = values(evaluate(Odin(), inputs, 1.0))
    assert found["quality_tokens_correlation"] == pytest.approx(1.0, abs=1e-3)
    assert found["length_tokens_correlation"] == 0.0
    level = make_inputs([[1, 1], [1, 0], [1, 0]], [0, 0, 0], scores=[[scale / 3, 0.0]] * 3, ranks=[1, 2, 3])
    assert values(evaluate(Odin(), level, 1.0))["quality_tokens_correlation"] == 0.0


def test_ppo(make_inputs) -> None:
    """Tokens at ratio 1 and at an unmoved value are not clipped. KL: d²/2 of 0.5 and −1."""
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[-1.0, -2.0]],
        old_logprobs=[[-1.0, -2.0]],
        reference_logprobs=[[-1.5, -1.0]],
        sampler_logprobs=[[-1.5, -9.0]],
        entropy=[[0.2, 0.6]],
        advantages=[[1.0, -3.0]],
        values=[[0.5, 2.0]],
        old_values=[[0.5, 2.0]],
        returns=[[1.0, 3.0]],
    )
    objective = PPO()
    inputs = with_statistics(inputs, objective.step_statistics(inputs))
    assert values(objective(inputs, denominator=2.0)) == pytest.approx(
        {
            "policy_loss": (-math.exp(0.5) + 2 * 3) / 2,  # the weights e^0.5 and 2, the cap
            "ratio": 1.0,
            "clip_fraction": 0.0,
            "approx_kl": 0.0,
            "sampler_weight": (math.exp(0.5) + 2) / 2,
            "kl": (0.125 + 0.5) / 2,
            "entropy": 0.4,
            "value_loss": (0.125 + 0.5) / 2,
            "value_clip_fraction": 0.0,
            "value": 1.25,
            "return": 2.0,
            "explained_variance": 1 - (0.25 + 1) / 2,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("objective", "known"),
    [(BradleyTerry(), {}), (BradleyTerry(), {"ranks": [1, 2]}), (PlackettLuce(), {"ranks": [1, 2]})],
)
def test_equal_scores_are_no_right_answer(make_inputs, evaluate, objective, known) -> None:
    inputs = make_inputs([[1]] * 2, [0, 0], scores=[[3.0], [3.0]], **known)
    accuracy = evaluate(objective, inputs, 1.0).metrics["accuracy"]
    assert (accuracy.sum.item(), accuracy.count.item()) == (0.0, 1.0)


def test_a_completion_without_counted_tokens_has_no_likelihood(make_inputs, evaluate) -> None:
    """An answer of which nothing counts: an NLL of 0, not 0/0."""
    inputs = make_inputs([[0], [1]], [0, 0], logprobs=[[-1.0], [-2.0]])
    output = evaluate(ORPO(), inputs, 1.0)
    assert values(output)["nll"] == 0.0
    assert torch.isfinite(output.loss)
