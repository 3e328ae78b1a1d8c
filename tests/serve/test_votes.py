"""Votes become training rows that the data commands accept, or judgements in a label store."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.data.columns import read_records
from alignloop.errors import DataError, EngineError, UserError
from alignloop.labels import export as exporting
from alignloop.labels.label_folder import opened
from alignloop.records import Label, Message, Preference
from alignloop.serve.votes import PairVote, Thumb, VoteFiles, VoteStore, open_votes

ASK = (Message("system", "짧게"), Message("user", "비는 왜 와요?"))
PAIR = PairVote(ASK, ("구름이 무거워서요.", "몰라요."), ("dpo", "sft"), "a")
GOOD = Thumb(ASK, "구름이 무거워서요.", "dpo", True)


def verdict(which: str) -> PairVote:
    return PairVote(PAIR.prompt, PAIR.answers, PAIR.models, which)  # pyright: ignore[reportArgumentType]


def test_a_folder_gets_rows_of_each_kind(tmp_path: Path) -> None:
    box = open_votes(tmp_path / "표")
    assert isinstance(box, VoteFiles)
    assert not (tmp_path / "표").exists()  # made with the first vote
    for vote in (PAIR, verdict("b"), verdict("tie"), verdict("both_bad"), GOOD):
        box.add(vote)
    pairs = read_records(str(tmp_path / "표" / "preferences.jsonl"), strict=True).records
    one, two = PAIR.answers
    assert [(p.chosen, p.rejected, p.probability) for p in pairs if isinstance(p, Preference)] == [
        (one, two, 1.0),
        (two, one, 1.0),
        (one, two, 0.5),
    ]
    assert pairs[1].prompt == ASK
    assert pairs[1].provenance.origin == "human"
    assert pairs[1].provenance.details["model_chosen"] == "sft"
    labels = read_records(str(tmp_path / "표" / "labels.jsonl"), strict=True).records
    assert [(x.completion, x.desirable) for x in labels if isinstance(x, Label)] == [
        (one, False),
        (two, False),
        (one, True),
    ]
    for name in ("preferences.jsonl", "labels.jsonl"):
        done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "표" / name)])
        assert done.exit_code == 0, done.output


def test_a_label_store_gets_judgements(tmp_path: Path) -> None:
    with opened(tmp_path, create=True):
        pass
    box = open_votes(tmp_path)
    assert isinstance(box, VoteStore)
    other = PairVote(ASK, ("하나", "둘"), ("dpo", "sft"), "tie")
    for vote in (PAIR, other, verdict("b"), GOOD):
        box.add(vote)
    with opened(tmp_path) as store:
        pairs = exporting.records(store, store.project("chat pairs")).records
        thumbs = exporting.records(store, store.project("chat answers")).records
    # the second vote on the same pair has replaced the first one
    assert sorted((p.chosen, p.rejected, p.probability) for p in pairs if isinstance(p, Preference)) == [
        ("몰라요.", "구름이 무거워서요.", 1.0),
        ("하나", "둘", 0.5),
    ]
    assert pairs[0].prompt == ASK  # pyright: ignore[reportAttributeAccessIssue]
    assert [(x.completion, x.desirable) for x in thumbs if isinstance(x, Label)] == [(GOOD.answer, True)]


NOTHING = {
    "no question": Thumb((), "a", "m", True),
    "ends with an answer": Thumb((*ASK, Message("assistant", "a")), "a", "m", True),
    "empty question": Thumb((Message("user", " "),), "a", "m", True),
    "empty answer": Thumb(ASK, " \n", "m", True),
    "one empty answer": PairVote(ASK, ("a", ""), ("m", "n"), "a"),
    "equal answers": PairVote(ASK, ("a", "a"), ("m", "n"), "a"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_teaches_nothing_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        VoteFiles(tmp_path / "votes").add(NOTHING[name])
    assert not (tmp_path / "votes").exists()


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_file(tmp_path: Path) -> None:
    box = VoteFiles(tmp_path)
    box.add(GOOD)
    file = tmp_path / "labels.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:30])
    box.add(GOOD)
    assert file.read_bytes() == whole + whole


def test_votes_of_many_threads_are_all_there(tmp_path: Path) -> None:
    box = VoteFiles(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(box.add, [Thumb(ASK, f"답 {i} " * 200, "m", i % 2 == 0) for i in range(40)]))
    lines = (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["completion"] for line in lines}) == 40


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_votes(tmp_path / "file")
    with pytest.raises(EngineError, match="cannot be written"):
        VoteFiles(tmp_path / "file" / "below").add(GOOD)
