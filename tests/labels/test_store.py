"""Projects, items and people of the label store."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from alignloop.errors import UserError
from alignloop.labels import people
from alignloop.labels.database import unavailable
from alignloop.labels.faults import Rejected
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.schema import annotators, items
from alignloop.labels.store import Store
from alignloop.records import Message, Provenance
from bench.postgres import fresh_database

PROMPT = (Message("system", "짧게."), Message("user", "왜 하늘은 파란가요? 🌌"))


def item(*texts: str, **more) -> NewItem:
    return NewItem(PROMPT, tuple(ItemAnswer(text, model="m") for text in texts), **more)


def test_a_project_comes_back_as_it_was_made(store):
    settings = Settings(attributes=("도움", "정직"), seed=7, overlap_share=0.25, currency="₩")
    made = store.create_project("평가 1", task="scores", settings=settings, guidelines_text="# 지침")
    assert store.project("평가 1") == store.project() == made
    assert made.settings == settings
    assert store.guidelines(made) == "# 지침"


def test_projects_are_found_or_listed_in_the_message(store):
    with pytest.raises(Rejected, match="none"):
        store.project()
    for name in ("one", "two"):
        store.create_project(name, task="pair")
    with pytest.raises(Rejected, match="'one', 'two'"):
        store.project()
    with pytest.raises(Rejected, match="'three'"):
        store.project("three")
    with pytest.raises(UserError, match="already"):
        store.create_project("one", task="pair")
    with pytest.raises(UserError, match="unknown task"):
        store.create_project("x", task="pairs")


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap_share": 1.5},
        {"gold_share": 0.6, "repeat_share": 0.6},
        {"overlap": 0},
        {"attributes": ()},
        {"attributes": ("a", "a")},
        {"price_pair": -1.0},
        {"price_pair": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(Rejected):
        Settings(**wrong)


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match="overlapp"):
        Settings.from_json({"overlapp": 2})


def test_guidelines_have_versions(store):
    project = store.create_project("p", task="pair", guidelines_text="first")
    assert store.change_guidelines(project, "second") == 2
    assert store.guidelines(project) == "first"
    now = store.project()
    assert (now.guideline_version, store.guidelines(now)) == (2, "second")
    assert now.revision > project.revision


def test_importing_twice_adds_nothing(store):
    project = store.create_project("p", task="pair")
    rows = [item("가", "나"), item("가", "다"), item("가", "나")]
    first = store.add_items(project, rows)
    assert (first.added, first.duplicates, first.refused) == (2, 1, ())
    again = store.add_items(project, rows)
    assert (again.added, again.duplicates) == (0, 3)


def test_items_keep_text_model_and_provenance(store):
    project = store.create_project("p", task="pair")
    source = Provenance("샘플/rows.jsonl", 3, "unknown", {"seed": 1})
    answers = (ItemAnswer("<b>가\x00</b>", "m1", {"temperature": 0.7}), ItemAnswer("나" * 1000, "m2"))
    store.add_items(project, [NewItem(PROMPT, answers, provenance=source, scores=[0.5, -1.0])])
    with store.reading() as connection:
        row = connection.execute(select(items)).one()
    assert row.prompt == [
        {"role": "system", "content": "짧게."},
        {"role": "user", "content": "왜 하늘은 파란가요? 🌌"},
    ]
    assert row.answers[0] == {"text": "<b>가\ufffd</b>", "model": "m1", "details": {"temperature": 0.7}}
    assert row.provenance["file"] == "샘플/rows.jsonl"
    assert (row.scores, row.gold) == ([0.5, -1.0], None)
    assert 0.0 <= row.lot < 1.0


def test_items_that_cannot_be_judged_are_refused_by_row(store):
    project = store.create_project("p", task="pair")
    rows = [
        item("a", "b"),
        item("a"),
        item("a", "b", "c"),
        item("a", " "),
        NewItem((), (ItemAnswer("a"), ItemAnswer("b"))),
        item("a", "\ud800"),
        item("a", "x" * 200_001),
    ]
    added = store.add_items(project, rows)
    assert added.added == 1
    assert [number for number, _ in added.refused] == [1, 2, 3, 4, 5, 6]
    assert "needs 2 answers" in added.refused[0][1]
    assert "surrogate" in added.refused[4][1]


def test_invitations_are_long_random_and_not_stored(store):
    project = store.create_project("p", task="pair")
    first, token = people.invite(store, project, "김하나", language="ko")
    _, other = people.invite(store, project, "Bo")
    assert len(token) >= 43
    assert token != other
    with store.reading() as connection:
        stored = [str(row) for row in connection.execute(select(annotators))]
    assert not any(token in row for row in stored)
    assert people.by_token(store, token) == first
    assert people.by_token(store, token[:-1]) is None
    assert people.by_token(store, "") is None
    with pytest.raises(Rejected, match="already"):
        people.invite(store, project, " 김하나 ")


def test_removal_and_new_links_end_the_old_token(store):
    project = store.create_project("p", task="pair")
    ann, token = people.invite(store, project, "a")
    fresh = people.new_link(store, ann.id)
    assert people.by_token(store, token) is None
    assert people.by_token(store, fresh).epoch == 1
    people.remove(store, ann.id)
    assert people.by_token(store, fresh) is None
    assert people.find(store, ann.id).removed is not None
    with pytest.raises(Rejected):
        people.remove(store, 999)


def test_somebody_who_was_removed_can_come_back(store, make_project, sit_down):
    project = make_project(store)
    desk, session = sit_down(store, project, "ann")
    task = desk.call(lambda c: desk.next(c, session)).task
    desk.call(lambda c: desk.submit(c, session, Submission(task.id, "k", answer={"verdict": "a"})))
    people.remove(store, session.annotator_id)
    back, token = people.invite(store, project, "ann", language="ko")
    assert (back.id, back.removed, back.language) == (session.annotator_id, None, "ko")
    assert people.by_token(store, token) == back
    with pytest.raises(Rejected, match="session has ended"):
        desk.call(lambda c: desk.next(c, session))
    receipt = desk.call(lambda c: desk.next(c, Session(back.id, back.epoch)))
    assert receipt.progress.done == 1
    assert receipt.task.item_id != task.item_id
    with pytest.raises(Rejected, match="already an annotator"):
        people.invite(store, project, "ann")


def test_new_labels_and_the_models_made_from_them(store, make_project, sit_down):
    project = make_project(store, count=4)
    desk, session = sit_down(store, project)
    receipt = desk.call(lambda c: desk.next(c, session))
    ids = []
    for k in range(3):
        sent = Submission(receipt.task.id, f"k{k}", answer={"verdict": "a"})
        receipt = desk.call(lambda c, sent=sent: desk.submit(c, session, sent))
        ids.append(receipt.judgement_id)
    assert store.new_labels_since(project) == ids
    assert store.new_labels_since(project, ids[0]) == ids[1:]
    desk.call(lambda c: desk.undo(c, session, "u"))
    assert store.new_labels_since(project) == ids[:2]
    store.record_model(project, kind="reward", path="runs/rm", judgement_ids=ids[:2], accuracy=0.61)
    (model,) = store.models(project)
    assert (model.judgement_ids, model.accuracy, model.path) == (ids[:2], 0.61, "runs/rm")


def test_unjudged_items_can_be_scored_and_chosen(store, make_project, sit_down):
    project = make_project(store, count=4)
    desk, session = sit_down(store, project)
    given = desk.call(lambda c: desk.next(c, session)).task.item_id
    left = [row.id for row in store.unjudged_items(project)]
    assert sorted([*left, given]) == [1, 2, 3, 4]
    store.set_scores(project, {left[0]: [[0.1, 0.2]]})
    store.prioritise(project, {left[0]: ("uncertainty", 2.0)})
    with store.reading() as connection:
        row = connection.execute(select(items).where(items.c.id == left[0])).one()
    assert (row.scores, row.arm, row.priority) == ([[0.1, 0.2]], "uncertainty", 2.0)


def test_the_audit_log_tells_who_did_what(store):
    project = store.create_project("p", task="pair")
    people.invite(store, project, "김")
    store.add_items(project, [item("a", "b")])
    store.withdraw(project, [1], reason="개인 정보", actor="주인")
    log = store.audit_log(project)
    assert [row.action for row in log] == [
        "items withdrawn",
        "items added",
        "annotator invited",
        "project created",
    ]
    assert log[0].actor == "주인"
    assert log[0].details == {"items": [1], "why": "개인 정보"}


def test_everything_is_there_after_reopening(url, make_project, sit_down):
    store = Store(url)
    project = make_project(store, count=3)
    desk, session = sit_down(store, project)
    task = desk.call(lambda c: desk.next(c, session)).task
    desk.call(lambda c: desk.submit(c, session, Submission(task.id, "k", answer={"verdict": "b"})))
    store.close()
    again = Store(url)
    assert len(again.new_labels_since(again.project())) == 1
    fresh = Desk(again)
    assert fresh.call(lambda c: fresh.next(c, Session(session.annotator_id))).progress.done == 1
    again.close()


def test_commits_wait_for_the_disk(lite):
    with lite.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        # 2 is FULL: a commit returns after fsync.
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.postgres
def test_postgres_may_not_acknowledge_before_it_has_written(postgres):
    """Whatever the database's own setting says."""
    url = fresh_database(postgres)
    store = Store(url)
    with store.writing() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    store.close()
    again = Store(url)
    with again.reading() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
    again.close()


@pytest.mark.postgres
def test_a_postgres_server_that_ends_its_connections_is_found_again(postgres, make_project, sit_down):
    """As after its restart: the next judgement is stored or refused, never half."""
    store = Store(fresh_database(postgres))
    desk, session = sit_down(store, make_project(store))
    task = desk.call(lambda c: desk.next(c, session)).task
    with store.writing() as connection:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(f"{end} AND datname = current_database()"))
    sent = Submission(task.id, "k", answer={"verdict": "a"})
    receipt = desk.call(lambda c: desk.submit(c, session, sent))
    assert receipt.judgement_id == 1
    store.close()


@pytest.mark.parametrize(
    ("state", "reason"),
    [("53100", "full"), ("53200", "full"), ("55P03", "locked"), ("25006", "readonly"), ("57P01", "lost")],
)
def test_faults_of_postgres_are_named(state, reason):
    class Fault(Exception):
        sqlstate = state

    found = unavailable(OperationalError("INSERT", {}, Fault()))
    assert found is not None
    assert (found.reason, found.status) == (reason, 503)


@pytest.mark.parametrize("bad", ["a\x00b", "\ud800"])
def test_text_that_a_database_cannot_hold(store, make_project, bad):
    project = make_project(store)
    if bad == "\ud800":
        with pytest.raises(Rejected, match="surrogate"):
            people.invite(store, project, bad)
        return
    annotator, _ = people.invite(store, project, bad)
    store.change_guidelines(project, bad)
    found = store.project(project.id)
    assert (annotator.name, store.guidelines(found)) == ("a\ufffdb", "a\ufffdb")


@pytest.mark.parametrize(
    ("task", "gold"),
    [
        ("pair", {"ranks": [1, 2]}),
        ("pair", {"preference": 3, "both_bad": False}),
        ("ranking", {"preference": 1, "both_bad": False}),
        ("ranking", {"ranks": [1]}),
        ("scores", {"scores": {"other": [1, 2]}}),
        ("thumbs", {"thumbs": [True]}),
        ("edit", {"text": "x", "base": None}),
    ],
)
def test_an_expected_judgement_that_nobody_can_give_is_refused(lite, task, gold):
    project = lite.create_project("p", task=task)
    item = NewItem((Message("user", "q"),), (ItemAnswer("a"), ItemAnswer("b")), gold=gold)
    added = lite.add_items(project, [item])
    assert added.added == 0
    assert len(added.refused) == 1
