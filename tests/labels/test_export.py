"""Records from judgements: nothing derived silently, everything left out is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignloop.data.columns import read_records, write_records
from alignloop.errors import UserError
from alignloop.labels import people
from alignloop.labels.export import Filters, records
from alignloop.labels.faults import Rejected
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.store import Store
from alignloop.records import (
    Demonstration,
    Label,
    Message,
    Preference,
    Provenance,
    Ranking,
    Rating,
    ToolCall,
)

PLAIN = Settings(overlap_share=1.0, overlap=2, gold_share=0.0, repeat_share=0.0, attributes=("h", "t"))
TEXTS = ("좋은 답", "나쁜 답", "그저 그런 답")


def project_of(store: Store, task: str, num_answers: int, count: int = 1):
    project = store.create_project(task, task=task, settings=PLAIN)
    answers = tuple(ItemAnswer(text, model=f"m{k}") for k, text in enumerate(TEXTS[:num_answers]))
    rows = [NewItem((Message("user", f"질문 {n}"),), answers) for n in range(count)]
    store.add_items(project, rows)
    return store.project(project.id)


def judge(store: Store, project, name: str, say, **more) -> Session:
    """One annotator judges everything: say(task) gives the answer as shown."""
    desk = Desk(store)
    annotator, _ = people.invite(store, project, name, role=more.pop("role", "annotator"))
    session = Session(annotator.id)
    receipt = desk.call(lambda c: desk.next(c, session))
    while receipt.task is not None:
        sent = Submission(receipt.task.id, f"{name}-{receipt.task.id}", answer=say(receipt.task), **more)
        receipt = desk.call(lambda c, sent=sent: desk.submit(c, session, sent))
    return session


def prefers(text: str, strength: str = ""):
    return lambda task: {"verdict": ("a" if task.answers[0] == text else "b") + strength}


def test_a_pair_becomes_a_preference_with_its_history(store):
    project = project_of(store, "pair", 2)
    judge(store, project, "김", prefers(TEXTS[1], "_much"))
    made = records(store, project)
    (record,) = made.records
    assert isinstance(record, Preference)
    assert record.prompt == (Message("user", "질문 0"),)
    assert (record.chosen, record.rejected) == (TEXTS[1], TEXTS[0])
    assert (record.probability, record.margin) == (1.0, 1.0)
    details = record.provenance.details
    assert record.provenance.origin == "human"
    assert (details["annotator"], details["judgement"], details["project"]) == ("김", 1, "pair")
    assert (details["guideline"], details["strength"], details["models"]) == (1, 2, "m0, m1")
    assert details["order"] in ("0,1", "1,0")
    assert made.judgement_ids == [1]


def test_ties_and_both_bad(lite):
    project = project_of(lite, "pair", 2)
    judge(lite, project, "one", lambda task: {"verdict": "tie"})
    judge(lite, project, "two", lambda task: {"verdict": "both_bad"})
    made = records(lite, project)
    assert [r.probability for r in made.records] == [0.5]
    assert made.left_out == {"both bad": 1}
    assert records(lite, project, filters=Filters(ties=False)).left_out == {"tie": 1, "both bad": 1}
    assert [r.probability for r in records(lite, project, filters=Filters(both_bad=True)).records] == [
        0.5,
        0.5,
    ]


def test_votes_of_an_item_can_be_one_soft_preference(lite):
    project = project_of(lite, "pair", 2)
    project_settings = Settings(**{**PLAIN.to_json(), "overlap": 3, "attributes": ("h",)})
    lite.change_settings(project, project_settings)
    for name, text in (("one", TEXTS[0]), ("two", TEXTS[0]), ("three", TEXTS[1])):
        judge(lite, project, name, prefers(text))
    (record,) = records(lite, project, filters=Filters(votes="mean")).records
    assert record.chosen == TEXTS[0]
    assert record.probability == pytest.approx(2 / 3)
    assert record.provenance.details["judgements"] == "1, 2, 3"
    each = records(lite, project).records
    assert [r.provenance.details["agreement"] for r in each] == [0.5, 0.5, 0.0]
    kept = records(lite, project, filters=Filters(min_agreement=0.4))
    assert (len(kept.records), kept.left_out) == (2, {"agreement": 1})


def test_the_owners_decision_replaces_the_votes(lite):
    project = project_of(lite, "pair", 2)
    judge(lite, project, "one", prefers(TEXTS[0]))
    judge(lite, project, "two", prefers(TEXTS[1]))
    owner, _ = people.invite(lite, None, "owner", role="owner")
    desk, session = Desk(lite), Session(owner.id)
    task = desk.call(lambda c: desk.adjudicate(c, session, 1))
    sent = Submission(task.id, "final", answer=prefers(TEXTS[1])(task))
    desk.call(lambda c: desk.submit(c, session, sent))
    made = records(lite, project)
    assert [r.chosen for r in made.records] == [TEXTS[1]]
    assert made.records[0].provenance.details["adjudicated"] is True
    assert made.left_out == {"adjudicated": 2}
    assert len(records(lite, project, filters=Filters(adjudicated_only_final=False)).records) == 3
    # looking at the decision again leaves it in force until another one is made
    again = desk.call(lambda c: desk.adjudicate(c, session, 1))
    assert again.previous == sent.answer
    assert records(lite, project).records == made.records
    other = Submission(again.id, "other", again.expected, answer=prefers(TEXTS[0])(again), note="sorry")
    desk.call(lambda c: desk.submit(c, session, other))
    assert [r.chosen for r in records(lite, project).records] == [TEXTS[0]]
    stale = Submission(again.id, "stale", again.expected, answer=other.answer)
    with pytest.raises(Rejected, match="another window"):
        desk.call(lambda c: desk.submit(c, session, stale))


def test_details_of_the_imported_data_go_along(lite):
    project = lite.create_project("p", task="pair", settings=PLAIN)
    details = {"sampling_seed": 7, "annotator": "somebody else", "judgements": "90, 91"}
    source = Provenance("d.jsonl", 5, "unknown", details)
    lite.add_items(
        project, [NewItem((Message("user", "q"),), (ItemAnswer("a"), ItemAnswer("b")), provenance=source)]
    )
    judge(lite, lite.project(), "민지", lambda task: {"verdict": "a"})
    found = records(lite, lite.project()).records[0].provenance
    assert (found.file, found.line, found.origin) == ("d.jsonl", 5, "human")
    assert (found.details["sampling_seed"], found.details["annotator"], found.details["item"]) == (
        7,
        "민지",
        1,
    )
    assert "judgements" not in found.details


def test_a_ranking_is_a_ranking_and_preferences_only_on_request(store):
    project = project_of(store, "ranking", 3)
    judge(store, project, "a", lambda task: {"ranks": [1 + TEXTS.index(text) // 2 for text in task.answers]})
    (record,) = records(store, project).records
    assert record == Ranking(record.prompt, TEXTS, (1, 1, 2), record.provenance)
    with pytest.raises(UserError, match="derived"):
        records(store, project, "preference")
    derived = records(store, project, "preference", derive=True).records
    assert [(r.chosen, r.rejected) for r in derived] == [(TEXTS[0], TEXTS[2]), (TEXTS[1], TEXTS[2])]
    assert {r.provenance.origin for r in derived} == {"derived"}
    with pytest.raises(UserError, match="cannot give label"):
        records(store, project, "label", derive=True)


def test_scores_thumbs_and_edits(store):
    scores = project_of(store, "scores", 2)
    judge(
        store,
        scores,
        "a",
        lambda task: {"scores": {"h": [TEXTS.index(x) for x in task.answers], "t": [5, 5]}},
    )
    made = records(store, scores).records
    assert [(r.completion, dict(r.scores)) for r in made if isinstance(r, Rating)] == [
        (TEXTS[0], {"h": 0.0, "t": 5.0}),
        (TEXTS[1], {"h": 1.0, "t": 5.0}),
    ]
    (better,) = records(store, scores, "preference", derive=True).records
    assert (better.chosen, better.provenance.origin) == (TEXTS[1], "derived")
    thumbs = project_of(store, "thumbs", 2)
    judge(store, thumbs, "b", lambda task: {"thumbs": [x == TEXTS[0] for x in task.answers]})
    made = records(store, thumbs).records
    assert [(r.completion, r.desirable) for r in made if isinstance(r, Label)] == [
        (TEXTS[0], True),
        (TEXTS[1], False),
    ]
    edits = project_of(store, "edit", 2)
    judge(store, edits, "c", lambda task: {"text": "고친 답", "base": task.answers.index(TEXTS[1])})
    (record,) = records(store, edits).records
    assert isinstance(record, Demonstration)
    assert record.completion == "고친 답"
    (better,) = records(store, edits, "preference", derive=True).records
    assert (better.chosen, better.rejected) == ("고친 답", TEXTS[1])


def test_filters_count_what_they_leave_out(lite):
    project = project_of(lite, "pair", 2, count=3)
    judge(lite, project, "slow", prefers(TEXTS[0]), seconds=0.0)
    judge(lite, project, "flagging", prefers(TEXTS[0]), flagged=True)
    assert records(lite, project).left_out == {"flagged": 3}
    assert len(records(lite, project, filters=Filters(flagged=True)).records) == 6
    assert records(lite, project, filters=Filters(without=("slow",))).left_out == {
        "annotator left out": 3,
        "flagged": 3,
    }
    assert records(lite, project, filters=Filters(min_seconds=60)).left_out == {"too fast": 3, "flagged": 3}
    assert records(lite, project, filters=Filters(arms=("uncertainty",))).left_out == {"arm": 6}
    assert records(lite, project, filters=Filters(annotators=("slow",), after=2)).judgement_ids == [3]
    assert records(lite, project, filters=Filters(until=2)).judgement_ids == [1, 2]
    lite.withdraw(project, [1], reason="x")
    assert len(records(lite, project).records) == 2


def test_simulated_annotators_are_never_called_human(lite):
    project = project_of(lite, "pair", 2)
    judge(lite, project, "bot", prefers(TEXTS[0]), role="simulated")
    assert records(lite, project).records[0].provenance.origin == "simulated"


def test_gold_items_stay_out_unless_asked(lite):
    settings = Settings(gold_share=0.9, overlap_share=0.0, repeat_share=0.0)
    project = lite.create_project("g", task="pair", settings=settings)
    answers = (ItemAnswer("a"), ItemAnswer("b"))
    gold = {"preference": 1, "both_bad": False}
    rows = [NewItem((Message("user", f"{n}"),), answers, gold=gold if n < 5 else None) for n in range(10)]
    lite.add_items(project, rows)
    judge(lite, project, "one", prefers("a"))
    made = records(lite, project)
    assert made.left_out["gold"] == 5
    assert len(made.records) == 5
    assert len(records(lite, project, filters=Filters(gold=True)).records) == 10


def test_exported_records_are_read_back_equal(lite, tmp_path):
    project = project_of(lite, "pair", 2, count=4)
    judge(lite, project, "김", prefers(TEXTS[0]))
    made = records(lite, project).records
    write_records(tmp_path / "labels.jsonl", made)
    assert read_records(tmp_path / "labels.jsonl").records == made


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5, float("inf")])
def test_an_agreement_that_is_no_share_is_refused(value):
    """NaN compares with nothing, so it would have let every judgement through."""
    with pytest.raises(UserError, match=r"min_agreement is .* from 0 to 1"):
        Filters(min_agreement=value)


def test_thoughts_and_tools_of_a_prompt_come_back_from_the_database(store, tmp_path):
    prompt = (
        Message("user", "Tide?", tools=('{"type": "x", "name": "tide\\u0000"}',)),
        Message("assistant", "", "Hm.", (ToolCall("tide", '{"at": "Busan"}', "c1"),)),
        Message("tool", "1.2 m", name="tide", tool_call_id="c1"),
    )
    project = store.create_project("tools", task="pair", settings=PLAIN)
    store.add_items(project, [NewItem(prompt, (ItemAnswer("High."), ItemAnswer("Low.")))])
    judge(store, store.project(project.id), "김", prefers("High."))
    (record,) = records(store, store.project(project.id)).records
    clean = replace(prompt[0], tools=('{"type": "x", "name": "tide\ufffd"}',))
    assert record.prompt == (clean, *prompt[1:])
    write_records(tmp_path / "out.jsonl", [record])
    assert read_records(str(tmp_path / "out.jsonl")).records == [record]


def test_an_edited_answer_trains_that_answer_alone(store):
    prompt = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Tea?"))
    project = store.create_project("edit", task="edit", settings=PLAIN)
    store.add_items(project, [NewItem(prompt, (ItemAnswer("No."),))])
    judge(store, store.project(project.id), "김", lambda task: {"text": "Please."})
    (record,) = records(store, store.project(project.id)).records
    assert isinstance(record, Demonstration)
    assert (record.completion, record.trained) == ("Please.", (3,))


def test_comments_go_out_with_the_judgement(lite):
    project = project_of(lite, "pair", 2)
    judge(lite, project, "김", prefers(TEXTS[0]), note="둘째 답은 사실과 다름")
    judge(lite, project, "이", prefers(TEXTS[0]))
    judged, silent = records(lite, project).records
    assert judged.provenance.details["comment"] == "둘째 답은 사실과 다름"
    assert "comment" not in silent.provenance.details
    (mean,) = records(lite, project, filters=Filters(votes="mean")).records
    assert mean.provenance.details["comment"] == "둘째 답은 사실과 다름"
