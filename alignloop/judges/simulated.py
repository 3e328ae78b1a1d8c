"""A simulated annotator: a verifiable gold reward plus seeded noise.

Everything it makes carries the origin "simulated" and says how it was made, so that nothing it says can
be mistaken for a person's opinion. The same prompt with the same answers is judged alike whatever the
order of the rows, because the noise is seeded per prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from alignloop.content import number_of
from alignloop.errors import DataError
from alignloop.judges.edits import edited
from alignloop.records import (
    Demonstration,
    Label,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    plain_rows,
)
from alignloop.rl.constraints import words
from alignloop.rl.verifiers import VERIFIERS

Gold = Callable[[str, Prompt], float]
Answered = tuple[Prompt, Sequence[str]]
Ties = Literal["skip", "tie", "length"]


@dataclass(frozen=True, slots=True)
class SimulatedAnnotator:
    """How the simulated annotator judges.

    Attributes:
        gold: (completion, prompt) → reward, about 0 to 1; the task's verifier by default.
        flip: probability of reporting the opposite of what it found, 0 to 0.5.
        scale: scale of the logistic noise added to a difference of gold rewards; with it,
            P(a preferred to b) = σ((gold_a − gold_b)/scale) before flips.
        seed: of the noise and of the choice of pairs.
        ties: gold-equal answers are skipped ("skip"), reported as a preference with probability ½
            ("tie"), or decided for the answer whose number of words is nearer to the median of the
            prompt's answers ("length"; still equal: skipped).
        name: written into the records.
    """

    gold: Gold = VERIFIERS["constraints"]
    flip: float = 0.0
    scale: float = 0.0
    seed: int = 0
    ties: Ties = "skip"
    name: str = "simulated"

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 0.5:
            raise DataError("must lie between 0 and 0.5", field="flip", value=self.flip)
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise DataError("must be 0 or more", field="scale", value=self.scale)
        if self.ties not in ("skip", "tie", "length"):
            raise DataError("accepted are skip, tie, length", field="ties", value=self.ties)


def simulate_preferences(
    rows: Sequence[Answered], annotator: SimulatedAnnotator, *, max_pairs: int = 1
) -> list[Preference]:
    """Judged pairs of each prompt's answers.

    Pairs whose gold rewards differ come first, those with the largest difference before others, at
    random among equals; each answer is used again only after pairs of unused answers. Tied pairs
    follow as `annotator.ties` says. Identical answers are never paired.

    Args:
        rows: (prompt, answers) with 2 or more answers per prompt.
        annotator: gold reward and noise.
        max_pairs: pairs per prompt at most.

    Returns:
        Preferences, prompts in the order of `rows`.

    Raises:
        DataError: max_pairs below 1, a prompt with fewer than 2 answers, or a gold reward that is not
            a finite number.
    """
    if max_pairs < 1:
        raise DataError("must be 1 or more", field="max_pairs", value=max_pairs)
    found = []
    for prompt, answers in rows:
        rng, gold = _judge(prompt, answers, annotator)
        for i, j in _pairs(answers, gold, annotator, rng)[:max_pairs]:
            found.append(_preference(prompt, answers, gold, (i, j), annotator, rng))
    return found


def simulate_rankings(rows: Sequence[Answered], annotator: SimulatedAnnotator) -> list[Ranking]:
    """A ranking of each prompt's answers by gold + noise; equal ones share a rank (1, 2, 2, 4).

    Noise: logistic noise of `scale` on each answer, then each neighbouring pair of the resulting order
    is swapped with probability `flip`, best first. With ties "skip", prompts whose answers all have the
    same gold reward are left out; with "length", equal answers are ordered by closeness to the median
    length.

    Args:
        rows: (prompt, answers) with 2 or more answers per prompt.
        annotator: gold reward and noise.

    Returns:
        At most one ranking per prompt.

    Raises:
        DataError: as `simulate_preferences`.
    """
    found = []
    for prompt, answers in rows:
        rng, gold = _judge(prompt, answers, annotator)
        if annotator.ties == "skip" and len(set(gold)) == 1:
            continue
        noisy = np.array(gold)
        if annotator.scale:
            noisy = noisy + rng.logistic(scale=annotator.scale, size=len(gold))
        closeness = _length_closeness(answers) if annotator.ties == "length" else [0.0] * len(answers)
        keys = list(zip(noisy.tolist(), closeness, strict=True))
        order = sorted(range(len(keys)), key=lambda i: keys[i], reverse=True)
        place = {key: 1 + sum(other > key for other in keys) for key in keys}
        ranks = [place[keys[i]] for i in order]
        swapped = 0
        for k in range(len(order) - 1):
            if ranks[k] < ranks[k + 1] and rng.random() < annotator.flip:
                order[k], order[k + 1] = order[k + 1], order[k]
                swapped += 1
        by_answer = dict(zip(order, ranks, strict=True))
        details = {"gold": json.dumps(gold), "swapped": swapped}
        found.append(
            Ranking(
                prompt.prompt,
                tuple(answers),
                tuple(by_answer[i] for i in range(len(answers))),
                _provenance(prompt, annotator, details),
            )
        )
    return found


def simulate_ratings(
    rows: Sequence[Answered], annotator: SimulatedAnnotator, *, attribute: str = "overall"
) -> list[Rating]:
    """A whole-number score from 0 to 5 for every answer: 5·(gold + logistic noise), rounded, cut to 0…5.

    With probability `flip` the score s becomes 5 − s. Gold rewards must lie between 0 and 1.

    Args:
        rows: (prompt, answers); one answer is enough.
        annotator: gold reward and noise.
        attribute: name of the score.

    Returns:
        One rating per answer.

    Raises:
        DataError: as `simulate_preferences`, or a gold reward outside 0…1.
    """
    found = []
    for prompt, answers in rows:
        rng, gold = _judge(prompt, answers, annotator, minimum=1)
        for answer, value in zip(answers, gold, strict=True):
            if not 0 <= value <= 1:
                raise DataError("ratings need a gold reward between 0 and 1", field="gold", value=value)
            noise = rng.logistic(scale=annotator.scale) if annotator.scale else 0.0
            score = float(np.clip(np.floor(5 * (value + noise) + 0.5), 0, 5))
            flipped = bool(rng.random() < annotator.flip)
            details = {"gold": value, "flipped": flipped}
            found.append(
                Rating(
                    prompt.prompt,
                    answer,
                    {attribute: 5 - score if flipped else score},
                    _provenance(prompt, annotator, details),
                )
            )
    return found


def simulate_labels(
    rows: Sequence[Answered], annotator: SimulatedAnnotator, *, threshold: float = 1.0
) -> list[Label]:
    """Every answer marked good if gold + logistic noise ≥ `threshold`, then flipped with `flip`.

    Args:
        rows: (prompt, answers); one answer is enough.
        annotator: gold reward and noise.
        threshold: gold reward from which an answer is good.

    Returns:
        One label per answer.

    Raises:
        DataError: as `simulate_preferences`.
    """
    found = []
    for prompt, answers in rows:
        rng, gold = _judge(prompt, answers, annotator, minimum=1)
        for answer, value in zip(answers, gold, strict=True):
            noise = rng.logistic(scale=annotator.scale) if annotator.scale else 0.0
            truth = value + noise >= threshold
            flipped = bool(rng.random() < annotator.flip)
            details = {"gold": value, "flipped": flipped}
            found.append(
                Label(prompt.prompt, answer, bool(truth != flipped), _provenance(prompt, annotator, details))
            )
    return found


def simulate_edits(rows: Sequence[Answered], annotator: SimulatedAnnotator) -> list[Demonstration]:
    """Demonstrations: an answer of each prompt, corrected until it obeys (`feedback.edits`).

    An answer that needs no correction goes before one that does; those that cannot be corrected make none.

    Args:
        rows: (prompt, answers); one answer is enough.
        annotator: its name; nothing is judged wrongly here.

    Returns:
        At most one demonstration per prompt.
    """
    found = []
    for prompt, answers in rows:
        texts = [(edited(answer, prompt), answer.strip()) for answer in answers]
        good = [(text == answer, text) for text, answer in texts if text is not None]
        if good:
            kept, text = max(good, key=lambda one: one[0])
            provenance = _provenance(prompt, annotator, {"edited": not kept})
            found.append(Demonstration(prompt.prompt, text, provenance))
    return found


def _judge(
    prompt: Prompt, answers: Sequence[str], annotator: SimulatedAnnotator, *, minimum: int = 2
) -> tuple[np.random.Generator, list[float]]:
    """The prompt's own random generator and the gold reward of each answer."""
    if len(answers) < minimum:
        raise DataError(f"a prompt needs at least {minimum} answers", field="answers", value=len(answers))
    gold = [float(annotator.gold(answer, prompt)) for answer in answers]
    for value in gold:
        if not math.isfinite(value):
            raise DataError("a gold reward must be a finite number", field="gold", value=value)
    text = json.dumps([*plain_rows(prompt.prompt), *answers], ensure_ascii=False)
    return np.random.default_rng([annotator.seed, number_of(text)]), gold


def _pairs(
    answers: Sequence[str], gold: Sequence[float], annotator: SimulatedAnnotator, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """All pairs worth judging, better one first, in the order of `simulate_preferences`."""
    closeness = _length_closeness(answers)
    candidates: list[tuple[float, int, int]] = []
    for i, j in combinations(range(len(answers)), 2):
        if answers[i] == answers[j]:
            continue
        better, worse = (i, j) if gold[i] >= gold[j] else (j, i)
        if gold[i] == gold[j]:
            if annotator.ties == "skip":
                continue
            if annotator.ties == "length":
                if closeness[i] == closeness[j]:
                    continue
                better, worse = (i, j) if closeness[i] > closeness[j] else (j, i)
        candidates.append((gold[better] - gold[worse], better, worse))
    candidates = [candidates[k] for k in rng.permutation(len(candidates))]
    chosen: list[tuple[int, int]] = []
    uses = [0] * len(answers)
    while candidates:
        best = max(candidates, key=lambda c: (c[0] > 0, -uses[c[1]] - uses[c[2]], c[0]))
        candidates.remove(best)
        chosen.append((best[1], best[2]))
        uses[best[1]] += 1
        uses[best[2]] += 1
    return chosen


def _preference(
    prompt: Prompt,
    answers: Sequence[str],
    gold: Sequence[float],
    pair: tuple[int, int],
    annotator: SimulatedAnnotator,
    rng: np.random.Generator,
) -> Preference:
    """The noisy verdict on a pair given better one first."""
    better, worse = pair
    difference = gold[better] - gold[worse]
    tie = difference == 0 and annotator.ties == "tie"
    swapped = False
    if not tie:
        if annotator.scale:
            swapped = bool(difference + rng.logistic(scale=annotator.scale) < 0)
        swapped = swapped != bool(rng.random() < annotator.flip)
    elif rng.random() < 0.5:
        # Which answer of a tie is written as chosen must carry no information.
        better, worse = worse, better
    chosen, rejected = (worse, better) if swapped else (better, worse)
    details = {"gold_chosen": gold[chosen], "gold_rejected": gold[rejected], "flipped": swapped}
    return Preference(
        prompt.prompt,
        answers[chosen],
        answers[rejected],
        probability=0.5 if tie else 1.0,
        provenance=_provenance(prompt, annotator, details),
    )


def _length_closeness(answers: Sequence[str]) -> list[float]:
    """Minus the distance of each answer's number of words from the median of all."""
    lengths = [len(words(answer)) for answer in answers]
    median = float(np.median(lengths)) if lengths else 0.0
    return [-abs(length - median) for length in lengths]


def _provenance(
    prompt: Prompt, annotator: SimulatedAnnotator, details: dict[str, str | int | float | bool]
) -> Provenance:
    """The prompt's provenance with the annotator's on top; the origin is always "simulated"."""
    ours = {
        "annotator": annotator.name,
        "seed": annotator.seed,
        "flip": annotator.flip,
        "scale": annotator.scale,
    }
    return Provenance(
        prompt.provenance.file,
        prompt.provenance.line,
        "simulated",
        {**prompt.provenance.details, **ours, **details},
    )
