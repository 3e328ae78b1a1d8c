"""A conversation in a terminal: questions, streamed answers, commands that begin with a slash."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from alignloop.errors import AlignLoopError, UserError
from alignloop.model.generate import stream
from alignloop.model.sampling import SamplingParams
from alignloop.records import Conversation, Demonstration, Message, Provenance, as_context
from alignloop.serve.answer import CompletionChoice
from alignloop.serve.served import Policy
from alignloop.serve.votes import ANNOTATOR, PairVote, Thumb, Verdict, Vote, VoteBox, append_row

Say = Callable[[str], object]
Letter = Literal["a", "b"]
HELP = """\
/retry           answer the last question again
/undo            take the last question and its answer back
/system TEXT     set the system message; without TEXT there is none
/compare OTHER   let another model answer too, names hidden until judged; /compare off ends it
/good, /bad      keep a judgement of the last answer
/good a|b|tie    of two answers: which is better; /bad: both are bad
/save FILE       add the conversation to a .jsonl file as a training row
/help, /quit
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer, Ctrl-D ends."""


class Quit(Exception):
    """The person has had enough."""


@dataclass(slots=True)
class TalkTurn:
    """A question and what was answered; `kept` is the answer with which the conversation goes on."""

    question: str
    answers: list[str]
    models: list[str]
    kept: int = 0
    judged: bool = False


@dataclass(slots=True)
class Talk:
    """A conversation under way.

    Attributes:
        policy: the model that answers.
        params: how tokens are drawn; each answer gets a seed of its own.
        open_other: loads a model to compare with.
        votes: where judgements go, None if they are not kept.
        say: shows text, without a line break.
        system: the system message, or "".
        other: the model to compare with, or None.
        seed: of the first answer; random if None.
        choose: answers with the best of several samples, None to stream the first one.
    """

    policy: Policy
    params: SamplingParams
    open_other: Callable[[str], Policy]
    votes: VoteBox | None
    say: Say
    system: str = ""
    other: Policy | None = None
    seed: int | None = None
    choose: Callable[[Policy, Conversation, SamplingParams], str] | None = None
    turns: list[TalkTurn] = field(default_factory=list)
    _num_answers: int = 0

    def run(self, lines: Iterable[str]) -> None:
        """Take lines until they end or /quit; what goes wrong is told and the conversation goes on."""
        for line in joined(lines):
            try:
                self.take(line)
            except Quit:
                return
            except AlignLoopError as error:
                self.say(f"error: {error}\n")

    def take(self, line: str) -> None:
        """One line: a command, or a question."""
        if not line.strip():
            return
        if not line.startswith("/"):
            self.ask(line)
            return
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "retry": self.retry,
            "undo": self.undo,
            "system": self.set_system,
            "compare": self.compare,
            "good": self.good,
            "bad": self.bad,
            "save": self.save,
            "help": lambda _: self._line(HELP),
            "quit": _quit,
            "exit": _quit,
        }
        if name not in commands:
            raise UserError(f"there is no command /{name}; /help lists them")
        commands[name](rest.strip())

    def prompt(self, question: str, turns: Sequence[TalkTurn]) -> Conversation:
        """Earlier turns with a question at their end."""
        messages = [Message("system", self.system)] if self.system else []
        for turn in turns:
            messages += [Message("user", turn.question), Message("assistant", turn.answers[turn.kept])]
        return (*messages, Message("user", question))

    def ask(self, question: str) -> None:
        """Answer a question, by both models if two are compared."""
        self.turns.append(self._answered(question, self.turns))

    def _answered(self, question: str, turns: Sequence[TalkTurn]) -> TalkTurn:
        prompt = self.prompt(question, turns)
        policies = [self.policy] if self.other is None else [self.policy, self.other]
        if len(policies) == 2 and secrets.randbits(1):
            policies.reverse()  # the order must not tell which model is which
        answers = []
        for letter, policy in zip("AB", policies, strict=False):
            self.say(f"[{letter}] " if len(policies) == 2 else "")
            answers.append(self._answer(policy, prompt))
        return TalkTurn(question, answers, [policy.name for policy in policies])

    def _answer(self, policy: Policy, prompt: Conversation) -> str:
        seed = secrets.randbits(63) if self.seed is None else self.seed + self._num_answers
        self._num_answers += 1
        text, params = "", replace(self.params, seed=seed)
        try:
            if self.choose is not None:
                text = self.choose(policy, prompt, params)
                self.say(f"{text}\n")
                return text
            with closing(pieces(policy, prompt, params)) as found:
                for piece in found:
                    text += piece
                    self.say(piece)
        except KeyboardInterrupt:
            self.say(" [stopped]")
        self.say("\n")
        return text

    def retry(self, _: str) -> None:
        """/retry"""
        self.turns[-1] = self._answered(self._last().question, self.turns[:-1])

    def undo(self, _: str) -> None:
        """/undo"""
        turn = self._last()
        self.turns.pop()
        self._line(f"taken back: {turn.question}")

    def set_system(self, text: str) -> None:
        """/system TEXT"""
        self.system = text
        self._line("system message set" if text else "no system message")

    def compare(self, name: str) -> None:
        """/compare OTHER, /compare off"""
        if not name:
            raise UserError("/compare needs a model: a run folder, model folder or name; or off")
        self.other = None if name == "off" else self.open_other(name)
        self._line("one model answers" if self.other is None else f"{self.other.name} answers too")

    def good(self, which: str) -> None:
        """/good, /good a|b|tie"""
        if len(self._last().answers) == 1 and not which:
            self._judge("good")
        elif which == "a" or which == "b" or which == "tie":
            self._judge(which)
        else:
            raise UserError("of two answers say /good a, /good b or /good tie; of one, /good")

    def bad(self, which: str) -> None:
        """/bad"""
        if which:
            raise UserError("/bad takes nothing; of two answers it says that both are bad")
        self._judge("bad" if len(self._last().answers) == 1 else "both_bad")

    def _judge(self, verdict: Verdict | Literal["good", "bad"]) -> None:
        turn = self._last()
        if self.votes is None:
            raise UserError("judgements are not kept; start with --votes")
        if turn.judged:
            raise UserError("this answer is judged already; /retry gives another one")
        self.votes.add(self._vote(turn, verdict))
        turn.judged, turn.kept = True, int(verdict == "b")
        if len(turn.answers) == 2:
            self._line(f"A was {turn.models[0]}, B was {turn.models[1]}; going on with {'AB'[turn.kept]}")
        self._line(f"kept in {self.votes.place}")

    def _vote(self, turn: TalkTurn, verdict: Verdict | Literal["good", "bad"]) -> Vote:
        prompt = self.prompt(turn.question, self.turns[:-1])
        if verdict == "good" or verdict == "bad":
            return Thumb(prompt, turn.answers[0], turn.models[0], verdict == "good")
        if len(turn.answers) != 2:
            raise UserError("there is one answer; say /good or /bad")
        one, two = turn.answers
        return PairVote(prompt, (one, two), (turn.models[0], turn.models[1]), verdict)

    def save(self, name: str) -> None:
        """/save FILE"""
        if not name.endswith(".jsonl"):
            raise UserError("/save needs a file name that ends with .jsonl")
        turn = self._last()
        answer = turn.answers[turn.kept]
        if not answer.strip():
            raise UserError("the last answer is empty; /retry gives another one")
        prompt = self.prompt(turn.question, self.turns[:-1])
        where = Provenance(origin="ai", details={"annotator": ANNOTATOR, "model": turn.models[turn.kept]})
        append_row(Path(name).expanduser(), Demonstration(as_context(prompt), answer, where))
        self._line(f"added to {name}")

    def _last(self) -> TalkTurn:
        if not self.turns:
            raise UserError("nothing has been asked yet")
        return self.turns[-1]

    def _line(self, text: str) -> None:
        self.say(f"{text}\n")


def _quit(_: str) -> None:
    raise Quit


def pieces(policy: Policy, prompt: Sequence[Message], params: SamplingParams) -> Generator[str, None, None]:
    """The texts of an answer as they come, thoughts with their marks, less what the template puts around.

    Raises:
        DataError: messages that the template refuses, or that fill the model's context.
    """
    loaded, template = policy.loaded, policy.template
    choice, thinks = CompletionChoice(template.found), False
    ids = policy.encoder.prompt(prompt).tolist()
    with closing(stream(loaded.model, loaded.tokenizer, ids, params)) as events:
        for event in events:
            thinking, text = choice.take(event.text, final=event.finish is not None)
            if thinking:
                yield thinking if thinks else f"{template.found.thought[0]}\n{thinking}"
                thinks = True
            if text:
                yield f"\n{template.found.thought[1]}\n\n{text}" if thinks else text
                thinks = False


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines without their ends; one that ends with a backslash goes on in the next."""
    waiting: list[str] = []
    for line in lines:
        text = line.rstrip("\r\n")
        if text.endswith("\\"):
            waiting.append(text[:-1])
            continue
        yield "\n".join([*waiting, text])
        waiting = []
    if waiting:
        yield "\n".join(waiting)
