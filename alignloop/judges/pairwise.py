"""Verdicts on pairs of answers: always in both orders; orders that disagree are a tie.

P(first better) of an order is the label's probability plus half that of a tie; the verdict's is the mean of
both orders (RLAIF, arXiv 2309.00267, sections 2.1 and 3.3), and ½ where they do not agree, if the mean is
not asked for there too. Several judges on the same pairs have a joint verdict and an agreement.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Literal, Protocol

from alignloop.errors import EngineError
from alignloop.evaluation.agreement import Agreement, cohen_kappa, gwet_ac1, krippendorff_alpha
from alignloop.judges.adviser import Adviser, Ask, Reply
from alignloop.judges.rubric import Rubric
from alignloop.records import Conversation, Message
from alignloop.runs.value_cache import ValueCache

LABEL_TOKENS = 8
"""Longest reply in which an endpoint's label is looked for."""
_PORTION = 16
"""Pairs for which a function is called at once."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one prompt in the order in which they are shown.

    Attributes:
        prompt: what was asked.
        first, second: the answers.
        principle: (name, text) that stands in place of the rubric's criteria; ("", "") for none.
    """

    prompt: Conversation
    first: str
    second: str
    principle: tuple[str, str] = ("", "")

    @property
    def swapped(self) -> AnswerPair:
        """The same answers the other way round."""
        return replace(self, first=self.second, second=self.first)


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """What a judge says about a pair.

    Attributes:
        probability: that the first answer is better; ½ a tie.
        orders: the same, by what was said when it was shown first, and when second.
        reasons: what the judge said before it decided, in both orders.
        fault: why there is no verdict, "" if there is one.
        asked: whether the judge was asked; equal and empty answers decide themselves.
    """

    probability: float = 0.5
    orders: tuple[float, float] = (0.5, 0.5)
    reasons: tuple[str, str] = ("", "")
    fault: str = ""
    asked: bool = True

    @property
    def consistent(self) -> bool:
        """Whether both orders point the same way."""
        return side(self.orders[0]) == side(self.orders[1])

    @property
    def side(self) -> int:
        """1 where the first answer is better, −1 where the second is, 0 for a tie."""
        return side(self.probability)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is asked.

    Attributes:
        language: of the rubric's texts: auto, en or ko.
        reasons: ask for the reasons in a first call.
        max_reason_tokens: their longest length.
        clamp: probabilities are kept within ½ ± this, against overconfidence after reasoning
            (arXiv 2212.08073, section 4.1: 40–60 %).
        disagreement: what orders that point different ways are: a tie, or their average, which is what
            is left of a judge's opinion when its preference for a place is taken off.
    """

    language: str = "auto"
    reasons: bool = False
    max_reason_tokens: int = 256
    clamp: float = 0.5
    disagreement: Literal["tie", "average"] = "tie"


class PairFunction(Protocol):
    """A user's function that compares answers, or a person at the terminal."""

    def __call__(self, pairs: Sequence[AnswerPair], /) -> Sequence[float | None]:
        """1 if the first is better, ½ for a tie, 0 if the second is, None if there is no verdict."""
        ...


def judge_pairs(
    adviser: Adviser, pairs: Sequence[AnswerPair], rubric: Rubric, settings: JudgeSettings | None = None
) -> list[PairVerdict]:
    """A model's verdict on each pair, two questions each.

    Args:
        adviser: who judges.
        pairs: what. Equal answers tie and an empty one loses to any other, unasked.
        rubric: the questions.
        settings: how they are put.

    Returns:
        Verdicts in order; one with a fault has probability ½.

    Raises:
        EngineError: the adviser cannot be reached.
    """
    settings = settings or JudgeSettings()
    return _in_both_orders(pairs, lambda shown: _ask_as_shown(adviser, shown, rubric, settings), settings)


def judge_pairs_by(
    function: PairFunction, pairs: Sequence[AnswerPair], *, cache: ValueCache | None = None
) -> list[PairVerdict]:
    """A function's verdict on each pair, called for both orders.

    Args:
        function: what compares.
        pairs: what. Equal answers tie and an empty one loses to any other, without a call.
        cache: keeps what was said of each order as it comes, so that a function that fails midway is not
            called again.

    Returns:
        Verdicts in order; one with a fault has probability ½.

    Raises:
        EngineError: the function returned something else than scores, or fails.
    """

    def ask(shown: Sequence[AnswerPair]) -> list[Reply]:
        scores = _cached_scores(function, shown, cache)
        return [Reply(fault="silent") if s is None else Reply("", (s, 1 - s)) for s in scores]

    return _in_both_orders(pairs, ask, JudgeSettings())


def _in_both_orders(
    pairs: Sequence[AnswerPair],
    ask: Callable[[Sequence[AnswerPair]], Sequence[Reply]],
    settings: JudgeSettings,
) -> list[PairVerdict]:
    found = [_decided(pair) for pair in pairs]
    shown = [one for p, v in zip(pairs, found, strict=True) if v is None for one in (p, p.swapped)]
    replies = iter(ask(shown))
    return [_verdict(next(replies), next(replies), settings) if v is None else v for v in found]


def _decided(pair: AnswerPair) -> PairVerdict | None:
    """The verdict on a pair that no judge needs to see."""
    first, second = pair.first.strip(), pair.second.strip()
    if first and second and first != second:
        return None
    probability = 0.5 + 0.5 * (bool(first) - bool(second))
    return PairVerdict(probability, (probability, probability), asked=False)


def _verdict(shown_first: Reply, shown_second: Reply, settings: JudgeSettings) -> PairVerdict:
    """Of the replies with the pair's first answer shown first and shown second."""
    reasons, fault = (shown_first.text, shown_second.text), shown_first.fault or shown_second.fault
    if fault:
        return PairVerdict(reasons=reasons, fault=fault)
    orders = _first_better(shown_first), 1 - _first_better(shown_second)
    counts = settings.disagreement == "average" or side(orders[0]) == side(orders[1])
    probability = sum(orders) / 2 if counts else 0.5
    probability = min(max(probability, 0.5 - settings.clamp), 0.5 + settings.clamp)
    return PairVerdict(probability, orders, reasons)


def _first_better(reply: Reply) -> float:
    """P(the first answer shown is better), half a tie's."""
    first, _second, *tie = reply.probabilities
    return min(1.0, max(0.0, first + sum(tie) / 2))


def side(probability: float) -> int:
    """1 above ½, −1 below, 0 at ½."""
    return (probability > 0.5 + 1e-9) - (probability < 0.5 - 1e-9)


def _ask_as_shown(
    adviser: Adviser, shown: Sequence[AnswerPair], rubric: Rubric, settings: JudgeSettings
) -> list[Reply]:
    """One question about each pair in the order given; each reply's text is what was said for reasons."""
    questions = [
        rubric.question(
            pair.prompt, pair.first, pair.second, language=settings.language, criteria=pair.principle[1]
        )
        for pair in shown
    ]
    words = [rubric.wording(pair.prompt, settings.language) for pair in shown]
    if settings.reasons:
        thinking = [(q[0], _with(q[1], w.think)) for q, w in zip(questions, words, strict=True)]
        reasons = adviser.ask([Ask(t, max_tokens=settings.max_reason_tokens) for t in thinking])
        final = [
            (*t, Message("assistant", reason.text), Message("user", w.decide))
            for t, reason, w in zip(thinking, reasons, words, strict=True)
        ]
    else:
        reasons = [Reply()] * len(shown)
        final = [(q[0], _with(q[1], w.decide)) for q, w in zip(questions, words, strict=True)]
    open_rows = [row for row, reason in enumerate(reasons) if not reason.fault]
    answers = adviser.ask([Ask(final[row], rubric.labels, max_tokens=LABEL_TOKENS) for row in open_rows])
    replies = list(reasons)
    for row, answer in zip(open_rows, answers, strict=True):
        replies[row] = replace(answer, text=reasons[row].text)
    return replies


def _with(message: Message, more: str) -> Message:
    return replace(message, content=f"{message.content}\n\n{more}")


def _cached_scores(
    function: PairFunction, shown: Sequence[AnswerPair], cache: ValueCache | None
) -> list[float | None]:
    keys = [{k: v for k, v in asdict(pair).items() if k != "principle"} for pair in shown]
    found: list[float | None] = [None if cache is None else cache.get(key) for key in keys]
    waiting = [i for i, score in enumerate(found) if score is None]
    for start in range(0, len(waiting), _PORTION):
        portion = waiting[start : start + _PORTION]
        for i, score in zip(portion, _checked_scores(function, [shown[i] for i in portion]), strict=True):
            found[i] = score
            if cache is not None and score is not None:
                cache.put(keys[i], score)
    return found


def _checked_scores(function: PairFunction, pairs: Sequence[AnswerPair]) -> list[float | None]:
    scores = list(function(pairs))
    if len(scores) != len(pairs) or not all(score in (None, 0, 0.5, 1) for score in scores):
        raise EngineError(
            f"the judge gave {scores!r:.80} for {len(pairs)} pairs; it has to give 1, 0.5, 0 or None for each"
        )
    return [None if score is None else float(score) for score in scores]


def check_faults(verdicts: Sequence[PairVerdict], most: float, name: str) -> Counter[str]:
    """Faults by reason.

    Raises:
        EngineError: more than the share `most` of the verdicts are faults.
    """
    faults = Counter(verdict.fault for verdict in verdicts if verdict.fault)
    if faults.total() > most * len(verdicts):
        counted = ", ".join(f"{count} {reason}" for reason, count in faults.most_common())
        raise EngineError(
            f"judge '{name}' gave no verdict on {faults.total()} of {len(verdicts)} pairs ({counted}); it "
            "does not fit this task, or raise max_fault_share"
        )
    return faults


def grade(
    adviser: Adviser, rows: Sequence[tuple[Conversation, str]], rubric: Rubric, language: str
) -> list[float]:
    """Expected grade of each answer, rescaled to −1 … 1; NaN where the judge gave none.

    Direct RLAIF (arXiv 2309.00267, section 2.2.2): Σ grade · P(grade), over the grades' labels.

    Args:
        adviser: who judges.
        rows: (prompt, answer).
        rubric: its `grade` texts and grades.
        language: auto, en or ko.

    Returns:
        One number for each row.

    Raises:
        EngineError: the adviser cannot be reached.
    """
    asks = [
        Ask(rubric.grading(prompt, answer, language=language), rubric.grades, max_tokens=LABEL_TOKENS)
        for prompt, answer in rows
    ]
    top = len(rubric.grades) - 1
    return [
        math.nan if reply.fault else 2 * sum(k * p for k, p in enumerate(reply.probabilities)) / top - 1
        for reply in adviser.ask(asks)
    ]


def coin(*texts: str) -> bool:
    """A fair coin that depends on the texts alone: which answer of a tie is written first, and the like."""
    return hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0


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
