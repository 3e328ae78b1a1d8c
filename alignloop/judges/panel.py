"""Several judges on the same pairs: their joint verdict and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from alignloop.evaluation.agreement import Agreement, cohen_kappa, gwet_ac1, krippendorff_alpha
from alignloop.judges.pairwise import PairVerdict

SIDES = (-1, 0, 1)


def joint(verdicts: Sequence[PairVerdict]) -> PairVerdict:
    """The mean of the judges that gave a verdict; a fault if none did."""
    given = [verdict for verdict in verdicts if not verdict.fault]
    if not given:
        return verdicts[0]
    if len(given) == 1:
        return given[0]
    orders = (
        sum(v.orders[0] for v in given) / len(given),
        sum(v.orders[1] for v in given) / len(given),
    )
    return replace(given[0], probability=sum(v.probability for v in given) / len(given), orders=orders)


def agreement(verdicts: Mapping[str, Sequence[PairVerdict]]) -> list[dict[str, Any]]:
    """Agreement of all judges together and of every two, over pairs that are won, tied or lost.

    Args:
        verdicts: by judge, in the same order of pairs.

    Returns:
        Rows of a table: judges, measure, value, low, high, pairs; none for a single judge.
    """
    if len(verdicts) < 2:
        return []
    table = [[None if v.fault else v.side for v in row] for row in zip(*verdicts.values(), strict=True)]
    names = list(verdicts)
    found: list[tuple[str, str, Agreement]] = [
        ("all", "Krippendorff α", krippendorff_alpha(table, measurement="ordinal")),
        ("all", "Gwet AC1", gwet_ac1(table, categories=SIDES)),
    ]
    for i, j in combinations(range(len(names)), 2):
        both = [(row[i], row[j]) for row in table if row[i] is not None and row[j] is not None]
        if both:
            kappa = cohen_kappa([x for x, _ in both], [y for _, y in both])
            found.append((f"{names[i]} · {names[j]}", "Cohen κ", kappa))
    return [
        {
            "judges": who,
            "measure": what,
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "pairs": value.num_items,
        }
        for who, what, value in found
        if not math.isnan(value.value)
    ]
