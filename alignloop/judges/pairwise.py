"""Verdicts on pairs of answers: always in both orders; orders that disagree are a tie.

P(a better) of an order is the label's probability plus half that of a tie; the verdict's is the mean of
both orders (RLAIF, arXiv 2309.00267, sections 2.1 and 3.3), and ½ where they do not agree, if the mean is
not asked for there too.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from alignloop.errors import EngineError
from alignloop.judges.adviser import Adviser, Ask, Reply
from alignloop.judges.rubric import Rubric
from alignloop.records import Conversation, Message

LABEL_TOKENS = 8
"""Longest reply in which an endpoint's label is looked for."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to judge; `principle` (name, text) stands in place of the rubric's criteria."""

    prompt: Conversation
    a: str
    b: str
    principle: tuple[str, str] = ("", "")

    @property
    def swapped(self) -> Pair:
        """The same answers the other way round."""
        return replace(self, a=self.b, b=self.a)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about a pair.

    Attributes:
        probability: that `a` is better; ½ a tie.
        orders: that `a` is better when it was shown first, and when second.
        reasons: what the judge said before it decided, in both orders.
        fault: why there is no verdict, "" if there is one.
    """

    probability: float = 0.5
    orders: tuple[float, float] = (0.5, 0.5)
    reasons: tuple[str, str] = ("", "")
    fault: str = ""

    @property
    def consistent(self) -> bool:
        """Whether both orders point the same way."""
        return side(self.orders[0]) == side(self.orders[1])

    @property
    def side(self) -> int:
        """1 where `a` is better, −1 where `b` is, 0 for a tie."""
        return side(self.probability)


@dataclass(frozen=True, slots=True)
class Manner:
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


def judge_pairs(
    adviser: Adviser, pairs: Sequence[Pair], rubric: Rubric, manner: Manner | None = None
) -> list[Verdict]:
    """A verdict on each pair, two questions each.

    Args:
        adviser: who judges.
        pairs: what; two equal answers are a tie without being asked about.
        rubric: the questions.
        manner: how they are put.

    Returns:
        Verdicts in order; one with a fault has probability ½.

    Raises:
        EngineError: the adviser cannot be reached.
    """
    manner = manner or Manner()
    asked = [number for number, pair in enumerate(pairs) if pair.a.strip() != pair.b.strip()]
    shown = [one for number in asked for one in (pairs[number], pairs[number].swapped)]
    replies = ask_as_shown(adviser, shown, rubric, manner)
    verdicts = [Verdict(1 / 2, (0.5, 0.5))] * len(pairs)
    for place, number in enumerate(asked):
        verdicts[number] = _verdict(replies[2 * place], replies[2 * place + 1], manner)
    return verdicts


def ask_as_shown(adviser: Adviser, shown: Sequence[Pair], rubric: Rubric, manner: Manner) -> list[Reply]:
    """One question about each pair, `a` shown first; each reply's text is what was said for reasons.

    Raises:
        EngineError: the adviser cannot be reached.
    """
    questions = [
        rubric.question(pair.prompt, pair.a, pair.b, language=manner.language, criteria=pair.principle[1])
        for pair in shown
    ]
    words = [rubric.wording(pair.prompt, manner.language) for pair in shown]
    if manner.reasons:
        thinking = [(q[0], _with(q[1], w.think)) for q, w in zip(questions, words, strict=True)]
        reasons = adviser.ask([Ask(t, max_tokens=manner.max_reason_tokens) for t in thinking])
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


def _verdict(first: Reply, second: Reply, manner: Manner) -> Verdict:
    """Of the replies with `a` shown first and with `a` shown second."""
    fault = first.fault or second.fault
    if fault:
        return Verdict(reasons=(first.text, second.text), fault=fault)
    orders = first_better(first), 1 - first_better(second)
    counts = manner.disagreement == "average" or side(orders[0]) == side(orders[1])
    probability = sum(orders) / 2 if counts else 0.5
    probability = min(max(probability, 0.5 - manner.clamp), 0.5 + manner.clamp)
    return Verdict(probability, orders, (first.text, second.text))


def first_better(reply: Reply) -> float:
    """P(the first answer shown is better), half a tie's."""
    first, _second, *tie = reply.probabilities
    return min(1.0, max(0.0, first + sum(tie) / 2))


def side(probability: float) -> int:
    """1 above ½, −1 below, 0 at ½."""
    return (probability > 0.5 + 1e-9) - (probability < 0.5 - 1e-9)


def check_faults(verdicts: Sequence[Verdict], most: float, name: str) -> Counter[str]:
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
