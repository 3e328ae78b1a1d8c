"""One person in every project: one link, one end, judgements that stay apart by project."""

from __future__ import annotations

import pytest

from alignloop.labels import people
from alignloop.labels.faults import Rejected
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.store import Store


def projects(store: Store, make_project) -> list:
    return [make_project(store, name=name, count=3) for name in ("pairs", "more pairs")]


def test_one_link_opens_every_project_and_those_made_later(store, make_project):
    first, second = projects(store, make_project)
    annotator, token = people.invite(store, second, "민지", everywhere=True)
    works = people.memberships(store, annotator)
    assert [project.id for _, project in works] == [first.id, second.id]
    assert len({member.id for member, _ in works}) == 2
    third = make_project(store, name="later", count=1)
    works = people.memberships(store, people.by_token(store, token))
    assert [project.id for _, project in works] == [first.id, second.id, third.id]
    desk = Desk(store)
    for member, _ in works:
        session = Session(member.id, member.epoch)
        task = desk.call(lambda c, s=session: desk.next(c, s)).task
        sent = Submission(task.id, f"k{task.id}", answer={"verdict": "a"})
        desk.call(lambda c, s=session, sent=sent: desk.submit(c, s, sent))
    assert [len(store.new_labels_since(project)) for _, project in works] == [1, 1, 1]


def test_a_link_to_one_project_opens_no_other(store, make_project):
    first, _ = projects(store, make_project)
    annotator, _ = people.invite(store, first, "민지")
    assert [project.id for _, project in people.memberships(store, annotator)] == [first.id]
    assert len(people.list_annotators(store)) == 1


def test_a_new_link_ends_the_sessions_in_every_project(store, make_project):
    projects(store, make_project)
    token = people.link_for(store, "민지")
    before = people.memberships(store, people.by_token(store, token))
    again = people.link_for(store, "민지")
    assert people.by_token(store, token) is None
    after = people.memberships(store, people.by_token(store, again))
    assert [member.id for member, _ in after] == [member.id for member, _ in before]
    assert all(new.epoch > old.epoch for (new, _), (old, _) in zip(after, before, strict=True))


def test_the_end_of_access_holds_in_every_project(store, make_project):
    first, second = projects(store, make_project)
    annotator, token = people.invite(store, first, "민지", everywhere=True)
    (_, there) = people.memberships(store, annotator)
    people.remove(store, there[0].id)
    assert people.by_token(store, token) is None
    assert all(a.removed for project in (first, second) for a in people.list_annotators(store, project))
    desk = Desk(store)
    with pytest.raises(Rejected, match="ended"):
        desk.call(lambda c: desk.next(c, Session(annotator.id, annotator.epoch)))


def test_names_stay_one_person(store, make_project):
    first, second = projects(store, make_project)
    alone, old = people.invite(store, second, "민지")
    token = people.link_for(store, "민지")  # from now on in every project
    assert people.by_token(store, old) is None
    works = people.memberships(store, people.by_token(store, token))
    assert alone.id in [member.id for member, _ in works]
    for project in (first, second, make_project(store, name="later", count=1)):
        with pytest.raises(Rejected, match="already an annotator"):
            people.invite(store, project, "민지")


def test_a_link_needs_a_project(store):
    with pytest.raises(Rejected, match="no project yet"):
        people.link_for(store, "민지")


def test_a_simulated_annotator_of_the_same_name_is_nobodys_row(store, make_project):
    first, second = projects(store, make_project)
    people.invite(store, second, "s", role="simulated")
    with pytest.raises(Rejected, match="simulated annotator named 's'"):
        people.invite(store, first, "s", everywhere=True)
    assert people.list_annotators(store, first) == []
