"""Which item an annotator sees next, and in which order its answers.

Orders follow from seed, annotator and item alone, so they can be recomputed and do not change when
items are added. The queue is a picture in memory of what the database says; whoever writes keeps both
in step, and a failed transaction throws the picture away.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, func, select

from alignloop.labels.project import Project, Settings
from alignloop.labels.schema import assignments, items, judgements

_SCAN = 256
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray | int, *salts: int) -> np.ndarray:
    """SplitMix64 (Steele et al. 2014): uniform uint64 from integers, the same on every machine.

    Args:
        values: (N,) integers, or one.
        *salts: integers mixed in one after the other, such as seed and annotator.

    Returns:
        (N,) uint64.
    """
    state = np.atleast_1d(np.asarray(values)).astype(np.uint64)
    with np.errstate(over="ignore"):
        for salt in (*salts, 0):
            state = state + np.uint64(salt & 0xFFFFFFFFFFFFFFFF) * _GOLDEN + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def display_order(
    num_answers: int, *, seed: int, annotator_id: int, item_id: int, round: int = 0
) -> list[int]:
    """Item index by displayed place, uniform over permutations; a repetition shows the reverse."""
    keys = mix(np.arange(num_answers), seed, annotator_id, item_id)
    order = np.argsort(keys, kind="stable").tolist()
    return order[::-1] if round % 2 else order


def shared_items(lots: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Which items several annotators judge.

    Lots below the share decide, so that the choice follows from an item's content. A small project could
    have none that way; the lowest lots then join, up to the least number.

    Args:
        lots: (N,) numbers in [0, 1).
        settings: overlap, its share, and its least number.

    Returns:
        (N,) bool, judged by several; (N,) integers, the turn at which an item comes in everybody's order:
        from 0 for those with the lowest lots, up to the least number; N for all others.
    """
    turns = np.full(len(lots), len(lots), dtype=np.int64)
    if settings.overlap < 2 or settings.overlap_share == 0.0:
        return np.zeros(len(lots), dtype=bool), turns
    first = np.argsort(lots, kind="stable")[: settings.overlap_least]
    turns[first] = np.arange(len(first))
    return (turns < len(lots)) | (lots < settings.overlap_share), turns


@dataclass(slots=True)
class AnnotatorState:
    """One annotator's place: what was seen, in which order the rest comes, counts for the page."""

    order: np.ndarray
    seen: set[int]
    seq: int
    done: int
    skipped: int
    redo: int
    history: list[int]
    num_repeated: int
    golds: deque[int]
    cursor: int = 0


@dataclass(slots=True)
class Queue:
    """All open work of a project; built by `load`.

    `turns` are those of shared items that everybody is given first, after items of higher priority (see
    `shared_items`).
    """

    project: Project
    ids: np.ndarray
    wanted: np.ndarray
    taken: np.ndarray
    priority: np.ndarray
    turns: np.ndarray
    gold_ids: np.ndarray
    place: dict[int, int]
    remaining: int
    loaded: float
    states: dict[int, AnnotatorState] = field(default_factory=dict)

    @classmethod
    def load(cls, connection: Connection, project: Project) -> Queue:
        """Read the project's open work."""
        now, settings = time.time(), project.settings
        lease = settings.lease_h * 3600
        rows = connection.execute(
            select(items.c.id, items.c.priority, items.c.lot, items.c.gold.is_not(None))
            .where(items.c.project_id == project.id, items.c.withdrawn.is_(None))
            .order_by(items.c.id)
        ).all()
        plain = [(row[0], row[1], row[2]) for row in rows if not row[3]]
        ids = np.array([row[0] for row in plain], dtype=np.int64)
        lots = np.array([row[2] for row in plain], dtype=np.float64)
        place = {int(item_id): k for k, item_id in enumerate(ids)}
        taken = np.zeros(len(ids), dtype=np.int64)
        fresh = (assignments.c.state == "done") | (
            # An item opened far in the future was opened by a clock that has been put back since.
            (assignments.c.state == "open") & assignments.c.opened.between(now - lease, now + lease)
        )
        held = (
            select(assignments.c.item_id, func.count())
            .where(assignments.c.project_id == project.id, assignments.c.kind == "item", fresh)
            .group_by(assignments.c.item_id)
        )
        for item_id, count in connection.execute(held):
            if item_id in place:
                taken[place[item_id]] = count
        several, turns = shared_items(lots, settings)
        wanted = np.where(several, settings.overlap, 1).astype(np.int64)
        return cls(
            project=project,
            ids=ids,
            wanted=wanted,
            taken=taken,
            priority=np.array([row[1] for row in plain], dtype=np.float64),
            turns=turns,
            gold_ids=np.array([row[0] for row in rows if row[3]], dtype=np.int64),
            place=place,
            remaining=int(np.maximum(wanted - taken, 0).sum()),
            loaded=time.monotonic(),
        )

    def state(self, connection: Connection, annotator_id: int) -> AnnotatorState:
        """An annotator's place, read from the database the first time."""
        if annotator_id not in self.states:
            self.states[annotator_id] = self._read_state(connection, annotator_id)
        return self.states[annotator_id]

    def _read_state(self, connection: Connection, annotator_id: int) -> AnnotatorState:
        columns = (assignments.c.item_id, assignments.c.kind, assignments.c.state, assignments.c.current_id)
        mine = connection.execute(
            select(*columns, assignments.c.seq)
            .where(assignments.c.annotator_id == annotator_id, assignments.c.kind != "adjudication")
            .order_by(assignments.c.seq)
        ).all()
        last_action = connection.scalar(
            select(judgements.c.action)
            .where(judgements.c.annotator_id == annotator_id)
            .order_by(judgements.c.id.desc())
            .limit(1)
        )
        retracted = sum(row.state == "open" and row.current_id is not None for row in mine)
        seen = {row.item_id for row in mine}
        seed = self.project.settings.seed
        golds = self.gold_ids[np.argsort(mix(self.gold_ids, seed, annotator_id), kind="stable")]
        return AnnotatorState(
            order=np.lexsort((mix(self.ids, seed, annotator_id), self.turns, -self.priority)),
            seen=seen,
            seq=max((row.seq for row in mine), default=0),
            done=sum(row.state == "done" for row in mine),
            skipped=sum(row.state == "skipped" for row in mine),
            redo=retracted if last_action in ("undo", "redo") else 0,
            history=[row.item_id for row in mine if row.kind == "item" and row.state == "done"],
            num_repeated=sum(row.kind == "repeat" for row in mine),
            golds=deque(int(i) for i in golds if int(i) not in seen),
        )

    def draw(self, connection: Connection, annotator_id: int) -> tuple[int, str] | None:
        """Choose and reserve the annotator's next task: (item id, kind), or None when nothing is left.

        Kinds: `item`, `gold` (hidden check), `repeat` (an own earlier item, swapped).
        """
        state, settings = self.state(connection, annotator_id), self.project.settings
        chance = float(mix(state.seq + 1, settings.seed, annotator_id)[0]) / 2.0**64
        drawn: tuple[int, str] | None = None
        if chance < settings.gold_share:
            drawn = (state.golds.popleft(), "gold") if state.golds else None
        elif chance < settings.gold_share + settings.repeat_share:
            drawn = self._repeat(state)
        if drawn is None:
            item_id = self._next_item(state)
            drawn = None if item_id is None else (item_id, "item")
        if drawn is None:
            return None
        state.seq += 1
        state.seen.add(drawn[0])
        if drawn[1] == "item":
            self.take(drawn[0], 1)
        return drawn

    def claim(self, connection: Connection, annotator_id: int, item_id: int, *, check: bool) -> str:
        """Reserve an item that an annotator names; returns its kind, `gold` for a hidden check."""
        state = self.state(connection, annotator_id)
        state.seq += 1
        state.seen.add(item_id)
        if not check:
            self.take(item_id, 1)
            return "item"
        if item_id in state.golds:
            state.golds.remove(item_id)
        return "gold"

    def _repeat(self, state: AnnotatorState) -> tuple[int, str] | None:
        due = len(state.history) - self.project.settings.repeat_gap
        while state.num_repeated < due:
            item_id = state.history[state.num_repeated]
            state.num_repeated += 1
            if item_id in self.place:
                return item_id, "repeat"
        return None

    def _next_item(self, state: AnnotatorState) -> int | None:
        while state.cursor < len(state.order):
            block = state.order[state.cursor : state.cursor + _SCAN]
            for offset in np.flatnonzero(self.taken[block] < self.wanted[block]):
                item_id = int(self.ids[block[offset]])
                if item_id not in state.seen:
                    state.cursor += int(offset)
                    return item_id
            state.cursor += len(block)
        # Items that others gave back may lie behind the cursor.
        open_places = state.order[self.taken[state.order] < self.wanted[state.order]]
        return next((i for i in self.ids[open_places].tolist() if i not in state.seen), None)

    def take(self, item_id: int, count: int) -> None:
        """Reserve an item (count 1) or give it back (−1)."""
        if item_id not in self.place:
            return
        place = self.place[item_id]
        before = max(self.wanted[place] - self.taken[place], 0)
        self.taken[place] += count
        self.remaining += int(max(self.wanted[place] - self.taken[place], 0) - before)
