"""The owner's numbers of a project."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection, Row, func, select

from alignloop.evaluation import agreement
from alignloop.labels import quality
from alignloop.labels.assign import Queue
from alignloop.labels.cost import price_of
from alignloop.labels.improvement import Answering, Duel, TrainedModel, answering_models, made_models
from alignloop.labels.project import Project
from alignloop.labels.quality import Disagreement, Share
from alignloop.labels.schema import annotators, assignments, items
from alignloop.labels.store import Store
from alignloop.labels.tasks import units
from alignloop.labels.votes import Vote, item_rows, live_votes

CATEGORIES = {
    "pair": (-1.0, 0.0, 1.0),
    "ranking": (-1.0, 0.0, 1.0),
    "scores": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
    "thumbs": (0.0, 1.0),
}
"""What one unit of an answer can be, by task."""

DAY_S = 24 * 3600
REPLICATES = 300
"""Bootstrap replicates of the agreement intervals; the page is read, not published."""


@dataclass(frozen=True, slots=True)
class Person:
    """One annotator's row; shares are None where there is nothing to compute them from.

    `num_fast` judgements were made in less than the project's `fast_s`; `hasty` if that is a habit.
    """

    id: int
    name: str
    role: str
    removed: bool
    judged: int
    skipped: int
    today: int
    last: float | None
    seconds: float | None
    per_hour: float | None
    num_fast: int
    hasty: bool
    kappa: Share | None
    gold: Share | None
    repeats: Share | None
    first_shown: Share | None
    longer: Share | None


@dataclass(frozen=True, slots=True)
class Money:
    """Cost so far and when everything wanted is judged, in the project's currency."""

    spent: float
    forecast: float
    hours_left: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the owner's page shows about a project's progress and quality.

    `num_fast` judgements were made in less than the project's `fast_s`; `alpha_unhurried` is α without
    them, None if there are none or nothing is left.
    """

    num_items: int
    num_withdrawn: int
    num_judged_items: int
    num_judgements: int
    num_wanted: int
    remaining: int
    num_overlap_items: int
    num_overlapped: int
    arms: dict[str, int]
    people: list[Person]
    alpha: Share | None
    ac1: Share | None
    num_fast: int
    alpha_unhurried: Share | None
    disagreements: list[Disagreement]
    flagged: list[Vote]
    money: Money
    models: list[TrainedModel]
    answering: list[Answering]
    duels: list[Duel]


def overview(store: Store, project: Project) -> Overview:
    """Compute the owner's numbers from one moment of the database."""
    with store.reading() as connection:
        queue = Queue.load(connection, project)
        votes = live_votes(connection, project.id)
        rows = item_rows(connection, sorted({v.item_id for v in votes}))
        totals = _totals(connection, project)
        who = connection.execute(
            select(annotators).where(annotators.c.project_id == project.id).order_by(annotators.c.id)
        ).all()
        skips = _skips(connection, project)
    cast = [v for v in votes if v.kind != "adjudication"]
    per_item = Counter(v.item_id for v in cast if v.kind == "item")
    table = one_unit_each(project.task, cast)
    fast = {v.judgement_id for v in quality.fast(cast, project.settings.fast_s)}
    slow = one_unit_each(project.task, [v for v in cast if v.judgement_id not in fast])
    made = made_models(store.models(project))
    answering, duels = answering_models(project.task, cast, rows, made)
    overlapping = queue.ids[queue.wanted > 1].tolist()
    return Overview(
        num_items=sum(totals.values()),
        num_withdrawn=totals.get(True, 0),
        num_judged_items=len(per_item),
        num_judgements=len(cast),
        num_wanted=int(queue.wanted.sum()),
        remaining=queue.remaining,
        num_overlap_items=len(overlapping),
        num_overlapped=sum(per_item[i] >= project.settings.overlap for i in overlapping),
        arms=dict(Counter(rows[item_id].arm for item_id in per_item)),
        people=[_person(project, row, cast, rows, skips.get(row.id, 0), table) for row in who],
        alpha=_alpha(project.task, table),
        ac1=_ac1(project.task, table),
        num_fast=len(fast),
        alpha_unhurried=_alpha(project.task, slow) if fast else None,
        disagreements=quality.disagreements(project.task, votes),
        flagged=[v for v in votes if v.flagged],
        money=_money(project, cast, rows, queue),
        models=made,
        answering=answering,
        duels=duels,
    )


def one_unit_each(task: str, votes: Sequence[Vote]) -> dict[int, dict[int, float]]:
    """Item → annotator → value of one unit of the answer (see tasks.units), items judged twice or more.

    Units of one item depend on each other, so intervals over all of them would be too narrow; which
    unit stands for an item follows from its number.
    """
    table: dict[int, dict[int, float]] = defaultdict(dict)
    for vote in votes:
        values = units(task, vote.answer) if vote.kind != "repeat" else {}
        if values:
            chosen = sorted(values)[vote.item_id % len(values)]
            table[vote.item_id][vote.annotator_id] = values[chosen]
    return {item_id: row for item_id, row in table.items() if len(row) > 1}


def _matrix(table: dict[int, dict[int, float]]) -> list[list[float | None]]:
    people = sorted({annotator for row in table.values() for annotator in row})
    return [[row.get(annotator) for annotator in people] for row in table.values()]


def _alpha(task: str, table: dict[int, dict[int, float]]) -> Share | None:
    if not table:
        return None
    measurement = "nominal" if task == "thumbs" else "interval" if task == "scores" else "ordinal"
    return _share(
        agreement.krippendorff_alpha(_matrix(table), measurement=measurement, replicates=REPLICATES)
    )


def _ac1(task: str, table: dict[int, dict[int, float]]) -> Share | None:
    if not table:
        return None
    return _share(agreement.gwet_ac1(_matrix(table), categories=CATEGORIES[task], replicates=REPLICATES))


def _kappa(task: str, annotator_id: int, table: dict[int, dict[int, float]]) -> Share | None:
    """Cohen's κ of one annotator with everybody else who judged the same items."""
    mine, others = [], []
    for row in table.values():
        for other, value in row.items():
            if annotator_id in row and other != annotator_id:
                mine.append(row[annotator_id])
                others.append(value)
    weighting = "quadratic" if task == "scores" else "none"
    if not mine:
        return None
    return _share(agreement.cohen_kappa(mine, others, weighting=weighting, replicates=REPLICATES))


def _share(found: agreement.Agreement) -> Share | None:
    if math.isnan(found.value):
        return None
    return Share(found.value, found.low, found.high, found.num_items)


def _totals(connection: Connection, project: Project) -> dict[bool, int]:
    withdrawn = items.c.withdrawn.is_not(None)
    query = select(withdrawn, func.count()).where(items.c.project_id == project.id).group_by(withdrawn)
    return {bool(gone): count for gone, count in connection.execute(query)}


def _skips(connection: Connection, project: Project) -> dict[int, int]:
    query = (
        select(assignments.c.annotator_id, func.count())
        .where(assignments.c.project_id == project.id, assignments.c.state == "skipped")
        .group_by(assignments.c.annotator_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _person(
    project: Project,
    row: Row,
    votes: Sequence[Vote],
    rows: Mapping[int, Row],
    skipped: int,
    table: dict[int, dict[int, float]],
) -> Person:
    task = project.task
    mine = [v for v in votes if v.annotator_id == row.id]
    lengths = {i: [len(a["text"]) for a in rows[i].answers] for i in {v.item_id for v in mine}}
    golds = {i: rows[i].gold for i in lengths if rows[i].gold is not None}
    spent = sum(v.seconds for v in mine)
    num_fast = len(quality.fast(mine, project.settings.fast_s))
    first = [quality.first_shown_wins(task, v) for v in mine]
    longer = [quality.longer_wins(task, v, lengths[v.item_id]) for v in mine]
    return Person(
        id=row.id,
        name=row.name,
        role=row.role,
        removed=row.removed is not None,
        judged=len(mine),
        skipped=skipped,
        today=sum(v.created > time.time() - DAY_S for v in mine),
        last=max((v.created for v in mine), default=None),
        seconds=median([v.seconds for v in mine]) if mine else None,
        per_hour=3600 * len(mine) / spent if spent > 0 else None,
        num_fast=num_fast,
        hasty=quality.is_hasty(num_fast, len(mine)),
        kappa=_kappa(task, row.id, table),
        gold=quality.share(quality.gold_hits(task, mine, golds)),
        repeats=quality.share(quality.repeat_agreement(task, mine)),
        first_shown=quality.share([x for x in first if x is not None]),
        longer=quality.share([x for x in longer if x is not None]),
    )


def _money(project: Project, votes: Sequence[Vote], rows: Mapping[int, Row], queue: Queue) -> Money:
    settings = project.settings
    spent = sum(price_of(project, len(rows[v.item_id].answers)) for v in votes)
    each = spent / len(votes) if votes else price_of(project, 2)
    # Hidden checks and repetitions are paid as well.
    tasks_left = queue.remaining / (1 - settings.gold_share - settings.repeat_share)
    seconds = median([v.seconds for v in votes]) if votes else None
    return Money(
        spent=spent,
        forecast=spent + each * tasks_left,
        hours_left=None if seconds is None else tasks_left * seconds / 3600,
    )
