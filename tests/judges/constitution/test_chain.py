"""Critique and revision with an adviser whose texts are known."""

from alignloop.judges.adviser import Ask, Reply
from alignloop.judges.constitution.chain import ChainSettings, run_chains
from alignloop.judges.constitution.principles import load_constitution
from alignloop.records import Message
from tests.judges.scripted import Scripted

BOOK = load_constitution("default")


def prompt(text: str) -> tuple[Message]:
    return (Message("user", text),)


def numbered(ask: Ask) -> Reply:
    """Answer v0; critique of vN; revision v(N+1)."""
    if len(ask.messages) == 1:
        return Reply("v0")
    version = int(ask.messages[1].content[1:])
    return Reply(f"critique of v{version}") if len(ask.messages) == 3 else Reply(f"v{version + 1}")


def test_each_round_revises_the_last_answer_by_its_own_principle():
    writer = Scripted(numbered)
    (chain,) = run_chains(writer, writer, [prompt("Hello")], BOOK, ChainSettings(rounds=3, seed=5))
    assert (chain.initial, chain.last) == ("v0", "v3")
    assert [(r.critique, r.revision) for r in chain.rounds] == [
        ("critique of v0", "v1"),
        ("critique of v1", "v2"),
        ("critique of v2", "v3"),
    ]
    drawn = BOOK.draw(prompt("Hello"), 3, 5)
    assert [r.principle for r in chain.rounds] == [p.name for p in drawn]
    critiques = [ask for ask in writer.asked if len(ask.messages) == 3]
    revisions = [ask for ask in writer.asked if len(ask.messages) == 5]
    assert [a.messages[-1].content for a in critiques] == [p.wordings["en"].critique for p in drawn]
    assert [a.messages[-1].content for a in revisions] == [p.wordings["en"].revise for p in drawn]
    assert [m.role for m in revisions[0].messages] == ["user", "assistant", "user", "assistant", "user"]


def test_korean_prompts_are_revised_in_korean():
    writer = Scripted(numbered)
    (chain,) = run_chains(writer, writer, [prompt("안녕하세요")], BOOK, ChainSettings(rounds=1))
    assert chain.language == "ko"
    assert "답변" in writer.asked[1].messages[-1].content


def test_a_critic_that_refuses_leaves_the_answer_as_it_was():
    def refuses_once(ask: Ask) -> Reply:
        if len(ask.messages) == 5 and ask.messages[1].content == "v0":
            return Reply(fault="refused")
        return numbered(ask)

    writer, critic = Scripted(numbered), Scripted(refuses_once)
    (chain,) = run_chains(writer, critic, [prompt("a")], BOOK, ChainSettings(rounds=2))
    assert [(r.revision, r.fault) for r in chain.rounds] == [("v0", "refused"), ("v0", "refused")]
    empty = Scripted(lambda ask: Reply("  ") if len(ask.messages) == 3 else numbered(ask))
    (chain,) = run_chains(writer, empty, [prompt("a")], BOOK, ChainSettings(rounds=1))
    assert (chain.last, chain.rounds[0].fault) == ("v0", "empty")


def test_a_prompt_without_an_answer_has_no_chain():
    writer = Scripted(
        lambda ask: Reply(fault="too_long") if ask.messages[0].content == "long" else numbered(ask)
    )
    first, second = run_chains(writer, writer, [prompt("long"), prompt("a")], BOOK, ChainSettings(rounds=1))
    assert (first.fault, first.rounds) == ("too_long", [])
    assert second.last == "v1"
    assert second.row()["rounds"][0]["critique"] == "critique of v0"


def test_steps_have_seeds_of_their_own():
    writer = Scripted(numbered)
    run_chains(writer, writer, [prompt("a")], BOOK, ChainSettings(rounds=2, seed=7))
    seeds = [ask.seed for ask in writer.asked]
    assert len(set(seeds)) == 5
    again = Scripted(numbered)
    run_chains(again, again, [prompt("a")], BOOK, ChainSettings(rounds=2, seed=7))
    assert [ask.seed for ask in again.asked] == seeds
