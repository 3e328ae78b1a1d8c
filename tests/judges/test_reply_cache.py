"""The cache: what was asked once is not asked again, and damage only costs a question."""

import json
from dataclasses import asdict

import pytest

from alignloop.errors import EngineError
from alignloop.judges.adviser import Ask, Cached, Reply, ask_key
from alignloop.records import Message
from alignloop.runs.hashing import digest
from tests.judges.scripted import Scripted


def question(text: str, **more) -> Ask:
    return Ask((Message("user", text),), **more)


def echo(ask: Ask) -> Reply:
    return Reply(f"답 {ask.messages[-1].content}", (), "", 3, 2)


def test_known_replies_are_not_asked_again(tmp_path):
    inner = Scripted(echo)
    asks = [question("가"), question("b")]
    first = Cached(inner, tmp_path).ask(asks)
    again = Cached(inner, tmp_path).ask([*asks, question("c")])
    assert [r.text for r in again] == ["답 가", "답 b", "답 c"]
    assert again[:2] == first
    assert [a.messages[0].content for a in inner.asked] == ["가", "b", "c"]
    assert inner.account.num_cached == 2


def test_what_changes_the_answer_changes_the_key():
    base = question("a")
    keys = {
        ask_key("x", one)
        for one in (
            base,
            question("b"),
            question("a", choices=("A", "B")),
            question("a", max_tokens=3),
            question("a", temperature=0.5),
            question("a", seed=1),
            question("a", top_p=0.9),
            question("a", stop=("b",)),
            Ask((Message("system", "a"),)),
        )
    }
    assert len(keys | {ask_key("y", base)}) == 10


@pytest.mark.parametrize("damage", ["cut", "empty", "binary", "edited", "no object"])
def test_a_damaged_line_is_asked_again(tmp_path, damage):
    inner = Scripted(echo)
    asks = [question("a"), question("b")]
    Cached(inner, tmp_path).ask(asks)
    (file,) = tmp_path.iterdir()
    line, *others = file.read_bytes().splitlines(keepends=True)
    assert "답 a".encode() in line
    spoilt = {
        "cut": line[: len(line) // 2] + b"\n",
        "empty": b"{}\n",
        "binary": b"\xff\xfe\x00\n",
        "edited": line.replace("답 a".encode(), "답 z".encode()),
        "no object": json.dumps([1]).encode() + b"\n",
    }[damage]
    file.write_bytes(spoilt + b"".join(others))
    again = Cached(inner, tmp_path)
    assert [r.text for r in again.ask(asks)] == ["답 a", "답 b"]
    assert again.account.num_damaged == 1
    assert len(inner.asked) == 3
    assert Cached(inner, tmp_path).ask(asks)[0].text == "답 a"
    assert len(inner.asked) == 3


def test_replies_in_files_of_their_own_are_known(tmp_path):
    """As earlier versions kept them: `ab/cdef….json` under the key, with a checksum inside."""
    inner, ask = Scripted(echo), question("a")
    key, reply = ask_key(inner.identity, ask), asdict(echo(ask)) | {"probabilities": []}
    for name, text in ((key, "답 a"), (ask_key(inner.identity, question("b")), "spoilt")):
        file = tmp_path / name[:2] / f"{name[2:]}.json"
        file.parent.mkdir(exist_ok=True)
        content = {"reply": reply | {"text": text}, "sha256": digest([key, reply])}
        file.write_text(json.dumps(content), encoding="utf-8")
    assert [r.text for r in Cached(inner, tmp_path).ask([ask, question("b")])] == ["답 a", "답 b"]
    assert [a.messages[0].content for a in inner.asked] == ["b"]


def test_what_came_before_a_failure_is_kept(tmp_path):
    def fails_at_c(ask: Ask) -> Reply:
        if ask.messages[0].content == "c":
            raise EngineError("down")
        return echo(ask)

    asks = [question(text) for text in "abcd"]
    with pytest.raises(EngineError):
        Cached(Scripted(fails_at_c), tmp_path).ask(asks)
    later = Scripted(echo)
    assert [r.text for r in Cached(later, tmp_path).ask(asks)] == [f"답 {text}" for text in "abcd"]
    assert [a.messages[0].content for a in later.asked] == ["c", "d"]


def test_faults_are_asked_again(tmp_path):
    inner = Scripted(lambda ask: Reply(fault="refused"))
    cached = Cached(inner, tmp_path)
    cached.ask([question("a")])
    assert cached.ask([question("a")])[0].fault == "refused"
    assert len(inner.asked) == 2
