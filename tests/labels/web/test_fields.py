"""Every field that the labelling server takes has an effect; any other one is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from sqlalchemy import select

from alignloop.labels import people
from alignloop.labels.project import Settings
from alignloop.labels.schema import judgements
from alignloop.labels.web import annotate, manage
from alignloop.labels.web import owner as owner_routes
from tests.labels.web.test_security import body_for, stored

CALLS = {
    "next": {},
    "open": {"prompt": [{"role": "user", "content": "q"}], "answers": ["a", "b"]},
    "judge": {"assignment": 1, "key": "k", "answer": {"verdict": "a"}},
    "undo": {"key": "k"},
    "redo": {"key": "k"},
    "draft": {"assignment": 1, "draft": {}},
    "guidelines": {},
    "adjudicate/1": {},
}
FORMS = {
    "/logout": {},
    "/language": {"language": "ko"},
    "/project": {"project": "1"},
    "/owner/projects": {"name": "x", "task": "pair", "attributes": "a", "guidelines": "g"},
    "/owner/1/import": {"pairs": "one", "columns": "a=b", "gold": "on"},
    "/owner/1/people": {"name": "x", "language": "ko"},
    "/owner/1/people/1/link": {},
    "/owner/1/people/1/remove": {},
    "/owner/1/settings": {"overlap": "3"},
    "/owner/1/guidelines": {"text": "x"},
    "/owner/1/items/1/withdraw": {"reason": "x"},
}


def test_the_tables_hold_every_writing_route():
    paths = {
        re.sub(r"\{\w+:int\}", "1", route.path)
        for route in [*annotate.ROUTES, *owner_routes.ROUTES, *manage.ROUTES]
        if "POST" in (route.methods or ())
    }
    assert paths == {f"/api/{name}" for name in CALLS} | set(FORMS) | {"/login"}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_an_unknown_field_is_refused(served, make_project, name):
    person = served.sign_in(make_project(served.store), "a", role="owner" if "/" in name else "annotator")
    person.call("next")
    answer = person.call(name, {**CALLS[name], "anwser": 1})
    assert answer.status_code == 422
    assert "unknown field 'anwser'" in answer.json()["error"]
    assert stored(served.store) == 0


@pytest.mark.parametrize("path", FORMS)
def test_a_form_with_an_unknown_or_doubled_field_is_refused(served, make_project, path):
    project = make_project(served.store)
    people.invite(served.store, project, "guest")
    owner = served.sign_in(None, "o", role="owner")
    before = served.store.audit_log()
    answer = owner.form(path, **FORMS[path], colour="red")
    assert answer.status_code == 422
    assert "unknown field &#39;colour&#39;" in answer.text
    for name, value in FORMS[path].items():
        sent = {**FORMS[path], name: [value, value], "csrf": owner.csrf}
        assert owner.client.post(path, data=sent).status_code == 422
    assert served.store.audit_log() == before


def test_a_sign_in_with_an_unknown_field_is_refused(served, make_project):
    _, token = people.invite(served.store, make_project(served.store), "a")
    answer = served.client().post("/login", data={"token": token, "next": "https://evil.example"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "change", [{"flagged": "yes"}, {"flagged": 1}, {"note": 0}, {"note": []}, {"note": False}, {"next": "no"}]
)
def test_a_value_that_would_have_no_effect_is_refused(served, make_project, change):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    assert person.call("judge", {**body_for(task), **change}).status_code == 422
    assert stored(served.store) == 0


def test_every_field_of_a_judgement_is_kept(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    sent = {
        **body_for(task, "b_much", key="k7"),
        "flagged": True,
        "note": "왜",
        "seconds": 0.0,
        "guidelines": 1,
        "next": True,
    }
    assert set(sent) | {"skip"} == set(annotate.SUBMISSION)
    second = person.call("judge", sent).json()["task"]
    assert second["id"] != task["id"]
    skipped = {
        "assignment": second["id"],
        "next": False,
        "key": "k8",
        "skip": "unsafe",
        "note": "",
        "flagged": None,
    }
    assert person.call("judge", skipped).json()["task"] is None
    with served.store.reading() as connection:
        one, two = connection.execute(select(judgements).order_by(judgements.c.id)).all()
    assert (one.key, one.assignment_id, one.flagged, one.note) == ("k7", task["id"], True, "왜")
    assert abs(one.answer["preference"]) == 2
    assert (two.skip_reason, two.answer, two.flagged, two.note) == ("unsafe", None, False, "")
    stale = person.call("judge", {**body_for(task, key="k9"), "expected": None})
    assert stale.status_code == 409  # `expected` is what tells two windows apart


def test_drafts_and_keys_have_an_effect(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    draft = {"answer": {"verdict": "b"}, "note": "n", "flagged": True}
    person.call("draft", {"assignment": task["id"], "draft": draft})
    assert person.call("next").json()["task"]["draft"] == draft
    person.call("judge", body_for(task))
    first, again = (person.call("undo", {"key": "u"}).json() for _ in range(2))
    assert first["task"]["id"] == again["task"]["id"] == task["id"]
    redone = person.call("redo", {"key": "r"}).json()["progress"]
    assert redone["done"] == 1


def test_every_setting_of_a_form_is_kept_and_others_stay(served, make_project):
    project = make_project(served.store, task="scores", currency="₩")
    owner = served.sign_in(None, "o", role="owner")
    changed = {
        **{"seed": 5, "overlap": 3, "overlap_share": 0.3, "gold_share": 0.2, "repeat_share": 0.1},
        **{"repeat_gap": 7, "price_demonstration": 2.5, "price_pair": 0.5, "currency": "€", "lease_h": 2.0},
        **{"overlap_least": 9, "fast_s": 0.5},
    }
    assert {*changed, "attributes"} == {f.name for f in fields(Settings)}
    for name, value in {**changed, "attributes": "truth, tone"}.items():
        before = served.store.project(project.id).settings.to_json()
        assert owner.form(f"/owner/{project.id}/settings", **{name: str(value)}).status_code == 303, name
        after = served.store.project(project.id).settings.to_json()
        want = ["truth", "tone"] if name == "attributes" else value
        assert after == {**before, name: want}
        assert after != before


@pytest.mark.parametrize(
    "wrong",
    [{"overlap": ""}, {"overlap": "nan"}, {"gold_share": "nan"}, {"lease_h": "inf"}, {"price_pair": "1e10"},
     {"currency": "x" * 9}, {"seed": "1.5"}, {"attributes": "truth"}],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(served, make_project, wrong):
    project = make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    assert owner.form(f"/owner/{project.id}/settings", **wrong).status_code == 422
    assert served.store.project(project.id) == project


def test_people_and_reasons(served, make_project):
    project = make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    answer = owner.form("/owner/1/people", name="x", language="tlh")
    assert answer.status_code == 422
    assert "unknown language" in answer.text
    assert owner.form("/owner/1/people", name="하나", language="ko").status_code == 200
    (person,) = people.list_annotators(served.store, project)
    assert (person.name, person.language) == ("하나", "ko")
    assert owner.form("/owner/1/items/1/withdraw", reason="x" * 501).status_code == 422
    assert owner.form("/owner/1/items/1/withdraw", reason="개인 정보").status_code == 303
    assert "개인 정보" in json.dumps([r.details for r in served.store.audit_log()], ensure_ascii=False)


EXPORT = {
    "kind=preference": 200,
    "votes=mean": 200,
    "ties=on&both_bad=on&flagged=on": 200,
    "min_agreement=0.5": 200,
    "min_agreement=nan": 422,
    "min_agreement=1.5": 422,
    "min_agrement=0.9": 422,
    "votes=most": 422,
    "ties=yes": 422,
    "flagged=": 422,
    "ties=on&ties=off": 422,
}


@pytest.mark.parametrize("query", EXPORT)
def test_an_export_takes_its_fields_and_no_others(served, make_project, query):
    make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    assert owner.client.get(f"/owner/1/export?{query}").status_code == EXPORT[query]


def test_the_fields_of_an_export_have_an_effect(served, make_project):
    make_project(served.store, overlap=2, overlap_share=1.0)
    one, two, owner = (
        served.sign_in(served.store.project(1), "one"),
        served.sign_in(served.store.project(1), "two"),
        served.sign_in(None, "o", role="owner"),
    )
    for number, verdict in enumerate(("a", "tie", "both_bad", "a")):
        for person in (one, two):
            task = person.call("next").json()["task"]
            sent = {**body_for(task, verdict, key=f"{person.annotator_id}{number}"), "flagged": number == 3}
            assert person.call("judge", sent).status_code == 200

    def rows(query: str) -> int:
        return len(owner.client.get(f"/owner/1/export?{query}").text.splitlines())

    assert rows("ties=on") > rows("")
    assert rows("both_bad=on") > rows("")
    assert rows("flagged=on") > rows("")
    assert rows("ties=on&votes=mean") < rows("ties=on")
    assert rows("ties=on&min_agreement=1") <= rows("ties=on")


def test_a_field_that_another_task_has_is_refused(served, make_project):
    make_project(served.store, task="ranking", num_answers=3)
    owner = served.sign_in(None, "o", role="owner")
    for query in ("ties=on", "votes=mean", "both_bad=on"):
        assert owner.client.get(f"/owner/1/export?{query}").status_code == 422
