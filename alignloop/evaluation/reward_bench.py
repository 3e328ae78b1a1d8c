"""How good a reward model is on judged completions: accuracy, calibration, length, shift between prompts.

N comparisons of two completions of one prompt, the preferred one first; K completions of a prompt.
Prompts are the sampled unit of every interval: comparisons of one prompt are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignloop.data.packing import Group
from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import rate_interval

Array = NDArray[np.float64]

LENGTH_EDGES = (-40.5, -10.5, 10.5, 40.5)
"""Tokens chosen − rejected; fixed, so that the bins of two reward models are the same."""
LENGTH_BINS = ("below −40", "−40 to −11", "−10 to 10", "11 to 40", "above 40")

_CALIBRATION_BINS = 10
_TEMPERATURES = (1e-3, 1e3)


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """N judged comparisons, column by column; the completion judged better comes first.

    Attributes:
        margin: (N,), reward of the better completion minus the other's.
        probability: (N,), that the first one is better, ½ (a tie) to 1.
        tokens: (N,), length of the better completion minus the other's, in tokens.
        prompt: N prompts; comparisons of the same prompt are one cluster.
        subset: N names of the part of the data they are from.
    """

    margin: Array
    probability: Array
    tokens: Array
    prompt: tuple[object, ...]
    subset: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.margin)

    @property
    def decided(self) -> NDArray[np.bool_]:
        """(N,), True where one completion was judged better; False for a tie."""
        return self.probability > 0.5

    def where(self, chosen: NDArray[np.bool_]) -> Comparisons:
        """Those comparisons only."""
        return self.rows(np.flatnonzero(chosen))

    def rows(self, at: NDArray[np.intp]) -> Comparisons:
        """The comparisons with these numbers, repeated where a number is."""
        prompt, subset = tuple(self.prompt[i] for i in at), tuple(self.subset[i] for i in at)
        return Comparisons(self.margin[at], self.probability[at], self.tokens[at], prompt, subset)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far σ(margin / temperature) is from the share of judgements that agree.

    Attributes:
        ece: expected calibration error at the temperature the model was trained at, 0 to ½.
        temperature: the one that fits these comparisons best; a margin / temperature is in nats.
        ece_fitted: error with a temperature fitted on the other half of the prompts.
    """

    ece: float
    temperature: float
    ece_fitted: float


def comparisons_of(
    groups: Sequence[Group], rewards: Sequence[Array], subsets: Sequence[str] | None = None
) -> Comparisons:
    """All judged pairs of tokenized preferences and rankings, with their rewards.

    Args:
        groups: with `probability` (chosen first) or `ranks` in their values; others are passed over.
        rewards: (K,) of each group.
        subsets: name of each group's part of the data; one part if not given.

    Returns:
        One comparison for each pair of completions; pairs with equal ranks are ties.
    """
    rows: list[tuple[float, float, int, bytes, str]] = []
    for at, (group, reward) in enumerate(zip(groups, rewards, strict=True)):
        subset = subsets[at] if subsets is not None else ""
        for i, j in combinations(range(len(group.completions)), 2):
            probability = _probability(group, i, j)
            if probability is None:
                continue
            if probability < 0.5:
                i, j, probability = j, i, 1 - probability
            tokens = len(group.completions[i].ids) - len(group.completions[j].ids)
            margin = float(reward[i]) - float(reward[j])
            rows.append((margin, probability, tokens, group.prompt_ids.tobytes(), subset))
    numbers = np.asarray([row[:3] for row in rows], dtype=np.float64).reshape(-1, 3)
    margin, probability, tokens = numbers.T
    prompt, subset = tuple(row[3] for row in rows), tuple(row[4] for row in rows)
    return Comparisons(margin, probability, tokens, prompt, subset)


def _probability(group: Group, i: int, j: int) -> float | None:
    """Probability that completion i < j is better than j; None where nobody judged."""
    if "ranks" in group.values:
        ranks = np.asarray(group.values["ranks"])
        return float(1 + np.sign(ranks[j] - ranks[i])) / 2
    if "probability" in group.values:
        return float(group.values["probability"])  # pyright: ignore[reportArgumentType]
    return None


def agreement(comparisons: Comparisons, *, level: float = 0.95) -> dict[str, Any]:
    """Share of the decided comparisons in which the better completion has the higher reward.

    Equal rewards count ½. The interval is the prompt-clustered Wilson interval, which keeps its coverage
    in small bins and near 1, where a bootstrap loses it.

    Args:
        comparisons: of which ties, which have no right order, are left out.
        level: nominal coverage of the interval.

    Returns:
        `pairs`, `accuracy` and `accuracy_interval`, each None where too little is there.
    """
    decided = comparisons.where(comparisons.decided)
    right = (1 + np.sign(decided.margin)) / 2
    row: dict[str, Any] = {"pairs": len(decided), "accuracy": None, "accuracy_interval": None}
    if len(decided):
        row["accuracy"] = float(right.mean())
    if len(set(decided.prompt)) > 1:
        interval = rate_interval(right, decided.prompt, level=level)
        row["accuracy_interval"] = [interval.low, interval.high]
    return row


def by_length(comparisons: Comparisons, *, level: float = 0.95) -> list[dict[str, Any]]:
    """`agreement` in bins of chosen − rejected tokens: a model that counts tokens fails in the first ones."""
    bins = np.searchsorted(LENGTH_EDGES, comparisons.tokens)
    rows = [agreement(comparisons.where(bins == at), level=level) for at in range(len(LENGTH_BINS))]
    return [
        {"chosen − rejected tokens": name, **_flat(row)} for name, row in zip(LENGTH_BINS, rows, strict=True)
    ]


def by_subset(comparisons: Comparisons, *, level: float = 0.95) -> list[dict[str, Any]]:
    """`agreement` for each part of the data, by name."""
    names = np.asarray(comparisons.subset, dtype=object)
    return [
        {"subset": name, **_flat(agreement(comparisons.where(names == name), level=level))}
        for name in sorted(set(comparisons.subset))
    ]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table: the interval in two columns."""
    low, high = row["accuracy_interval"] or (None, None)
    return {"pairs": row["pairs"], "accuracy": row["accuracy"], "low": low, "high": high}


def longer_wins(comparisons: Comparisons) -> float | None:
    """Accuracy of 'the longer completion is better', equal lengths ½: what a reward model has to beat."""
    tokens = comparisons.tokens[comparisons.decided]
    return float(((1 + np.sign(tokens)) / 2).mean()) if len(tokens) else None


def length_correlation(groups: Sequence[Group], rewards: Sequence[Array]) -> float | None:
    """Pearson correlation of reward and tokens within prompts (each prompt's means taken off).

    Args:
        groups: tokenized completions.
        rewards: (K,) of each group.

    Returns:
        −1 to 1, None where reward or length does not vary within any prompt.
    """
    lengths = [np.asarray([len(c.ids) for c in group.completions], dtype=np.float64) for group in groups]
    x = np.concatenate([np.asarray(r, dtype=np.float64) - np.mean(r) for r in rewards])
    y = np.concatenate([length - length.mean() for length in lengths])
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 1e-12 else None


def calibration_error(margin: Array, probability: Array, temperature: float) -> float:
    """Expected calibration error of σ(|margin| / T): Σ_bins share · |agreement − confidence|.

    Ten bins of equal width over the confidence, ½ to 1 (Guo et al. 2017, arXiv 1706.04599, equation 3).
    Absolute values do not cancel noise, so it is above 0 for a perfectly calibrated model too, and no
    bootstrap interval around it covers: read it beside another model's on the same pairs.

    Args:
        margin: (N,), better − other.
        probability: (N,), that the first is better.
        temperature: T > 0.

    Returns:
        0 to 1.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margin) / temperature))
    agrees = np.where(margin > 0, probability, np.where(margin < 0, 1 - probability, 0.5))
    bins = np.minimum(((confidence - 0.5) * 2 * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gap = np.bincount(bins, agrees - confidence, _CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(margin))


def fit_temperature(margin: Array, probability: Array) -> float:
    """T that minimises the mean of −p·log σ(m/T) − (1 − p)·log σ(−m/T), between 1/1000 and 1000.

    The loss is convex in 1/T, so its slope Σ (σ(m/T) − p)·m is bisected.

    Args:
        margin: (N,), better − other.
        probability: (N,), that the first is better.

    Returns:
        Reward units per nat.
    """
    low, high = (1 / t for t in reversed(_TEMPERATURES))
    for _ in range(60):
        inverse = (low * high) ** 0.5
        with np.errstate(over="ignore"):
            slope = ((1 / (1 + np.exp(-inverse * margin)) - probability) * margin).sum()
        low, high = (inverse, high) if slope <= 0 else (low, inverse)
    return float((low * high) ** -0.5)


def calibration(comparisons: Comparisons, *, trained_temperature: float = 1.0) -> Calibration | None:
    """Calibration before and after a temperature, which is fitted on one half of the prompts for the other.

    Args:
        comparisons: held out from training; ties count as p = ½.
        trained_temperature: reward units that were one nat in training.

    Returns:
        None with fewer than two prompts.
    """
    number = {prompt: n for n, prompt in enumerate(dict.fromkeys(comparisons.prompt))}
    if len(number) < 2:
        return None
    half = np.asarray([number[prompt] % 2 for prompt in comparisons.prompt])
    margin, probability = comparisons.margin, comparisons.probability
    scaled = np.empty(len(margin))
    for side in (0, 1):
        fitted = fit_temperature(margin[half != side], probability[half != side])
        scaled[half == side] = margin[half == side] / fitted
    return Calibration(
        ece=calibration_error(margin, probability, trained_temperature),
        temperature=fit_temperature(margin, probability),
        ece_fitted=calibration_error(scaled, probability, 1.0),
    )


def prompt_shift(rewards: Sequence[Array]) -> dict[str, float] | None:
    """How much of the rewards' variance is an offset of the prompt, which comparisons leave free.

    One-way analysis of variance: within = mean of the prompts' variances, between = variance of the
    prompts' means minus the part that noise within prompts explains, mean(variance / K).

    Args:
        rewards: (K,) of each prompt; prompts with K = 1 are left out.

    Returns:
        `within_std`, `between_std` in reward units and `between_share` of the variance, 0 to 1; None with
        fewer than two prompts. A large share asks for a baseline per prompt in RL.
    """
    several = [np.asarray(r, dtype=np.float64) for r in rewards if len(r) > 1]
    if len(several) < 2:
        return None
    variances = np.asarray([r.var(ddof=1) for r in several])
    noise = np.mean([v / len(r) for v, r in zip(variances, several, strict=True)])
    between = max(0.0, float(np.var([r.mean() for r in several], ddof=1) - noise))
    within = float(variances.mean())
    share = between / (between + within) if between + within > 0 else 0.0
    return {"within_std": within**0.5, "between_std": between**0.5, "between_share": share}


def summarize(
    groups: Sequence[Group],
    rewards: Sequence[Array],
    *,
    subsets: Sequence[str] | None = None,
    trained_temperature: float = 1.0,
) -> dict[str, Any]:
    """Everything above of one model on judged rows, as results for run.json.

    Args:
        groups: tokenized preferences or rankings.
        rewards: (K,) of each group.
        subsets: name of each group's part of the data.
        trained_temperature: see `calibration`.

    Returns:
        `held_out` (numbers) and `held_out_by_length` (a table); `held_out_by_subset` where there are several.

    Raises:
        DataError: no comparison, or a reward that is not finite.
    """
    if not all(np.isfinite(r).all() for r in rewards):
        raise DataError("the reward model gives rewards that are not finite", field="rewards")
    comparisons = comparisons_of(groups, rewards, subsets)
    if not len(comparisons):
        raise DataError("no row holds a comparison or a ranking of two completions", reason="no_rows")
    fitted = calibration(comparisons, trained_temperature=trained_temperature)
    numbers: dict[str, Any] = {
        "prompts": len(set(comparisons.prompt)),
        **agreement(comparisons),
        "accuracy_if_longer_wins": longer_wins(comparisons),
        "length_correlation": length_correlation(groups, rewards),
        "tied_judgements": int((~comparisons.decided).sum()),
        "equal_rewards": int((comparisons.margin == 0).sum()),
    }
    if fitted is not None:
        numbers |= {"ece": fitted.ece, "ece_fitted": fitted.ece_fitted, "temperature": fitted.temperature}
    shift = prompt_shift(rewards)
    if shift is not None:
        numbers["prompt_shift"] = shift
    results: dict[str, Any] = {"held_out": numbers, "held_out_by_length": by_length(comparisons)}
    if len(set(comparisons.subset)) > 1:
        results["held_out_by_subset"] = by_subset(comparisons)
    return results
