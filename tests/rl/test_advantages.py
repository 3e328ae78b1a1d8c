"""Token rewards, GAE, whitening and group baselines against scalar float64 references."""

import math
import random
import statistics

import pytest
import torch

from alignloop.errors import EngineError, UserError
from alignloop.rl.advantages import (
    MissingEOS,
    decoupled_advantages,
    gae,
    group_advantages,
    per_token,
    rewards_to_come,
    sequence_scores,
    token_rewards,
    whiten,
    zero_spread,
)

# holes in the middle, a row that ends early, one without any counted token
MASK = [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def uniform(seed, low=-2.0, high=2.0):
    generator = random.Random(seed)
    return tensor([[generator.uniform(low, high) for _ in range(5)] for _ in range(4)])


def scalar_gae(rewards, values, gamma, lam):
    """A_t = Σ_l (γλ)^l·δ_{t+l} over the counted tokens alone, by the double sum of the definition."""
    rows = []
    for i, row in enumerate(MASK):
        tokens = [t for t, counts in enumerate(row) if counts]
        advantages = [0.0] * 5
        for k, t in enumerate(tokens):
            for m in range(k, len(tokens)):
                after = values[i][tokens[m + 1]] if m + 1 < len(tokens) else 0.0
                delta = rewards[i][tokens[m]] + gamma * after - values[i][tokens[m]]
                advantages[t] += (gamma * lam) ** (m - k) * delta
        rows.append(advantages)
    return rows


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)])
def test_gae_against_its_definition(gamma, lam):
    rewards, values, mask = uniform(1), uniform(2), torch.tensor(MASK).bool()
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    expected = tensor(scalar_gae(rewards.tolist(), values.tolist(), gamma, lam))
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0), rtol=0, atol=1e-12)


def test_lambda_one_is_the_sum_of_rewards_to_come():
    rewards, values, mask = uniform(1), uniform(2), torch.ones(4, 5).bool()
    _, returns = gae(rewards, values, mask, lam=1.0)
    expected = [[math.fsum(row[t:]) for t in range(5)] for row in rewards.tolist()]
    torch.testing.assert_close(returns, tensor(expected), rtol=0, atol=1e-12)


def test_lambda_zero_is_the_one_step_error():
    rewards, values, mask = uniform(1), uniform(2), torch.ones(4, 5).bool()
    advantages, _ = gae(rewards, values, mask, lam=0.0)
    after = torch.cat([values[:, 1:], torch.zeros(4, 1).double()], dim=1)
    torch.testing.assert_close(advantages, rewards + after - values, rtol=0, atol=1e-15)


def test_masked_tokens_might_as_well_be_absent():
    """What stands in a hole, or behind the end, changes no counted advantage."""
    rewards, values, mask = uniform(1), uniform(2), torch.tensor(MASK).bool()
    plain = gae(rewards, values, mask)
    other = gae(torch.where(mask, rewards, 99.0), torch.where(mask, values, -7.0), mask)
    assert torch.equal(plain[0], other[0])
    assert torch.equal(plain[1], other[1])
    squeezed = gae(rewards[1:2, [0, 2, 3]], values[1:2, [0, 2, 3]], torch.ones(1, 3).bool())
    assert plain[0][1, [0, 2, 3]].tolist() == squeezed[0][0].tolist()


def test_perfect_values_leave_no_advantage():
    """V_t = rewards to come: every advantage is 0."""
    rewards = tensor([[1.0, 2.0, 3.0]])
    advantages, returns = gae(rewards, tensor([[6.0, 5.0, 3.0]]), torch.ones(1, 3).bool())
    assert advantages.tolist() == [[0.0, 0.0, 0.0]]
    assert returns.tolist() == [[6.0, 5.0, 3.0]]


@pytest.mark.parametrize("shift", [True, False])
def test_whiten_against_statistics(shift):
    values, mask = uniform(3), torch.tensor(MASK).bool()
    counted = values[mask].tolist()
    mean, std = statistics.fmean(counted), math.sqrt(statistics.variance(counted) + 1e-8)
    expected = [(x - mean) / std + (0.0 if shift else mean) for x in counted]
    got = whiten(values, mask, shift_mean=shift)
    assert got[mask].tolist() == pytest.approx(expected, abs=1e-12)
    assert (got[~mask] == 0).all()


def test_whiten_of_degenerate_input():
    values = tensor([[3.0, 5.0]])
    assert whiten(values, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(values, torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(tensor([[2.0, 2.0]]), torch.ones(1, 2).bool()).tolist() == [[0.0, 0.0]]


REWARDS = [1.0, 0.0, 0.5, 2.0, 2.0, 2.0, -1.0, 0.1, 0.1, 0.1]
GROUP = [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]


def scalar_advantages(kind):
    advantages = []
    for i, reward in enumerate(REWARDS):
        mates = (
            REWARDS if kind == "batch" else [r for r, g in zip(REWARDS, GROUP, strict=True) if g == GROUP[i]]
        )
        mean = statistics.fmean(mates)
        if kind in ("group_std", "batch"):
            advantages.append((reward - mean) / (statistics.stdev(mates) + 1e-4))
        elif kind == "group_mean":
            advantages.append(reward - mean)
        else:
            others = list(mates)
            others.remove(reward)
            advantages.append(reward - statistics.fmean(others))
    return advantages


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out", "batch"])
def test_group_advantages_against_statistics(kind):
    got = group_advantages(tensor(REWARDS), torch.tensor(GROUP), kind=kind)
    assert got.tolist() == pytest.approx(scalar_advantages(kind), abs=1e-9)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
def test_equal_rewards_give_exactly_zero(kind):
    """0.1 summed ten times is not 1 in floating point, and ÷ 1e-4 would make the error visible."""
    rewards = torch.full((10,), 0.1)
    got = group_advantages(rewards, torch.zeros(10).long(), kind=kind)
    assert (got == 0).all()


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
def test_advantages_of_a_group_sum_to_zero_and_ignore_its_offset(kind):
    rewards, group = tensor(REWARDS), torch.tensor(GROUP)
    got = group_advantages(rewards, group, kind=kind)
    for g in range(4):
        assert got[group == g].sum().item() == pytest.approx(0.0, abs=1e-12)
    shifted = group_advantages(rewards + group * 100.0, group, kind=kind)
    torch.testing.assert_close(got, shifted, rtol=0, atol=1e-9)


def test_groups_need_not_be_neighbours():
    order = torch.tensor([3, 0, 7, 1, 5, 2, 9, 4, 8, 6])
    plain = group_advantages(tensor(REWARDS), torch.tensor(GROUP), kind="group_std")
    mixed = group_advantages(tensor(REWARDS)[order], torch.tensor(GROUP)[order], kind="group_std")
    torch.testing.assert_close(plain[order], mixed, rtol=0, atol=1e-12)


def test_zero_spread_groups():
    assert zero_spread(tensor(REWARDS), torch.tensor(GROUP)).tolist() == [False, True, False, True]
    assert zero_spread(tensor([]), torch.tensor([]).long()).tolist() == []


def test_a_group_of_one_is_refused():
    with pytest.raises(UserError, match="at least 2 completions"):
        group_advantages(tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]), kind="group_std")
    alone = group_advantages(tensor([1.0, 3.0]), torch.tensor([0, 1]), kind="batch")
    assert alone.tolist() == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rewards_must_be_finite(bad):
    with pytest.raises(EngineError, match="completion 1"):
        group_advantages(tensor([1.0, bad]), torch.tensor([0, 0]), kind="group_std")


def test_token_rewards_by_hand():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    logprobs = tensor([[-1.0, -2.0, -3.0, -9.0]] * 3)
    reference = tensor([[-1.5, -2.0, -2.0, -1.0]] * 3)
    # −0.1·(0.5, 0, −1), the score at the last counted token
    got = token_rewards(tensor([2.0, -1.0, 5.0]), logprobs, reference, mask, beta=0.1)
    expected = [[-0.05, 0.0, 2.1, 0.0], [-0.05, 0.0, -0.9, 0.0], [0.0] * 4]
    torch.testing.assert_close(got, tensor(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("rule", "clip", "expected"),
    [
        (MissingEOS("keep"), None, [7.0, 7.0, -9.0]),
        (MissingEOS("keep"), 5.0, [5.0, 5.0, -5.0]),
        (MissingEOS("replace", -1.0), 5.0, [5.0, -1.0, -5.0]),
        (MissingEOS("penalise", 2.0), None, [7.0, 5.0, -9.0]),
        (MissingEOS("penalise", 2.0), 5.0, [5.0, 3.0, -5.0]),
    ],
)
def test_scores_without_eos(rule, clip, expected):
    finished = torch.tensor([True, False, True])
    got = sequence_scores(tensor([7.0, 7.0, -9.0]), finished, missing_eos=rule, clip=clip)
    assert got.tolist() == expected


def test_per_token():
    mask = torch.tensor([[True, False, True]])
    assert per_token(tensor([3.0]), mask).tolist() == [[3.0, 0.0, 3.0]]


def test_rewards_to_come_by_hand():
    """KL −0.1, 0.2, 0.3 at β = 1 and score 2 at the end: 2 − 0.4, 2 − 0.5, 2 − 0.3; a masked token 0."""
    logprobs = torch.tensor([[-1.1, -0.8, 9.0, -0.7]], dtype=torch.float64)
    reference = torch.full_like(logprobs, -1.0)
    mask = torch.tensor([[True, True, False, True]])
    scores = torch.tensor([2.0], dtype=torch.float64)
    rewards = token_rewards(scores, logprobs, reference, mask, beta=1.0)
    got = rewards_to_come(rewards, mask)
    torch.testing.assert_close(got, torch.tensor([[1.6, 1.5, 0.0, 1.7]], dtype=torch.float64))


def test_group_mean_with_the_rollouts_std() -> None:
    rewards, group = tensor([1.0, 0.0, 5.0, 7.0]), torch.tensor([0, 0, 1, 1])
    std = statistics.stdev([1.0, 0.0, 5.0, 7.0])
    got = group_advantages(rewards, group, kind="group_mean_batch_std")
    expected = tensor([0.5, -0.5, -1.0, 1.0]) / (std + 1e-4)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_parts_standardised_by_themselves_are_not_drowned() -> None:
    """A large part and a small one that disagree weigh the same; by hand from the two-step definition."""
    large, small = [100.0, 0.0, 50.0], [0.0, 0.2, 0.1]
    group = torch.tensor([0, 0, 0])
    standard = [[(r - statistics.mean(p)) / (statistics.stdev(p) + 1e-4) for r in p] for p in (large, small)]
    total = [2 * a + 3 * b for a, b in zip(*standard, strict=True)]
    expected = [(t - statistics.mean(total)) / (statistics.stdev(total) + 1e-4) for t in total]
    got = decoupled_advantages(tensor([large, small]), tensor([2.0, 3.0]), group)
    torch.testing.assert_close(got, tensor(expected), rtol=0, atol=1e-12)
    assert got[1] > 0 > got[0]  # the part with the greater weight wins, though its rewards are small


def test_a_masked_completion_keeps_its_score() -> None:
    finished = torch.tensor([True, False])
    got = sequence_scores(tensor([1.0, 2.0]), finished, missing_eos=MissingEOS("mask", -1.0), clip=None)
    assert got.tolist() == [1.0, 2.0]


def test_two_counted_values_have_a_variance() -> None:
    """1 and 3: variance 2 at ddof 1."""
    mask = torch.tensor([[True, True, False]])
    got = whiten(tensor([[1.0, 3.0, 99.0]]), mask, eps=0.0)
    assert got[0].tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5), 0.0], abs=1e-12)
    got = whiten(tensor([[1.0, 3.0, 99.0]]), mask, eps=2.0)  # √(2 + 2)
    assert got[0].tolist() == pytest.approx([-0.5, 0.5, 0.0], abs=1e-12)
    alone = whiten(tensor([[1.0, 3.0, 99.0]]), torch.tensor([[False, True, False]]), shift_mean=False)
    assert alone[0].tolist() == [0.0, 3.0, 0.0]


def test_two_rewards_of_a_rollout_have_a_spread() -> None:
    got = group_advantages(tensor([1.0, 3.0]), torch.tensor([0, 0]), kind="group_mean_batch_std")
    assert got.tolist() == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)])


def test_numbers_of_groups_may_have_gaps() -> None:
    """A prompt without a completion is no group of one, and has no spread."""
    rewards, group = tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 2, 2])
    assert group_advantages(rewards, group, kind="group_mean").tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert zero_spread(rewards, group)[[0, 2]].tolist() == [False, True]
