"""Whether the models made from judgements become better, in the eyes of the same people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import Connection, Row, func, select

from alignloop.labels.quality import Share, share
from alignloop.labels.schema import models
from alignloop.labels.tasks import comparisons
from alignloop.labels.votes import Vote, ranges


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model made from judgements; `accuracy` is a reward model's on held-out ones, 0–1."""

    kind: str
    path: str
    num_judgements: int
    judgements: str
    accuracy: float | None
    created: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What a judge is told of the models: judgements the newest was made from, reward-model accuracies."""

    judgements: int
    first: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class Answering:
    """A model whose answers were judged.

    Attributes:
        name: of the model.
        num_votes: judgements that one of its answers was part of.
        good: share of judgements without "both bad", of thumbs up, or mean score over 5.
    """

    name: str
    num_votes: int
    good: Share | None


@dataclass(frozen=True, slots=True)
class Duel:
    """Answers of two models side by side; `won` is the newer one's share, ties ½."""

    newer: str
    older: str
    won: Share


def made_models(rows: Iterable[Row]) -> list[TrainedModel]:
    """Rows of the models table, oldest first, each naming its judgements."""
    return [
        TrainedModel(
            row.kind, row.path, len(row.judgement_ids), ranges(row.judgement_ids), row.accuracy, row.created
        )
        for row in rows
    ]


def learned(connection: Connection, project_id: int) -> Learned | None:
    """The models in one line: the newest accuracy, and the first one where there are several."""
    query = select(models.c.accuracy, func.json_array_length(models.c.judgement_ids))
    rows = connection.execute(query.where(models.c.project_id == project_id).order_by(models.c.id)).all()
    if not rows:
        return None
    known = [accuracy for accuracy, _ in rows if accuracy is not None]
    return Learned(rows[-1][1], known[0] if len(known) > 1 else None, known[-1] if known else None)


def answering_models(
    task: str, votes: Sequence[Vote], rows: Mapping[int, Row], made: Sequence[TrainedModel]
) -> tuple[list[Answering], list[Duel]]:
    """What was said of each model's answers, and who won against whom.

    Models made from these judgements come after all others, in the order in which they were made; the
    others as their answers appeared. Repeated and deciding judgements are left out: they are not
    independent of the first ones.
    """
    num_votes: dict[str, int] = defaultdict(int)
    good: dict[str, list[float]] = defaultdict(list)
    won: dict[tuple[str, str], list[float]] = defaultdict(list)
    first: dict[str, int] = {}
    for vote in votes:
        names = [answer["model"] for answer in rows[vote.item_id].answers]
        if vote.kind not in ("item", "gold"):
            continue
        for name in filter(None, set(names)):
            num_votes[name] += 1
            first[name] = min(first.get(name, vote.item_id), vote.item_id)
            good[name] += _goodness(task, vote, [k for k, other in enumerate(names) if other == name])
        for (i, j), sign in comparisons(task, vote.answer).items():
            if names[i] != names[j] and names[i] and names[j]:
                won[names[i], names[j]].append((1 + sign) / 2)
                won[names[j], names[i]].append((1 - sign) / 2)
    age = {model.path: place for place, model in enumerate(made)}
    order = sorted(first, key=lambda name: (age.get(name, -1), first[name], name))
    duels = [
        Duel(newer, older, found)
        for place, newer in enumerate(order)
        for older in order[:place]
        if (found := share(won[newer, older])) is not None
    ]
    return [Answering(name, num_votes[name], share(good[name])) for name in order], duels


def _goodness(task: str, vote: Vote, places: Sequence[int]) -> list[float]:
    """How good a vote says one model's answers are by themselves, 0–1."""
    if task == "pair":
        return [0.0 if vote.answer["both_bad"] else 1.0]
    if task == "thumbs":
        return [fmean(float(vote.answer["thumbs"][k]) for k in places)]
    if task == "scores":
        return [fmean(values[k] / 5 for values in vote.answer["scores"].values() for k in places)]
    return []
