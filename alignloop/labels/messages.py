"""What goes between a page and the desk: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks: an annotator, and the epoch of the invitation by which the session was opened."""

    annotator_id: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Submission:
    """What a page sends.

    Attributes:
        assignment_id: the task shown.
        key: made by the page, once per task shown; a repeated key is never counted twice.
        expected: the judgement that the page believed current for this task, None at first.
        answer: see tasks.py, in displayed order; None for a skip.
        skip_reason: one of tasks.SKIP_REASONS, None for an answer.
        flagged: the annotator wants the owner to look.
        note: free text that goes with a flag, a skip or an answer.
        seconds: time spent with the page visible.
        guidelines: version of the guidelines that the page showed; None for the current one.
        advance: open the annotator's next task; a program that names its tasks itself needs none.
    """

    assignment_id: int
    key: str
    expected: int | None = None
    answer: Mapping | None = None
    skip_reason: str | None = None
    flagged: bool = False
    note: str = ""
    seconds: float = 0.0
    guidelines: int | None = None
    advance: bool = True


@dataclass(frozen=True, slots=True)
class LabelTask:
    """A task as shown: answers in displayed order, without model names.

    `previous`, `note` and `flagged` are the annotator's own earlier judgement, taken back or about to be
    replaced; `expected` goes into the submission.
    """

    id: int
    item_id: int
    kind: str
    prompt: list[dict[str, Any]]
    answers: list[str]
    expected: int | None
    draft: dict | None
    previous: dict | None
    note: str = ""
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A task asked for by its content; `judged` where its annotator has judged or skipped it already."""

    task: LabelTask
    judged: bool


@dataclass(frozen=True, slots=True)
class AnnotatorProgress:
    """Counts for the page: own judgements, and judgements still wanted in the project."""

    done: int = 0
    skipped: int = 0
    remaining: int = 0
    can_undo: bool = False
    can_redo: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """Answer to an operation: what was stored, what comes next (None: nothing is left).

    `guidelines` is the version in force, 0 where the page does not follow it.
    """

    judgement_id: int | None
    task: LabelTask | None
    progress: AnnotatorProgress
    guidelines: int = 0
