import math
from itertools import combinations

import numpy as np
import pytest

from alignloop.errors import DataError
from alignloop.evaluation.best_of_n import best_of_n, best_of_n_curve, best_of_n_kl


def by_enumeration(proxy, gold, n):
    """Mean over all subsets of size n of the gold reward of the proxy's favourites (ties shared)."""
    values = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        values.append(np.mean([gold[i] for i in subset if proxy[i] == top]))
    return np.mean(values)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("proxy", [[3.0, 1.0, 4.0, 1.5, 9.0, 2.6], [1.0, 1.0, 0.0, 2.0, 2.0, 2.0], [0.0] * 6])
def test_equals_the_mean_over_all_subsets(proxy, n):
    gold = [0.3, -1.0, 2.0, 0.7, 1.1, 0.0]
    assert best_of_n(proxy, gold, n) == pytest.approx(by_enumeration(proxy, gold, n), abs=1e-12)


def test_large_pools_are_exact():
    # Uniform ranks 0…999: expected maximum of n without replacement is n(N + 1)/(n + 1) − 1.
    ranks = np.arange(1000.0)
    assert best_of_n(ranks, ranks, 64) == pytest.approx(64 * 1001 / 65 - 1, rel=1e-12)


def test_kl():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_curve_rises_for_an_honest_proxy_and_has_intervals():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(80, 16))
    curve = best_of_n_curve(gold + 0.5 * rng.normal(size=gold.shape), gold, [1, 4, 16])
    assert [point.n for point in curve] == [1, 4, 16]
    assert curve[0].gold.value < curve[1].gold.value < curve[2].gold.value
    assert curve[0].gold.value == pytest.approx(gold.mean())
    assert all(p.gold.low < p.gold.value < p.gold.high and p.gold.num_clusters == 80 for p in curve)
    # E max of 4 standard normals is 1.0294; the proxy correlates 1/√1.25.
    assert curve[1].gold.low < 1.0294 / math.sqrt(1.25) < curve[1].gold.high


@pytest.mark.parametrize(
    "call",
    [
        lambda: best_of_n([1.0, 2.0], [1.0], 1),
        lambda: best_of_n([1.0, 2.0], [1.0, 2.0], 3),
        lambda: best_of_n([1.0, 2.0], [1.0, 2.0], 0),
        lambda: best_of_n_kl(0),
        lambda: best_of_n_curve([[1.0, 2.0]], [], [1]),
    ],
)
def test_wrong_input(call):
    with pytest.raises(DataError):
        call()
