"""Judging: nothing lost, nothing double, everything taken back can be put back."""

from __future__ import annotations

import time
from functools import partial

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from alignloop.labels import people
from alignloop.labels.faults import Rejected, StoreUnavailable
from alignloop.labels.judging import Desk
from alignloop.labels.messages import LabelTask, Receipt, Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem
from alignloop.labels.schema import assignments, drafts, items, judgements
from alignloop.labels.store import Store
from alignloop.records import Message


def open_next(desk: Desk, session: Session) -> Receipt:
    return desk.call(lambda c: desk.next(c, session))


def judge(
    desk: Desk, session: Session, task: LabelTask, verdict: str = "a", key: str | None = None, **more
) -> Receipt:
    sent = Submission(
        task.id, key or f"k-{task.id}-{task.expected}", task.expected, answer={"verdict": verdict}, **more
    )
    return desk.call(lambda c: desk.submit(c, session, sent))


def rows(store: Store) -> list:
    with store.reading() as connection:
        return list(connection.execute(select(judgements).order_by(judgements.c.id)))


def test_a_session_judges_every_item_once(store, make_project, sit_down):
    project = make_project(store, count=7)
    desk, session = sit_down(store, project)
    receipt, seen = open_next(desk, session), []
    while receipt.task is not None:
        seen.append(receipt.task.item_id)
        receipt = judge(desk, session, receipt.task)
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 7
    assert receipt.progress.done == 7
    assert receipt.progress.remaining == 0
    assert len(rows(store)) == 7


def test_the_answer_is_stored_in_the_items_order(store, make_project, sit_down):
    project = make_project(store, count=12)
    desk, session = sit_down(store, project)
    receipt = open_next(desk, session)
    while receipt.task is not None:
        # Judge by content: the answer numbered 1 is always much better, wherever it is shown.
        verdict = "a_much" if "answer 1" in receipt.task.answers[0] else "b_much"
        receipt = judge(desk, session, receipt.task, verdict)
    stored = rows(store)
    assert {row.answer["preference"] for row in stored} == {-2}
    assert {tuple(row.display_order) for row in stored} == {(0, 1), (1, 0)}


def test_two_windows_on_one_task_count_once(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    task = open_next(desk, session).task
    judge(desk, session, task, "a", key="window one")
    with pytest.raises(Rejected) as caught:
        judge(desk, session, task, "b", key="window two")
    assert (caught.value.status, caught.value.reason) == (409, "conflict")
    assert len(rows(store)) == 1


def test_undo_and_redo_walk_through_the_past(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store, count=5))
    receipt, done = open_next(desk, session), []
    for verdict in ("a", "b", "tie"):
        done.append(receipt.task.item_id)
        receipt = judge(desk, session, receipt.task, verdict)
    fourth = receipt.task.item_id
    back = desk.call(lambda c: desk.undo(c, session, "u1"))
    assert (back.task.item_id, back.task.previous) == (done[2], {"verdict": "tie"})
    back = desk.call(lambda c: desk.undo(c, session, "u2"))
    assert (back.task.item_id, back.task.previous) == (done[1], {"verdict": "b"})
    assert back.progress.done == 1
    forth = desk.call(lambda c: desk.redo(c, session, "r1"))
    assert forth.task.item_id == done[2]
    changed = judge(desk, session, forth.task, "a_much")
    assert changed.task.item_id == fourth
    assert changed.progress.can_redo is False
    with pytest.raises(Rejected, match="nothing to redo"):
        desk.call(lambda c: desk.redo(c, session, "r2"))
    with store.reading() as connection:
        live = select(judgements).join(assignments, assignments.c.current_id == judgements.c.id)
        by_item = {row.item_id: row for row in connection.execute(live)}
    shown = {row.item_id: row.display_order for row in rows(store)}
    as_seen = [by_item[i].answer["preference"] * (1 if shown[i][0] == 0 else -1) for i in done]
    assert as_seen == [1, -1, 2]
    assert [row.action for row in rows(store)] == ["judge", "judge", "judge", "undo", "undo", "redo", "judge"]


def test_undo_with_a_repeated_key_undoes_once(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    receipt = judge(desk, session, open_next(desk, session).task)
    judge(desk, session, receipt.task)
    first = desk.call(lambda c: desk.undo(c, session, "u"))
    again = desk.call(lambda c: desk.undo(c, session, "u"))
    assert first == again
    assert again.progress.done == 1


def test_undo_survives_a_new_server(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    receipt = judge(desk, session, open_next(desk, session).task)
    judge(desk, session, receipt.task)
    before = desk.call(lambda c: desk.undo(c, session, "u"))
    assert open_next(Desk(store), session).progress == before.progress
    other = Desk(store)
    assert other.call(lambda c: other.redo(c, session, "r")).progress.done == 2


def test_nothing_to_undo(lite, make_project, sit_down):
    desk, session = sit_down(lite, make_project(lite))
    with pytest.raises(Rejected, match="nothing to undo"):
        desk.call(lambda c: desk.undo(c, session, "u"))


def test_a_skip_keeps_its_reason_and_gives_the_item_to_others(store, make_project, sit_down):
    project = make_project(store, count=1)
    desk, first = sit_down(store, project, "first")
    _, second = sit_down(store, project, "second", desk)
    task = open_next(desk, first).task
    assert open_next(desk, second).task is None
    sent = Submission(task.id, "k", skip_reason="knowledge", flagged=True, note="물리학")
    receipt = desk.call(lambda c: desk.submit(c, first, sent))
    assert (receipt.task, receipt.progress.skipped, receipt.progress.remaining) == (None, 1, 1)
    assert open_next(desk, second).task.item_id == task.item_id
    (row,) = rows(store)
    assert (row.action, row.skip_reason, row.flagged, row.note) == ("skip", "knowledge", True, "물리학")


def test_a_draft_is_there_on_return_and_gone_after_submitting(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    task = open_next(desk, session).task
    for body in ({"note": "a"}, {"note": "초안"}):
        desk.call(partial(lambda c, body: desk.save_draft(c, session, task.id, body), body=body))
    resumed = open_next(Desk(store), session).task
    assert (resumed.id, resumed.draft) == (task.id, {"note": "초안"})
    judge(desk, session, task)
    with store.reading() as connection:
        assert connection.execute(select(drafts)).all() == []


def test_another_annotators_task_cannot_be_touched(store, make_project, sit_down):
    project = make_project(store)
    desk, first = sit_down(store, project, "first")
    _, second = sit_down(store, project, "second", desk)
    task = open_next(desk, first).task
    with pytest.raises(Rejected) as caught:
        judge(desk, second, task)
    assert caught.value.status == 404
    with pytest.raises(Rejected):
        desk.call(lambda c: desk.save_draft(c, second, task.id, {}))
    assert rows(store) == []


def test_a_removed_annotator_is_stopped_and_the_item_goes_to_others(store, make_project, sit_down):
    project = make_project(store, count=1)
    desk, first = sit_down(store, project, "first")
    _, second = sit_down(store, project, "second", desk)
    task = open_next(desk, first).task
    people.remove(store, first.annotator_id)
    with pytest.raises(Rejected) as caught:
        judge(desk, first, task)
    assert (caught.value.status, caught.value.reason) == (403, "removed")
    assert open_next(desk, second).task.item_id == task.item_id


def test_a_new_link_ends_old_sessions(lite, make_project, sit_down):
    desk, session = sit_down(lite, make_project(lite))
    people.new_link(lite, session.annotator_id)
    with pytest.raises(Rejected) as caught:
        open_next(desk, session)
    assert caught.value.reason == "session"
    assert open_next(desk, Session(session.annotator_id, 1)).task is not None


def test_a_withdrawn_item_is_refused_and_not_shown_again(store, make_project, sit_down):
    project = make_project(store, count=3)
    desk, session = sit_down(store, project)
    task = open_next(desk, session).task
    assert store.withdraw(project, [task.item_id], reason="private data") == 1
    with pytest.raises(Rejected) as caught:
        judge(desk, session, task)
    assert (caught.value.status, caught.value.reason) == (410, "withdrawn")
    receipt, seen = open_next(desk, session), set()
    while receipt.task is not None:
        seen.add(receipt.task.item_id)
        receipt = judge(desk, session, receipt.task)
    assert len(seen) == 2
    assert task.item_id not in seen


def test_items_added_by_another_program_are_noticed(store, make_project, sit_down):
    project = make_project(store, count=0)
    desk, session = sit_down(store, project)
    assert open_next(desk, session).task is None
    other = Store(store.engine.url.render_as_string(hide_password=False))
    other.add_items(project, [NewItem((Message("user", "새 질문"),), (ItemAnswer("가"), ItemAnswer("나")))])
    other.close()
    assert open_next(desk, session).task.prompt == [{"role": "user", "content": "새 질문"}]


def test_an_abandoned_item_goes_to_others_after_its_lease(store, make_project, sit_down):
    project = make_project(store, count=1)
    desk, first = sit_down(store, project, "first")
    _, second = sit_down(store, project, "second", desk)
    task = open_next(desk, first).task
    assert open_next(desk, second).task is None
    with store.writing() as connection:
        day = 24 * 3600
        connection.execute(assignments.update().values(opened=time.time() - day - 1))
    fresh = Desk(store)
    assert open_next(fresh, second).task.item_id == task.item_id


def test_one_bad_operation_leaves_its_neighbours_alone(store, make_project, sit_down):
    project = make_project(store)
    desk, first = sit_down(store, project, "first")
    _, second = sit_down(store, project, "second", desk)
    one, two = open_next(desk, first).task, open_next(desk, second).task
    good = Submission(one.id, "good", answer={"verdict": "a"})
    bad = Submission(two.id, "bad", answer={"verdict": "perhaps"})
    results = desk.run([lambda c: desk.submit(c, second, bad), lambda c: desk.submit(c, first, good)])
    assert isinstance(results[0], Rejected)
    assert results[0].status == 422
    assert results[1].judgement_id == rows(store)[0].id
    assert [row.key for row in rows(store)] == ["good"]


def test_a_batch_whose_statement_fails_is_redone_one_by_one(store, make_project, sit_down):
    project = make_project(store)
    desk, session = sit_down(store, project)
    task = open_next(desk, session).task
    good = Submission(task.id, "good", answer={"verdict": "a"})

    def broken(connection):
        connection.execute(text("SELECT * FROM no_such_table"))

    results = desk.run([lambda c: desk.submit(c, session, good), broken])
    assert isinstance(results[1], DBAPIError)
    assert results[0].progress.done == 1
    assert len(rows(store)) == 1


def test_judgements_and_audit_log_cannot_be_changed(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    judge(desk, session, open_next(desk, session).task)
    for statement in (
        "UPDATE judgements SET seconds = 1",
        "DELETE FROM judgements",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
    ):
        with pytest.raises(DBAPIError, match="append-only"), store.writing() as connection:
            connection.execute(text(statement))


def test_a_locked_database_is_named_and_recovers(lite, make_project, sit_down):
    project = make_project(lite)
    quick = Store(lite.engine.url.render_as_string(), busy_timeout_s=0.05)
    desk, session = sit_down(quick, project)
    task = open_next(desk, session).task
    with lite.writing(), pytest.raises(StoreUnavailable) as caught:
        judge(desk, session, task)
    assert caught.value.reason == "locked"
    assert judge(desk, session, task).progress.done == 1
    quick.close()


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_locked_postgres_is_named(url, make_project, sit_down):
    store = Store(url, busy_timeout_s=0.05)
    desk, session = sit_down(store, make_project(store))
    task = open_next(desk, session).task
    with store.writing() as connection:
        connection.execute(text("LOCK TABLE judgements IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(StoreUnavailable) as caught:
            judge(desk, session, task)
    assert caught.value.reason == "locked"
    assert judge(desk, session, task).progress.done == 1
    store.close()


def test_a_full_disk_is_named_and_nothing_is_half_written(lite, make_project, sit_down):
    desk, session = sit_down(lite, make_project(lite, task="edit", num_answers=1))
    task = open_next(desk, session).task

    def small(connection):
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")

    def roomy(connection):
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")

    long = Submission(task.id, "k", answer={"text": "가" * 90_000, "base": 0})
    result = desk.run([lambda c: (small(c), desk.submit(c, session, long))])[0]
    assert isinstance(result, StoreUnavailable)
    assert result.reason == "full"
    assert rows(lite) == []
    receipt = desk.call(lambda c: (roomy(c), desk.submit(c, session, long))[1])
    assert receipt.progress.done == 1


def test_gold_and_repeats_come_at_their_rates_and_repeats_are_swapped(lite, make_project, sit_down):
    project = make_project(lite, count=200, gold_share=0.2, repeat_share=0.2, repeat_gap=5)
    golds = [
        NewItem(
            (Message("user", f"gold {n}"),),
            (ItemAnswer("right"), ItemAnswer("wrong")),
            gold={"preference": 2, "both_bad": False},
        )
        for n in range(50)
    ]
    lite.add_items(project, golds)
    desk, session = sit_down(lite, project)
    receipt = open_next(desk, session)
    for _ in range(150):
        receipt = judge(desk, session, receipt.task)
    with lite.reading() as connection:
        given = connection.execute(select(assignments).order_by(assignments.c.seq)).all()
        gold_ids = set(connection.scalars(select(items.c.id).where(items.c.gold.is_not(None))))
    kinds = [row.kind for row in given]
    # 150 draws at 0.2: mean 30, standard deviation 4.9.
    assert 15 <= kinds.count("gold") <= 45
    assert 12 <= kinds.count("repeat") <= 45
    assert {row.item_id for row in given if row.kind == "gold"} <= gold_ids
    first = {row.item_id: row for row in given if row.kind == "item"}
    for row in given:
        if row.kind == "repeat":
            assert row.display_order == first[row.item_id].display_order[::-1]
            assert row.seq - first[row.item_id].seq >= 5


def test_overlap_items_go_to_several_annotators(lite, make_project, sit_down):
    project = make_project(lite, count=200, overlap=3, overlap_share=0.25)
    desk = Desk(lite)
    sessions = [sit_down(lite, project, f"a{k}", desk)[1] for k in range(4)]
    receipts = {s: open_next(desk, s) for s in sessions}
    while any(r.task for r in receipts.values()):
        for s in sessions:
            if receipts[s].task:
                receipts[s] = judge(desk, s, receipts[s].task)
    counts: dict[int, int] = {}
    for row in rows(lite):
        counts[row.item_id] = counts.get(row.item_id, 0) + 1
    assert set(counts.values()) == {1, 3}
    # 200 draws at 0.25: mean 50, standard deviation 6.1.
    assert 30 <= sum(c == 3 for c in counts.values()) <= 70


def test_priority_comes_first_and_orders_differ_between_annotators(lite, make_project, sit_down):
    project = make_project(lite, count=40, overlap=2, overlap_share=1.0, overlap_least=0)
    urgent = [3, 17, 29]
    lite.prioritise(project, dict.fromkeys(urgent, ("uncertainty", 1.0)))
    desk = Desk(lite)
    orders = []
    for name in ("one", "two"):
        session = sit_down(lite, project, name, desk)[1]
        receipt, seen = open_next(desk, session), []
        for _ in range(20):
            seen.append(receipt.task.item_id)
            receipt = judge(desk, session, receipt.task)
        orders.append(seen)
    assert set(orders[0][:3]) == set(orders[1][:3]) == set(urgent)
    assert orders[0] != orders[1]
