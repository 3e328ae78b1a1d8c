"""Judgements from a file: each is stored for the item it is about, once, in the item's order."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from alignloop.data.columns import write_records
from alignloop.errors import DataError, EngineError, UserError
from alignloop.labels import export, importing, people
from alignloop.labels.faults import Rejected
from alignloop.labels.project import Settings
from alignloop.labels.schema import assignments
from alignloop.labels.submit import LocalDesk, RemoteDesk, Sent, annotator_named, read_judgements, submit

PAIRS = [
    {"prompt": "질문 0", "response_a": "a0", "response_b": "b0", "preference": "B"},
    {"prompt": "질문 1", "response_a": "a1", "response_b": "b1", "preference": "A"},
    {"prompt": "질문 2", "response_a": "a2", "response_b": "b2", "preference": "tie"},
]
RANKINGS = [{"prompt": f"q{n}", "responses": ["x", "y", "z"], "ranking": [2, 1, 3]} for n in range(3)]
LABELS = [
    {"prompt": f"q{n}", "response": text, "label": text == "good"}
    for n in range(2)
    for text in ("good", "bad")
]
RATINGS = [
    {"prompt": f"q{n}", "response": text, "score": {"helpfulness": score, "honesty": 2}}
    for n in range(2)
    for text, score in (("good", 5), ("bad", 1))
]
FILES = {"pair": PAIRS, "ranking": RANKINGS, "thumbs": LABELS, "scores": RATINGS}


def write(folder: Path, rows: list[dict], name: str = "judged.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def project_with(store, file: str, task: str, *, overlap: float = 0.0):
    settings = Settings(
        attributes=("helpfulness", "honesty"), overlap_share=overlap, gold_share=0.0, repeat_share=0.0
    )
    made = store.create_project(task, task=task, settings=settings)
    importing.add(store, made, file, pairs="all", say=lambda line: None)
    return store.project(made.id)


def local(store, project, name: str = "elsewhere") -> LocalDesk:
    return LocalDesk(store, project, annotator_named(store, project, name))


@pytest.mark.parametrize("task", FILES)
def test_what_is_submitted_is_what_is_exported(store, tmp_path, task):
    file = write(tmp_path, FILES[task])
    project = project_with(store, file, task)
    told, judgements = read_judgements(file)
    assert told == task
    assert submit(task, judgements, local(store, project)) == Sent(stored=len(judgements))
    made = export.records(store, project).records
    write_records(tmp_path / "out.jsonl", made)
    again, after = read_judgements(str(tmp_path / "out.jsonl"))
    assert again == task
    assert sorted(_content(j) for j in after) == sorted(_content(j) for j in judgements)
    # What went out comes in again: everything is there already, nothing is judged twice.
    assert submit(task, after, local(store, project)) == Sent(there=len(judgements))
    assert len(store.new_labels_since(project)) == len(judgements)


def _content(judgement) -> str:
    """A judgement whatever the order of its answers."""
    said = {
        key: value if not isinstance(value, list) else dict(zip(judgement.answers, value, strict=True))
        for key, value in judgement.answer.items()
        if key not in ("preference", "scores")
    }
    for name, values in judgement.answer.get("scores", {}).items():
        said[name] = dict(zip(judgement.answers, values, strict=True))
    if "preference" in judgement.answer:
        sign = judgement.answer["preference"]
        first, second = judgement.answers
        said["better"] = sorted((first, second)) if sign == 0 else first if sign > 0 else second
    return json.dumps([judgement.prompt, said], ensure_ascii=False, sort_keys=True)


def test_a_strong_preference_and_a_comment_come_back(lite, tmp_path):
    file = write(tmp_path, PAIRS[:1])
    project = project_with(lite, file, "pair")
    strong = {"strength": 2, "comment": "참 좋다", "both_bad": False}
    source = {"file": "x", "line": 7, "origin": "human", "details": strong}
    row = {"prompt": "질문 0", "chosen": "b0", "rejected": "a0", "provenance": source}
    _, judgements = read_judgements(write(tmp_path, [row], "strong.jsonl"))
    assert judgements[0].answer == {"preference": 2, "both_bad": False}
    submit("pair", judgements, local(lite, project))
    (record,) = export.records(lite, project).records
    assert record.chosen == "b0"
    assert record.provenance.details["strength"] == 2
    assert record.provenance.details["comment"] == "참 좋다"


def test_what_fits_no_item_is_left_out_and_named(lite, tmp_path):
    project = project_with(lite, write(tmp_path, PAIRS[:2]), "pair")
    _, judgements = read_judgements(write(tmp_path, PAIRS, "more.jsonl"))
    sent = submit("pair", judgements, local(lite, project))
    assert (sent.stored, sent.there, sum(sent.left_out.values())) == (2, 0, 1)
    (places,) = sent.places.values()
    assert places[0].endswith("more.jsonl:3")
    turned = [{**PAIRS[0], "preference": "A"}]
    _, otherwise = read_judgements(write(tmp_path, turned, "turned.jsonl"))
    sent = submit("pair", otherwise, local(lite, project))
    assert list(sent.left_out) == ["this annotator has judged the item otherwise"]
    assert submit("pair", otherwise, local(lite, project, "somebody else")).stored == 1


def test_judging_by_name_takes_an_item_out_of_the_queue(lite, tmp_path):
    file = write(tmp_path, PAIRS)
    project = project_with(lite, file, "pair")
    _, judgements = read_judgements(file)
    desk = local(lite, project)
    before = desk.desk.call(lambda c: desk.desk.next(c, desk.session)).progress.remaining
    submit("pair", judgements[:2], desk)
    receipt = desk.desk.call(lambda c: desk.desk.next(c, desk.session))
    assert (before, receipt.progress.done) == (2, 2)
    assert receipt.task.prompt[0]["content"] == "질문 2"


def test_nothing_stays_open_for_the_annotator(lite, tmp_path):
    project = project_with(lite, write(tmp_path, PAIRS), "pair")
    submit("pair", read_judgements(str(tmp_path / "judged.jsonl"))[1][:1], local(lite, project))
    with lite.reading() as connection:
        assert list(connection.scalars(select(assignments.c.state))) == ["done"]


def test_a_withdrawn_item_is_left_out(lite, tmp_path):
    file = write(tmp_path, PAIRS[:1])
    project = project_with(lite, file, "pair")
    lite.withdraw(project, [1], reason="test")
    sent = submit("pair", read_judgements(file)[1], local(lite, lite.project(project.id)))
    assert list(sent.left_out) == ["the owner has withdrawn this item"]


def test_a_file_of_another_task_ends_with_its_line(lite, tmp_path):
    rows = [{"prompt": "q", "responses": ["x", "y"], "ranking": [1, 2]}]
    project = project_with(lite, write(tmp_path, rows), "pair")
    with pytest.raises(Rejected, match=r"judged\.jsonl:1: the file judges a ranking task") as caught:
        submit("ranking", read_judgements(str(tmp_path / "judged.jsonl"))[1], local(lite, project))
    assert caught.value.status == 422


def test_rows_that_judge_nothing_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected preferences, rankings, ratings or labels"):
        read_judgements(write(tmp_path, [{"prompt": "q", "response": "r"}]))


def test_access_that_was_ended_is_refused(lite, tmp_path):
    project = project_with(lite, write(tmp_path, PAIRS), "pair")
    who = annotator_named(lite, project, "a")
    assert annotator_named(lite, project, "a") == who
    people.remove(lite, who.id)
    with pytest.raises(Rejected, match="has ended the access"):
        annotator_named(lite, project, "a")


def test_links_that_are_none(tmp_path):
    for link in ("http://127.0.0.1:1", "ftp://host/invite/x", "http://host/invite/"):
        with pytest.raises(UserError, match="no invitation link"):
            RemoteDesk(link)
    with pytest.raises(EngineError, match="does not answer"):
        RemoteDesk("http://127.0.0.1:9/invite/x", pause_s=0.0)


def test_a_server_that_asks_to_wait_is_asked_again():
    asked = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) < 3:
            return httpx.Response(429, headers={"Retry-After": "0"})
        return httpx.Response(200, text='<meta name="csrf" content="t">')

    desk = RemoteDesk("http://host/invite/x", client=httpx.Client(transport=httpx.MockTransport(reply)))
    assert asked == ["/login"] * 3
    assert desk.client.headers["X-CSRF-Token"] == "t"
