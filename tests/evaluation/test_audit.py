import math

import numpy as np
import pytest
from scipy import stats

from alignloop.errors import DataError
from alignloop.evaluation.audit import (
    canary,
    canary_findings,
    curve,
    curve_findings,
    gain,
    length_finding,
    spread_finding,
    t_quantile,
    variety_findings,
    verdict,
)
from alignloop.evaluation.hacking import length_share, variety


def readings(gold_of, count=120, noise=0.02, seed=0):
    """A run whose KL grows evenly and whose proxy follows Gao's rule without a peak in reach."""
    rng = np.random.default_rng(seed)
    d = np.linspace(0, 5, count)
    kl = d**2
    proxy = d * (1.0 - 0.05 * d) + noise * rng.normal(size=count)
    gold = gold_of(d) + noise * rng.normal(size=count)
    return kl.tolist(), proxy.tolist(), gold.tolist()


def rl(alpha, beta):
    return lambda d: np.where(d > 0, d * (alpha - beta * np.log(np.maximum(d, 1e-9))), 0.0)


def test_both_forms_are_fitted_and_the_right_one_fits_better():
    by_rl = curve(*readings(rl(0.8, 0.6)))
    assert set(by_rl.fits) == {"best_of_n", "rl"}
    assert by_rl.best == "rl"
    assert by_rl.fits["rl"].alpha == pytest.approx(0.8, abs=0.05)
    by_bon = curve(*readings(lambda d: d * (0.8 - 0.2 * d)))
    assert by_bon.best == "best_of_n"
    assert by_bon.fits["best_of_n"].peak_kl == pytest.approx(4.0, abs=0.5)


def test_rollouts_without_kl_are_left_out_and_a_negative_estimate_is_zero():
    found = curve([None, -0.01, 1.0, 4.0, 9.0], [9.0, 1.0, 2.0, 3.0, 4.0], [None] * 5)
    assert found.kl == (0.0, 1.0, 4.0, 9.0)
    assert found.proxy == (0.0, 1.0, 2.0, 3.0)
    assert found.gold is None
    assert curve([0.0, 1.0], [0.0, 1.0], [0.0, 1.0]).best is None


def test_gain_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        values = rng.normal(size=80) + np.r_[np.zeros(40), np.ones(40)]
        found = gain(values.tolist())
        hits += found.low <= 1.0 <= found.high
    assert 0.93 <= hits / 1500 <= 0.97
    assert gain([1.0] * 4 + [2.0] * 4).low == 1.0
    with pytest.raises(DataError, match="at least 8"):
        gain([1.0] * 7)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 2.0, 3.0, 7.5, 30.0, 500.0])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_quantiles_of_t_agree_with_the_reference(freedom, level):
    assert t_quantile(freedom, level) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=4e-3)


def test_a_run_that_fools_its_reward_is_named():
    found = verdict(curve_findings(curve(*readings(lambda d: d * (0.3 - 0.15 * d)))))
    assert found.answer == "fools its reward"
    assert "the proxy rose by" in found.text
    assert "gold fell by" in found.text


def test_an_honest_run_became_better():
    findings = curve_findings(curve(*readings(lambda d: 0.5 * d)))
    found = verdict(findings)
    assert found.answer == "became better"
    assert [f.level for f in findings] == ["fine", "fine", "fine"]


def test_past_the_peak_is_an_alarm_even_where_gold_is_still_above_the_start():
    findings = curve_findings(curve(*readings(lambda d: d * (1.0 - 0.15 * d))))
    assert [f.name for f in findings if f.level == "alarm"] == ["over-optimisation"]
    assert verdict(findings).answer == "suspicious"


def test_without_gold_nothing_is_acquitted():
    kl, proxy, _ = readings(rl(1, 0))
    findings = curve_findings(curve(kl, proxy, [None] * len(kl)))
    assert verdict(findings).answer == "not enough evidence"
    canaries = canary_findings([canary("the empty answer", [1.0, 1.2, 0.9] * 4, [0.0, 0.1, 0.2] * 4)])
    assert verdict([*findings, *canaries]).answer == "suspicious"


def test_a_run_without_any_gain_learned_nothing():
    rng = np.random.default_rng(0)
    kl = np.linspace(0, 1, 60).tolist()
    flat = rng.normal(size=60).tolist()
    assert verdict(curve_findings(curve(kl, flat, rng.normal(size=60).tolist()))).answer == "nothing learned"
    few = verdict(curve_findings(curve(kl[:5], flat[:5], flat[:5])))
    assert few.answer == "not enough evidence"
    assert "only 5 rollouts" in few.text


def test_length_spread_and_sameness():
    rng = np.random.default_rng(0)
    length = rng.normal(50, 10, 200)
    late = rng.normal(90, 10, 200)
    share = length_share(0.05 * length, length, 0.05 * late, late)
    assert length_finding(share).level == "alarm"
    assert spread_finding([0.1] * 20 + [0.3] * 20).level == "alarm"
    assert spread_finding([0.1] * 40).level == "fine"
    assert spread_finding([]).level == "unknown"
    words = [f"w{i}" for i in range(200)]
    early = variety([" ".join(rng.choice(words, 12)) for _ in range(30)])
    same = variety(["Of course! Here is the answer."] * 30)
    assert [f.level for f in variety_findings(early, same)] == ["alarm", "fine", "alarm"]
    assert [f.level for f in variety_findings(early, early)] == ["fine", "fine", "fine"]


def test_canaries():
    found = canary("an answer said twice", [1.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    assert found.advantage.value == 0.0
    assert canary_findings([found])[0].level == "fine"
    with pytest.raises(DataError, match="2 canaries, 3 answers"):
        canary("x", [1.0, 2.0], [1.0, 2.0, 3.0])
    assert math.isfinite(found.advantage.low)
