"""The conversation in a terminal, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.data.columns import read_records
from alignloop.errors import ModelError
from alignloop.model.generate import generate
from alignloop.model.sampling import SamplingParams
from alignloop.records import Demonstration, Label, Message, Preference
from alignloop.serve.served import Policy
from alignloop.serve.talk import Talk, joined
from alignloop.serve.votes import VoteFiles
from tests.serve.conftest import tiny_policy


def no_other(name: str) -> Policy:
    raise ModelError(f"model '{name}' is neither a folder nor a name")


@dataclass
class Bench:
    """A conversation with what it said."""

    talk: Talk
    said: list[str] = field(default_factory=list)

    def __call__(self, *lines: str) -> str:
        self.said.clear()
        self.talk.run(lines)
        return "".join(self.said)


@pytest.fixture
def bench(policy: Policy, tmp_path: Path) -> Bench:
    made = Bench(
        Talk(policy, SamplingParams(max_tokens=6), no_other, VoteFiles(tmp_path / "votes"), print, seed=3)
    )
    made.talk.say = made.said.append
    return made


def test_an_answer_can_be_the_best_of_several(bench: Bench, policy: Policy) -> None:
    asked: list[tuple[str, int]] = []

    def choose(chosen: Policy, prompt: Sequence[Message], params: SamplingParams) -> str:
        asked.append((prompt[-1].content, params.seed))
        return "the best"

    bench.talk.choose = choose
    assert bench("비가 오나요?") == "the best\n"
    bench("또요?")
    assert asked == [("비가 오나요?", 3), ("또요?", 4)]
    assert bench.talk.prompt("?", bench.talk.turns)[1] == Message("assistant", "the best")


def test_an_answer_is_what_generate_gives_and_turns_follow(bench: Bench, policy: Policy) -> None:
    first = bench("비가 오나요?")
    prompt = policy.encoder.prompt([Message("user", "비가 오나요?")]).tolist()
    loaded = policy.loaded
    want = generate(loaded.model, loaded.tokenizer, [prompt], SamplingParams(max_tokens=6), seeds=[[3]])
    assert first == want[0][0].text + "\n"
    bench("또요?")
    assert bench.talk.prompt("?", bench.talk.turns[:1]) == (
        Message("user", "비가 오나요?"),
        Message("assistant", want[0][0].text),
        Message("user", "?"),
    )
    assert len(bench.talk.turns) == 2


def test_retry_and_undo(bench: Bench) -> None:
    bench("one", "two")
    before = bench.talk.turns[1].answers
    bench("/retry")
    assert len(bench.talk.turns) == 2
    assert bench.talk.turns[1].question == "two"
    assert bench.talk.turns[1].answers != before
    assert bench("/undo") == "taken back: two\n"
    assert [turn.question for turn in bench.talk.turns] == ["one"]
    assert bench("/undo", "/undo", "/retry").count("nothing has been asked yet") == 2


def test_system(bench: Bench) -> None:
    bench("/system 짧게 답해.", "hi")
    assert bench.talk.prompt("?", [])[0] == Message("system", "짧게 답해.")
    assert bench("/system") == "no system message\n"
    assert bench.talk.prompt("?", []) == (Message("user", "?"),)


def test_judgements_are_training_rows(bench: Bench, tmp_path: Path) -> None:
    said = bench("/system s", "hi", "/good", "/bad", "and?", "/bad")
    assert said.count("kept in") == 2
    assert said.count("judged already") == 1
    one, two = read_records(str(tmp_path / "votes" / "labels.jsonl")).records
    assert isinstance(one, Label)
    assert isinstance(two, Label)
    assert (one.desirable, two.desirable) == (True, False)
    assert one.prompt == (Message("system", "s"), Message("user", "hi"))
    assert two.prompt == (*one.prompt, Message("assistant", one.completion), Message("user", "and?"))
    check = CliRunner().invoke(app, ["data", "check", str(tmp_path / "votes" / "labels.jsonl")])
    assert check.exit_code == 0, check.output


@pytest.mark.parametrize("letter", ["a", "b"])
def test_comparing_hides_names_until_judged(bench: Bench, tmp_path: Path, letter: str) -> None:
    bench.talk.open_other = lambda name: tiny_policy(name, seed=1)
    assert bench("/compare 다른것") == "다른것 answers too\n"
    shown = bench("hi")
    assert shown.startswith("[A] ")
    assert "\n[B] " in shown
    assert "다른것" not in shown
    assert "of two answers say" in bench("/good")
    told = bench(f"/good {letter}")
    turn = bench.talk.turns[-1]
    assert f"A was {turn.models[0]}, B was {turn.models[1]}; going on with {letter.upper()}" in told
    (pair,) = read_records(str(tmp_path / "votes" / "preferences.jsonl")).records
    assert isinstance(pair, Preference)
    better = "ab".index(letter)
    assert (pair.chosen, pair.rejected) == (turn.answers[better], turn.answers[1 - better])
    assert bench.talk.prompt("?", bench.talk.turns)[1].content == turn.answers[better]
    bench("again", "/bad", "once more", "/good tie")
    assert len(read_records(str(tmp_path / "votes" / "labels.jsonl")).records) == 2
    ties = read_records(str(tmp_path / "votes" / "preferences.jsonl")).records[1:]
    assert [t.probability for t in ties if isinstance(t, Preference)] == [0.5]
    assert bench("/compare off") == "one model answers\n"
    assert "[A]" not in bench("alone")


def test_save_adds_a_training_row(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "대화.jsonl"
    bench("/system s", "hi", "and?", f"/save {file}", f"/save {file}")
    first, second = read_records(str(file), strict=True).records
    assert isinstance(first, Demonstration)
    assert first == second or first.provenance.line != second.provenance.line
    assert [message.role for message in first.prompt] == ["system", "user", "assistant", "user"]
    assert first.completion == bench.talk.turns[-1].answers[0]
    assert "ends with .jsonl" in bench("/save talk.txt")


def test_what_goes_wrong_is_told_and_the_conversation_goes_on(bench: Bench, tmp_path: Path) -> None:
    assert "there is no command /nonsense" in bench("/nonsense")
    assert "neither a folder nor a name" in bench("/compare nowhere")
    assert "the model 1024 positions; shorten the prompt" in bench("rain " * 2000)
    assert bench.talk.turns == []
    bench.talk.votes = None
    assert "judgements are not kept" in bench("hi", "/good")
    assert bench("/quit", "never asked") == ""
    assert len(bench.talk.turns) == 1
    assert "/retry" in bench("/help")


def test_a_stopped_answer_stays_as_far_as_it_came(bench: Bench) -> None:
    def interrupting(text: str) -> None:
        bench.said.append(text)
        if len(bench.said) == 3:
            raise KeyboardInterrupt

    bench.talk.say = interrupting
    bench("hi")
    bench.talk.say = bench.said.append
    assert bench.talk.turns[0].answers[0] == bench.said[1] + bench.said[2]
    assert bench.said[3] == " [stopped]"
    assert bench("still there?").endswith("\n")  # the model decodes as before


def test_lines_are_joined_at_a_backslash() -> None:
    assert list(joined(["a\\\n", "b\r\n", "c\n", "d\\"])) == ["a\nb", "c", "d"]
