"""Plain data of the label store: projects, their settings, items and annotators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import permutations
from typing import Any

from alignloop.errors import UserError
from alignloop.labels.faults import Rejected
from alignloop.labels.tasks import ANSWER_COUNTS, canonical
from alignloop.records import Conversation, Provenance, message_rows

MAX_ANSWER = 200_000
"""Longest prompt or answer of an item, in characters."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an owner can change about a project.

    Attributes:
        attributes: names scored in a `scores` project.
        seed: of every annotator's order of items and answers.
        overlap: how many annotators judge an item of the overlap share.
        overlap_share: share of items judged by several annotators, 0–1; 0 for none.
        overlap_least: least number of such items, as far as there are items. Among items of the same
            priority they come first for everybody, so that annotators can be compared however early they
            stop.
        gold_share: share of an annotator's tasks that are hidden gold items, 0–1.
        repeat_share: share of an annotator's tasks that repeat an own earlier item, swapped, 0–1.
        repeat_gap: least number of tasks between an item and its repetition.
        fast_s: a judgement made in less time is marked as too fast to have been read, in seconds.
        price_demonstration: cost of one edited answer; 0 where nothing is paid.
        price_pair: cost of one comparison (a ranking of K answers counts as K − 1); 0 likewise.
        currency: sign shown before costs.
        lease_h: hours after which an item opened and not judged goes to others.
    """

    attributes: tuple[str, ...] = ("helpfulness", "honesty", "harmlessness")
    seed: int = 0
    overlap: int = 2
    overlap_share: float = 0.1
    overlap_least: int = 20
    gold_share: float = 0.05
    repeat_share: float = 0.03
    repeat_gap: int = 20
    fast_s: float = 1.0
    price_demonstration: float = 0.0
    price_pair: float = 0.0
    currency: str = "$"
    lease_h: float = 24.0

    def __post_init__(self) -> None:
        for name in ("overlap_share", "gold_share", "repeat_share"):
            _check(0.0 <= getattr(self, name) <= 1.0, f"{name} must lie between 0 and 1")
        for name in ("fast_s", "price_demonstration", "price_pair", "lease_h"):
            _check(0.0 <= getattr(self, name) < 1e9, f"{name} must not be negative")
        _check(
            self.gold_share + self.repeat_share <= 0.9, "gold_share + repeat_share must leave room for items"
        )
        _check(len(self.currency) <= 8, "currency has at most 8 characters")
        _check(1 <= self.overlap <= 50, "overlap must lie between 1 and 50")
        _check(0 <= self.overlap_least <= 1_000_000, "overlap_least must lie between 0 and 1000000")
        _check(1 <= self.repeat_gap <= 10_000, "repeat_gap must lie between 1 and 10000")
        _check(1 <= len(self.attributes) <= 8, "between 1 and 8 attributes can be scored")
        _check(all(0 < len(a) <= 60 for a in self.attributes), "attribute names have 1 to 60 characters")
        _check(len(set(self.attributes)) == len(self.attributes), "attribute names must differ")

    def to_json(self) -> dict[str, object]:
        """As stored."""
        return {**asdict(self), "attributes": list(self.attributes)}

    @classmethod
    def from_json(cls, values: Mapping) -> Settings:
        """Inverse of `to_json`; a setting that this version does not know is an error."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"unknown project setting '{unknown[0]}'; known are {', '.join(sorted(known))}")
        # Projects made before this setting existed keep the items that they ask for twice.
        stored = {"overlap_least": 0, **values}
        return cls(**{**stored, "attributes": tuple(values.get("attributes", cls().attributes))})


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise Rejected(message, status=422, reason="settings")


@dataclass(frozen=True, slots=True)
class Project:
    """One labelling job; `task` is a key of tasks.ANSWER_COUNTS."""

    id: int
    name: str
    task: str
    settings: Settings
    guideline_version: int
    revision: int


@dataclass(frozen=True, slots=True)
class Annotator:
    """A person (or a simulation) who judges; `role` is annotator, owner or simulated.

    `person` is the id of the first row of somebody who works in every project, else None (see people.py).
    """

    id: int
    project_id: int | None
    name: str
    role: str
    epoch: int
    language: str
    removed: float | None
    person: int | None = None


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    """One completion; `model` and `details` are hidden from annotators."""

    text: str
    model: str = ""
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewItem:
    """What to judge: a prompt and its answers.

    Attributes:
        gold: the expected judgement as stored (see tasks), which makes the item a hidden check.
        arm: strategy by which it was chosen; `random` is the control.
        priority: higher is shown earlier.
        scores: reward-model scores, [answer] or [member][answer].
    """

    prompt: Conversation
    answers: tuple[ItemAnswer, ...]
    gold: Mapping | None = None
    arm: str = "random"
    priority: float = 0.0
    scores: list | None = None
    provenance: Provenance = Provenance()


def item_row(item: NewItem, *, project: Project, now: float) -> dict[str, object]:
    """Checked row of the items table.

    Raises:
        Rejected: wrong number of answers for the task, an expected judgement that does not fit it, or
            text that cannot be stored.
    """
    low, high = ANSWER_COUNTS[project.task]
    if not low <= len(item.answers) <= high:
        wanted = f"{low}" if low == high else f"{low} to {high}"
        raise Rejected(
            f"task {project.task} needs {wanted} answers, this item has {len(item.answers)}",
            reason="num_answers",
        )
    if not item.prompt:
        raise Rejected("the item has no prompt", reason="empty_prompt")
    prompt = _cleaned(message_rows(item.prompt))
    answers = [{"text": clean(a.text), "model": a.model, "details": dict(a.details)} for a in item.answers]
    if project.task != "edit" and any(not answer["text"].strip() for answer in answers):
        raise Rejected("an answer is empty", reason="empty_answer")
    if item.gold is not None:
        _check_gold(item.gold, project, len(answers))
    digest = _digest(prompt, [a["text"] for a in answers])
    origin = item.provenance
    return {
        "project_id": project.id,
        "key": digest.hex(),
        "prompt": prompt,
        "answers": answers,
        "gold": None if item.gold is None else dict(item.gold),
        "scores": item.scores,
        "arm": item.arm,
        "priority": item.priority,
        "lot": int.from_bytes(digest[:6], "big") / 2**48,
        "provenance": {
            "file": origin.file,
            "line": origin.line,
            "origin": origin.origin,
            "details": dict(origin.details),
        },
        "created": now,
    }


def item_keys(prompt: list[dict[str, Any]], answers: Sequence[str]) -> list[str]:
    """Keys that an item with this prompt (message rows) and these answers has, in whatever order they stand.

    Raises:
        Rejected: more answers than any task has, or text that cannot be stored.
    """
    most = max(high for _, high in ANSWER_COUNTS.values())
    if len(answers) > most:
        raise Rejected(f"an item has at most {most} answers", status=422, reason="num_answers")
    rows, texts = _cleaned(prompt), [clean(text) for text in answers]
    return [_digest(rows, order).hex() for order in permutations(texts)]


def _digest(prompt: list[dict[str, Any]], answers: Sequence[str]) -> bytes:
    content = json.dumps([prompt, list(answers)], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()


def _check_gold(gold: Mapping, project: Project, num_answers: int) -> None:
    """What is expected must be something that can be said, or the owner's numbers could not be computed."""
    if project.task == "edit":
        raise Rejected("an edited answer cannot be compared with an expected one", reason="gold")
    if project.task == "pair":
        if gold.get("preference") not in (-2, -1, 0, 1, 2) or not isinstance(gold.get("both_bad"), bool):
            raise Rejected("the expected judgement is no preference", reason="gold")
    else:
        canonical(project.task, gold, order=range(num_answers), attributes=project.settings.attributes)


def clean(text: str) -> str:
    """Text that every database can hold: NUL becomes U+FFFD; a lone surrogate is refused."""
    if len(text) > MAX_ANSWER:
        raise Rejected(f"a text is longer than {MAX_ANSWER} characters", reason="too_long")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Rejected(
            "a text holds a lone surrogate, which is not Unicode text", reason="surrogate"
        ) from error
    return text.replace("\x00", "�")


def _cleaned(value: Any) -> Any:
    """Plain data whose every text has been through `clean`."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(str(name)): _cleaned(item) for name, item in value.items()}
    return value
