"""Which of a project's unjudged items people see next, by reward models or by difference from the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select

from alignloop.errors import UserError
from alignloop.labels.project import Project
from alignloop.labels.schema import assignments, items
from alignloop.labels.select import Strategy, choose, text_features
from alignloop.labels.store import Store
from alignloop.records import conversation_of
from alignloop.stages.reward_model import RewardModel


def choose_next(
    store: Store,
    project: Project,
    *,
    strategy: Strategy,
    count: int,
    reward_models: Sequence[str] = (),
    seed: int = 0,
) -> Counter[str]:
    """Put `count` items before all others, a random share of them as control; scores and arms are kept.

    Args:
        store: the label store.
        project: in it.
        strategy: uncertainty and gap need reward models.
        count: items to choose.
        reward_models: reward runs; several, or one that is an ensemble, vote with all their members.
        seed: of the random arm.

    Returns:
        Items by the arm that chose them.

    Raises:
        UserError: nothing is left to choose from, items with unequal numbers of answers, or no reward model.
    """
    rows = list(store.unjudged_items(project))
    if not rows:
        raise UserError(f"'{project.name}' has no item left that nobody has been given yet")
    scores = None
    if reward_models:
        scores = member_scores(rows, reward_models)
        store.set_scores(project, {row.id: [m[n] for m in scores] for n, row in enumerate(rows)})
    picked = choose(
        strategy,
        count,
        num_candidates=len(rows),
        scores=scores,
        features=text_features([_question(row.prompt) for row in rows]),
        labelled=text_features([_question(prompt) for prompt in judged_prompts(store, project)]),
        seed=seed,
    )
    first = max(row.priority for row in rows) + 1.0
    chosen = zip(picked.indices.tolist(), picked.arms, strict=True)
    store.prioritise(project, {rows[k].id: (arm, first) for k, arm in chosen}, actor="command line")
    return Counter(picked.arms)


def member_scores(rows: Sequence[Row], reward_models: Sequence[str]) -> list[list[list[float]]]:
    """Rewards [member][item][answer] by every member of every reward model.

    Raises:
        UserError: items with unequal numbers of answers.
        ModelError: no reward model at a path.
    """
    prompts = [conversation_of(row.prompt) for row in rows]
    answers = [[answer["text"] for answer in row.answers] for row in rows]
    if len({len(texts) for texts in answers}) > 1:
        raise UserError("items with unequal numbers of answers cannot be compared by their scores")
    found = []
    for path in reward_models:
        model = RewardModel(path)
        found += [model.score(prompts, answers, member=m) for m in range(model.num_members)]
    return found


def judged_prompts(store: Store, project: Project) -> list[Any]:
    """Prompts of the items that somebody has judged."""
    done = select(assignments.c.item_id).where(
        assignments.c.project_id == project.id, assignments.c.state == "done"
    )
    with store.reading() as connection:
        return list(connection.scalars(select(items.c.prompt).where(items.c.id.in_(done))))


def _question(prompt: Sequence[dict[str, str]]) -> str:
    return prompt[-1]["content"]
