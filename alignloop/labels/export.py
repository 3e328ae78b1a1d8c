"""Judgements as records for training, with their provenance.

Each task has one kind that it says directly (NATIVE). Any other kind is derived and made only on
request: preferences implied by scores or rankings often differ from those people state
(arXiv 2308.15812). What is left out is counted by reason.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import Row

from alignloop.errors import UserError
from alignloop.labels.project import Project
from alignloop.labels.quality import agrees
from alignloop.labels.store import Store
from alignloop.labels.tasks import comparisons
from alignloop.labels.votes import Vote, item_rows, live_votes
from alignloop.records import (
    Demonstration,
    Label,
    Origin,
    Preference,
    Provenance,
    Ranking,
    Rating,
    Record,
    as_context,
    conversation_of,
)

NATIVE = {
    "pair": "preference",
    "ranking": "ranking",
    "scores": "rating",
    "thumbs": "label",
    "edit": "demonstration",
}
JUDGED_BEFORE = ("annotator", "comment", "judge", "judgement", "judgements", "scorer")
"""Details of the imported data that speak of other judgements than the exported ones."""

DERIVED: dict[tuple[str, str], str] = {
    ("ranking", "preference"): "every two answers of a ranking",
    ("scores", "preference"): "every two answers whose mean scores differ",
    ("edit", "preference"): "the edited answer over the one it was made from",
}
"""What can be derived: (task, kind) → how."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which judgements go out.

    Attributes:
        votes: `each` judgement its own record, or `mean` for one preference per item with the share of
            votes as its probability (pair projects).
        annotators: names to keep; all if empty.
        without: names to leave out.
        arms: selection arms to keep; all if empty.
        min_agreement: least mean agreement (0–1) with the other annotators of the item, where there are any.
        min_seconds: judgements made faster are left out.
        after: only judgements with a greater id, for what is new since a training run.
        until: only judgements up to this id.
        guideline_version: only judgements made under this version of the guidelines.
        ties: keep ties, as preferences with probability ½.
        both_bad: keep "both bad", likewise as ½.
        flagged: keep flagged judgements.
        gold: keep judgements on hidden gold items.
        adjudicated_only_final: where the owner has decided, leave the annotators' votes out.
        strong_margin: margin of A ≫ B, in reward units; A > B has 0.

    Raises:
        UserError: a number that is not finite or out of its range.
    """

    votes: Literal["each", "mean"] = "each"
    annotators: Sequence[str] = ()
    without: Sequence[str] = ()
    arms: Sequence[str] = ()
    min_agreement: float = 0.0
    min_seconds: float = 0.0
    after: int = 0
    until: int | None = None
    guideline_version: int | None = None
    ties: bool = True
    both_bad: bool = False
    flagged: bool = False
    gold: bool = False
    adjudicated_only_final: bool = True
    strong_margin: float = 1.0

    def __post_init__(self) -> None:
        numbers = {"min_agreement": 1.0, "min_seconds": math.inf, "strong_margin": math.inf}
        for name, most in numbers.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= most):
                bounds = "from 0 to 1" if most == 1 else "of at least 0"
                raise UserError(f"{name} is {value}; expected a number {bounds}")


@dataclass(frozen=True, slots=True)
class Export:
    """Records, and how many judgements were left out for which reason."""

    records: list[Record]
    left_out: dict[str, int]
    judgement_ids: list[int] = field(default_factory=list)


def records(
    store: Store,
    project: Project,
    kind: str | None = None,
    *,
    filters: Filters | None = None,
    derive: bool = False,
) -> Export:
    """Judgements in force as records.

    Args:
        store: an open store.
        project: whose judgements.
        kind: record kind; the task's own if not given.
        filters: which judgements go out.
        derive: permit a kind that the annotators were not asked for; its records' origin is `derived`.

    Returns:
        The records and what was left out.

    Raises:
        UserError: the task cannot give this kind, or only with `derive`.
    """
    filters = filters or Filters()
    kind = kind or NATIVE[project.task]
    _check(project.task, kind, filters, derive)
    with store.reading() as connection:
        votes = live_votes(connection, project.id)
        rows = item_rows(connection, sorted({v.item_id for v in votes}))
    left_out: Counter[str] = Counter()
    kept = _kept(project, votes, rows, filters, left_out)
    if filters.votes == "mean":
        made = _means(project, kept, rows, filters, left_out)
    else:
        made = _each(project, kind, kept, rows, filters, left_out)
    found, ids = [], set()
    for record, used in made:
        found.append(record)
        ids.update(used)
    return Export(found, dict(left_out), sorted(ids))


def _check(task: str, kind: str, filters: Filters, derive: bool) -> None:
    if kind != NATIVE[task] and (task, kind) not in DERIVED:
        raise UserError(f"a {task} project gives {NATIVE[task]} records, it cannot give {kind} records")
    if kind != NATIVE[task] and not derive:
        how = DERIVED[task, kind]
        raise UserError(
            f"{kind} records from a {task} project would be derived ({how}); ask for it by --derive"
        )
    if filters.votes == "mean" and task != "pair":
        raise UserError("one record per item (votes: mean) exists for pair projects")


Kept = list[tuple[Vote, float | None, int]]
"""Vote, its agreement with the item's other annotators, number of votes on the item."""


def _kept(
    project: Project, votes: Sequence[Vote], rows: Mapping[int, Row], filters: Filters, left_out: Counter[str]
) -> Kept:
    by_item: dict[int, list[Vote]] = defaultdict(list)
    final = {v.item_id for v in votes if v.kind == "adjudication"}
    for vote in votes:
        if vote.kind != "repeat":
            by_item[vote.item_id].append(vote)
    kept: Kept = []
    for vote in votes:
        others = [v for v in by_item[vote.item_id] if v.annotator_id != vote.annotator_id]
        shares = [agrees(project.task, vote.answer, other.answer) for other in others]
        known = [s for s in shares if s is not None]
        agreement = sum(known) / len(known) if known else None
        reason = _reason_against(vote, rows[vote.item_id], final, agreement, filters)
        if reason is None:
            kept.append((vote, agreement, len(by_item[vote.item_id])))
        elif reason != "range":
            left_out[reason] += 1
    return kept


def _reason_against(
    vote: Vote, row: Row, final: set[int], agreement: float | None, filters: Filters
) -> str | None:
    version = filters.guideline_version
    checks = {
        # Outside the asked range of ids is not "left out": it was not asked for.
        "range": vote.judgement_id <= filters.after
        or vote.judgement_id > (filters.until or vote.judgement_id),
        "repetition": vote.kind == "repeat",
        "gold": row.gold is not None and not filters.gold,
        "annotator": bool(filters.annotators) and vote.annotator not in filters.annotators,
        "annotator left out": vote.annotator in filters.without,
        "arm": bool(filters.arms) and row.arm not in filters.arms,
        "flagged": vote.flagged and not filters.flagged,
        "too fast": vote.seconds < filters.min_seconds,
        "other guidelines": version is not None and vote.guideline_version != version,
        "adjudicated": filters.adjudicated_only_final
        and vote.item_id in final
        and vote.kind != "adjudication",
        "agreement": agreement is not None
        and vote.kind != "adjudication"
        and agreement < filters.min_agreement,
    }
    return next((reason for reason, applies in checks.items() if applies), None)


Made = Iterator[tuple[Record, list[int]]]


def _each(
    project: Project, kind: str, kept: Kept, rows: Mapping[int, Row], filters: Filters, left_out: Counter[str]
) -> Made:
    for vote, agreement, num_votes in kept:
        row = rows[vote.item_id]
        origin: Origin = "human" if kind == NATIVE[project.task] else "derived"
        source = _provenance(project, vote, row, origin, agreement, num_votes)
        if kind == "preference" and project.task == "pair":
            record, reason = _preference(vote, row, source, filters)
            if record is None:
                left_out[reason] += 1
            else:
                yield record, [vote.judgement_id]
        elif kind == "preference":
            yield from _derived(project.task, vote, row, source)
        else:
            yield from _native(project.task, vote, row, source)


def _native(task: str, vote: Vote, row: Row, source: Provenance) -> Made:
    prompt, texts, used = conversation_of(row.prompt), [a["text"] for a in row.answers], [vote.judgement_id]
    if task == "ranking":
        yield Ranking(prompt, tuple(texts), tuple(vote.answer["ranks"]), source), used
    elif task == "edit":
        yield Demonstration(as_context(prompt), vote.answer["text"], source), used
    elif task == "thumbs":
        for text, good in zip(texts, vote.answer["thumbs"], strict=True):
            yield Label(prompt, text, good, source), used
    else:
        for k, text in enumerate(texts):
            scores = {name: float(values[k]) for name, values in vote.answer["scores"].items()}
            yield Rating(prompt, text, scores, source), used


def _preference(vote: Vote, row: Row, source: Provenance, filters: Filters) -> tuple[Preference | None, str]:
    preference, both_bad = vote.answer["preference"], vote.answer["both_bad"]
    if both_bad and not filters.both_bad:
        return None, "both bad"
    if preference == 0 and not both_bad and not filters.ties:
        return None, "tie"
    texts = [answer["text"] for answer in row.answers]
    chosen, rejected = texts if preference >= 0 else texts[::-1]
    margin = filters.strong_margin if abs(preference) == 2 else 0.0
    probability = 0.5 if preference == 0 else 1.0
    return Preference(conversation_of(row.prompt), chosen, rejected, probability, margin, source), ""


def _derived(task: str, vote: Vote, row: Row, source: Provenance) -> Made:
    prompt, texts, used = conversation_of(row.prompt), [a["text"] for a in row.answers], [vote.judgement_id]
    if task == "edit":
        base = vote.answer["base"]
        if base is not None and texts[base].strip() != vote.answer["text"].strip():
            yield Preference(prompt, vote.answer["text"], texts[base], provenance=source), used
        return
    for (i, j), sign in comparisons(task, vote.answer).items():
        if sign:
            better, worse = (i, j) if sign > 0 else (j, i)
            yield Preference(prompt, texts[better], texts[worse], provenance=source), used


def _means(
    project: Project, kept: Kept, rows: Mapping[int, Row], filters: Filters, left_out: Counter[str]
) -> Made:
    by_item: dict[int, Kept] = defaultdict(list)
    for entry in kept:
        vote = entry[0]
        if vote.answer["both_bad"] and not filters.both_bad:
            left_out["both bad"] += 1
        else:
            by_item[vote.item_id].append(entry)
    for item_id, entries in by_item.items():
        signs = [(p > 0) - (p < 0) for p in (vote.answer["preference"] for vote, _, _ in entries)]
        share = sum((sign + 1) / 2 for sign in signs) / len(signs)
        if share == 0.5 and not filters.ties:
            left_out["tie"] += len(entries)
            continue
        row, (vote, agreement, num_votes) = rows[item_id], entries[0]
        source = _provenance(project, vote, row, "human", agreement, num_votes)
        details = {
            **source.details,
            "annotator": ", ".join(v.annotator for v, _, _ in entries),
            "judgements": ", ".join(str(v.judgement_id) for v, _, _ in entries),
            "seconds": sum(v.seconds for v, _, _ in entries),
        }
        comments = [v.note for v, _, _ in entries if v.note]
        if comments:
            details["comment"] = " / ".join(comments)
        texts = [answer["text"] for answer in row.answers]
        chosen, rejected = texts if share >= 0.5 else texts[::-1]
        record = Preference(
            conversation_of(row.prompt),
            chosen,
            rejected,
            max(share, 1 - share),
            provenance=Provenance(source.file, source.line, source.origin, details),
        )
        yield record, [v.judgement_id for v, _, _ in entries]


def _provenance(
    project: Project, vote: Vote, row: Row, origin: Origin, agreement: float | None, num_votes: int
) -> Provenance:
    simulated = vote.role == "simulated"
    found = row.provenance["details"]
    details: dict[str, str | int | float | bool] = {
        **{name: value for name, value in found.items() if name not in JUDGED_BEFORE},
        "judgement": vote.judgement_id,
        "item": vote.item_id,
        "annotator": vote.annotator,
        "project": project.name,
        "task": project.task,
        "guideline": vote.guideline_version,
        "order": ",".join(str(index) for index in vote.order),
        "seconds": round(vote.seconds, 2),
        "votes": num_votes,
        "arm": row.arm,
        "models": ", ".join(answer["model"] for answer in row.answers),
    }
    if agreement is not None:
        details["agreement"] = round(agreement, 4)
    if vote.note:
        details["comment"] = vote.note
    if vote.kind == "adjudication":
        details["adjudicated"] = True
    if project.task == "pair":
        details["strength"] = abs(vote.answer["preference"])
        details["both_bad"] = vote.answer["both_bad"]
    made: Origin = "simulated" if simulated and origin == "human" else origin
    return Provenance(row.provenance["file"], row.provenance["line"], made, details)
