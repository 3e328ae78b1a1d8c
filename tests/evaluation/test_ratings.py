import math

import numpy as np
import pytest
import statsmodels.api as sm

from alignloop.errors import DataError
from alignloop.evaluation.ratings import ELO_PER_LOGIT, Comparison, bradley_terry, expected_score


def games(first, second, wins, losses, ties=0):
    scores = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Comparison(first, second, s, f"{first}{second}{i}") for i, s in enumerate(scores)]


def test_two_models_have_the_log_odds_of_their_wins():
    # 30:10 wins, θ difference ln 3, 400·log10(3) points; centred on 1000.
    first, second = bradley_terry(games("가", "나", 30, 10))
    assert (first.model, second.model) == ("가", "나")
    assert first.rating - second.rating == pytest.approx(400 * math.log10(3), abs=1e-9)
    assert first.rating + second.rating == pytest.approx(2000, abs=1e-9)
    assert expected_score(first.rating, second.rating) == pytest.approx(0.75, abs=1e-12)
    assert first.num_comparisons == 40
    # Binomial standard error of the log-odds, with the prompts' n/(n − 1): each model carries half of it.
    error = math.sqrt(40 / 39 * (1 / 30 + 1 / 10))
    assert (first.high - first.low) / (2 * 1.959964 * ELO_PER_LOGIT) == pytest.approx(error / 2, rel=1e-6)


def test_ties_count_half():
    with_ties = bradley_terry(games("a", "b", 20, 10, ties=20))
    without = bradley_terry(games("a", "b", 30, 20))
    assert [m.rating for m in with_ties] == pytest.approx([m.rating for m in without])
    # Ties carry less noise than wins and losses.
    assert with_ties[0].high - with_ties[0].low < without[0].high - without[0].low


def test_many_models_equal_logistic_regression():
    rng = np.random.default_rng(0)
    names, strength = ["a", "b", "c", "d"], np.array([0.8, 0.2, 0.0, -0.6])
    comparisons, x, y = [], [], []
    for i in range(600):
        j, k = rng.choice(4, 2, replace=False)
        won = float(rng.random() < 1 / (1 + math.exp(strength[k] - strength[j])))
        comparisons.append(Comparison(names[j], names[k], won, i))
        x.append(np.eye(4)[j] - np.eye(4)[k])
        y.append(won)
    fit = sm.GLM(y, np.array(x)[:, :3], family=sm.families.Binomial()).fit(cov_type="HC0")
    found = {r.model: r for r in bradley_terry(comparisons, anchor="d", centre=0.0)}
    for k, name in enumerate("abc"):
        assert found[name].rating == pytest.approx(ELO_PER_LOGIT * fit.params[k], abs=1e-6)
        error = (found[name].high - found[name].low) / (2 * 1.959964 * ELO_PER_LOGIT)
        assert error == pytest.approx(fit.bse[k] * math.sqrt(600 / 599), rel=1e-5)
    assert (found["d"].rating, found["d"].low, found["d"].high) == (0.0, 0.0, 0.0)


def test_order_of_comparisons_and_of_their_sides_does_not_matter():
    comparisons = games("a", "b", 12, 8) + games("b", "c", 11, 9) + games("c", "a", 7, 13)
    flipped = [Comparison(c.second, c.first, 1 - c.score, c.prompt) for c in comparisons[::-1]]
    for one, other in zip(bradley_terry(comparisons), bradley_terry(flipped), strict=True):
        assert one.model == other.model
        assert (one.rating, one.low, one.high) == pytest.approx((other.rating, other.low, other.high))


def test_intervals_cover_with_correlated_comparisons_on_a_prompt():
    # Four models answer every prompt; a model's quality on it is common to its three comparisons.
    rng = np.random.default_rng(1)
    names, strength = list("abcd"), np.array([0.6, 0.2, -0.2, -0.6])
    pairs = [(j, k) for j in range(4) for k in range(j)]

    def draw(prompts):
        # Gumbel qualities: P(j beats k) = σ(s_j − s_k) exactly, comparisons on a prompt are transitive.
        quality = strength + rng.gumbel(size=(prompts, 4))
        return [
            Comparison(names[j], names[k], float(quality[p, j] > quality[p, k]), p)
            for p in range(prompts)
            for j, k in pairs
        ]

    hits = np.zeros(4)
    for _ in range(400):
        found = {r.model: r for r in bradley_terry(draw(100), centre=0.0)}
        hits += [
            found[n].low <= ELO_PER_LOGIT * s <= found[n].high for n, s in zip(names, strength, strict=True)
        ]
    assert 0.93 <= hits.mean() / 400 <= 0.97


def test_disconnected_models_are_named():
    with pytest.raises(DataError, match="no comparison links a, b with c, d"):
        bradley_terry(games("a", "b", 3, 2) + games("c", "d", 3, 2))


def test_a_model_that_never_lost_is_named_and_can_be_rated_with_virtual_ties():
    comparisons = games("a", "b", 5, 4) + games("a", "z", 0, 4) + games("b", "z", 0, 4)
    with pytest.raises(DataError, match="z lost no comparison"):
        bradley_terry(comparisons)
    best, *rest = bradley_terry(comparisons, virtual_ties=1.0)
    assert best.model == "z"
    assert math.isfinite(best.rating)
    assert all(best.rating > r.rating for r in rest)
    with pytest.raises(DataError, match="z won no comparison"):
        bradley_terry(games("a", "z", 4, 0) + games("b", "z", 4, 0) + games("a", "b", 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry([]), "at least one comparison"),
        (lambda: bradley_terry([Comparison("a", "a", 1, 0)]), "compared with itself"),
        (lambda: bradley_terry([Comparison("a", "b", 2, 0)]), "a score is 1"),
        (lambda: bradley_terry(games("a", "b", 2, 2), anchor="c"), "accepted are a, b"),
        (lambda: bradley_terry(games("a", "b", 2, 2), virtual_ties=-1), "0 or more"),
        (lambda: bradley_terry([Comparison("a", "b", 0.5, "one")]), "at least 2 prompts"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(DataError, match=message):
        call()
