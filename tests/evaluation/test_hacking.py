import math

import numpy as np
import pytest

from alignloop.errors import DataError
from alignloop.evaluation.hacking import disagreements, length_share, variety


def draw(rng, count, mean_length, quality, per_word):
    length = rng.normal(mean_length, 12, count)
    return quality + per_word * length + rng.normal(0, 0.3, count), length


def test_a_gain_that_is_all_length_has_share_one_and_pure_quality_zero():
    rng = np.random.default_rng(0)
    early = draw(rng, 400, 50, 0.0, 0.02)
    longer = length_share(*early, *draw(rng, 400, 80, 0.0, 0.02))
    assert longer.share.low < 1.0 < longer.share.high
    assert longer.share.low > 0.8
    assert longer.slope == pytest.approx(0.02, abs=0.002)
    assert longer.length_gain == pytest.approx(30, abs=2)
    better = length_share(*early, *draw(rng, 400, 50, 0.6, 0.02))
    assert better.share.low < 0.0 < better.share.high
    assert better.share.high < 0.1


def test_length_share_covers():
    rng = np.random.default_rng(1)
    # reward gain 0.3 + 0.02·15 = 0.6, half of it length
    hits = 0
    for i in range(500):
        early, late = draw(rng, 80, 50, 0.0, 0.02), draw(rng, 80, 65, 0.3, 0.02)
        found = length_share(*early, *late, replicates=200, seed=i)
        hits += found.share.low <= 0.5 <= found.share.high
    assert 0.93 <= hits / 500 <= 0.97


def test_without_a_gain_the_interval_has_no_end():
    rng = np.random.default_rng(2)
    found = length_share(*draw(rng, 60, 50, 0.0, 0.02), *draw(rng, 60, 50, 0.0, 0.02))
    assert (found.share.low, found.share.high) == (-math.inf, math.inf)
    with pytest.raises(DataError, match="at least 3 completions"):
        length_share([1, 2], [1, 2], [1, 2], [1, 2])


def test_disagreements_are_by_rank_with_shared_ranks_for_ties():
    proxy, gold = [10.0, 0.0, 5.0, 5.0], [0.0, 1.0, 0.5, 0.7]
    # ranks of proxy 4, 1, 2½, 2½; of gold 1, 4, 2, 3
    assert disagreements(proxy, gold, 20) == [(0, 3 / 4), (2, 0.5 / 4)]
    assert disagreements(proxy, gold, 1) == [(0, 3 / 4)]
    with pytest.raises(DataError, match="same length"):
        disagreements([1.0], [1.0, 2.0], 1)


def test_variety_of_a_collapsed_policy():
    found = variety(["Sure thing, here you go."] * 30)
    assert found.self_bleu == pytest.approx(1.0)
    assert (found.opening, found.opening_share) == ("sure thing here you", 1.0)
    assert found.effective_openings == pytest.approx(1.0)
    assert variety(["ha ha ha ha ha ha"]).repetition == 3 / 4
    assert variety([]).num_texts == 0
