"""Items found by words and by what became of them."""

from __future__ import annotations

import unicodedata

import pytest

from alignloop.labels import people
from alignloop.labels.faults import Rejected
from alignloop.labels.finding import STATES, find_items
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.records import Message

SETTINGS = Settings(overlap_share=1.0, gold_share=0.0, repeat_share=0.0)


@pytest.fixture
def judged(store):
    """Four items and a withdrawn one; two people judge the first three, with comments, a skip and a flag."""
    project = store.create_project("p", task="pair", settings=SETTINGS)
    texts = ["하늘은 왜 파란가요?", "Why is the SKY blue?", "Straße und ẞ", "never seen", "withdrawn one"]
    rows = [
        NewItem(
            (Message("user", text),), (ItemAnswer(f"{text} left", "model-x"), ItemAnswer("right", "model-y"))
        )
        for text in texts
    ]
    store.add_items(project, rows)
    desk = Desk(store)
    said = {
        "민지": {1: ("left", "", 3.0), 2: ("left", "출처가 없음", 0.4), 3: (None, "", 2.0)},
        "Alex": {1: ("right", "wrong colour", 2.0), 2: ("left", "", 2.0), 3: ("left", "", 0.0)},
    }
    store.withdraw(project, [5], reason="x")
    store.prioritise(project, {item: ("random", 4.0 - item) for item in range(1, 5)})
    for name, answers in said.items():
        annotator, _ = people.invite(store, project, name)
        session = Session(annotator.id)
        for item, (side, note, seconds) in answers.items():
            task = desk.call(lambda c, s=session: desk.next(c, s)).task
            assert task.item_id == item
            verdict = None if side is None else "a" if side in task.answers[0] else "b"
            sent = Submission(
                task.id,
                f"{name}{item}",
                answer=verdict and {"verdict": verdict},
                skip_reason=None if verdict else "unclear",
                note=note,
                flagged=bool(note),
                seconds=seconds,
            )
            desk.call(lambda c, s=session, sent=sent: desk.submit(c, s, sent))
    return store, store.project(project.id)


def ids(found) -> list[int]:
    return [item.id for item in found[0]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("하늘", [1]),
        (unicodedata.normalize("NFD", "하늘은"), [1]),
        ("sky BLUE", [2]),
        ("strasse", [3]),
        ("출처가", [2]),  # a comment
        ("colour", [1]),
        ("model-x left", [1, 2, 3, 4, 5]),
        ("#2", [2]),
        ("nothing like it", []),
        ("", [1, 2, 3, 4, 5]),
    ],
)
def test_words(judged, words, expected):
    assert ids(find_items(*judged, words=words)) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("any", [1, 2, 3, 4, 5]),
        ("judged", [1, 2, 3]),
        ("unjudged", [4, 5]),
        ("shared", [1, 2]),
        ("disagreed", [1]),
        ("commented", [1, 2]),
        ("flagged", [1, 2]),
        ("skipped", [3]),
        ("withdrawn", [5]),
        ("gold", []),
        ("decided", []),
    ],
)
def test_states(judged, state, expected):
    assert ids(find_items(*judged, state=state)) == expected


def test_people_pages_and_what_is_shown(judged):
    store, project = judged
    (who, _) = people.list_annotators(store, project)
    assert ids(find_items(*judged, person=who.id, state="skipped")) == [3]
    found, total = find_items(*judged, offset=1, limit=2)
    assert ([item.id for item in found], total) == ([2, 3], 5)
    second = found[0]
    assert (second.start, second.num_votes) == ("Why is the SKY blue?", 2)
    assert second.comments == (("민지", "출처가 없음"),)
    assert set(second.marks) <= set(STATES)
    with pytest.raises(Rejected, match="unknown state 'x'"):
        find_items(*judged, state="x")
