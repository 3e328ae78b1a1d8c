"""What browser tests share: projects to judge, keys, what the page shows, what is stored."""

from __future__ import annotations

from sqlalchemy import select

from alignloop.labels.project import ItemAnswer, NewItem, Project, Settings
from alignloop.labels.schema import judgements
from alignloop.labels.store import Store
from alignloop.records import Message

PLAIN = {"overlap_share": 0.0, "gold_share": 0.0, "repeat_share": 0.0}
READY = "() => document.getElementById('work')?.getAttribute('aria-busy') === 'false'"


def project_of(
    store: Store, task: str = "pair", *, count: int = 5, num_answers: int = 2, **settings
) -> Project:
    made = store.create_project(
        task, task=task, settings=Settings(**{**PLAIN, **settings}), guidelines_text="**공정**하게"
    )
    answers = [
        f"Answer number {k} says *the same* in {k + 3} words" + " more" * k for k in range(num_answers)
    ]
    rows = [
        NewItem((Message("user", f"질문 {n}"),), tuple(ItemAnswer(text) for text in answers))
        for n in range(count)
    ]
    store.add_items(made, rows)
    return store.project(made.id)


def rows(store: Store) -> list:
    with store.reading() as connection:
        return list(connection.execute(select(judgements).order_by(judgements.c.id)))


def seen(page) -> str:
    return page.text_content("#prompt .markdown, #prompt pre").strip()


def press(page, *keys: str) -> None:
    """Keys, then wait until the page has answered."""
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function(READY)
