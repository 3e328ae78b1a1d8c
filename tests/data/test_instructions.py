import json

import pytest

from alignloop.data import instructions
from alignloop.data.instructions import (
    QUICKSTART_KINDS,
    _task,
    instruction_kinds,
    instruction_prompts,
)
from alignloop.errors import DataError
from alignloop.rl.constraints import CONSTRAINTS, checked


def texts(prompts):
    return [p.prompt[0].content for p in prompts]


def test_same_arguments_same_prompts_and_other_seed_other_prompts():
    first = instruction_prompts("train", 60, 3)
    assert first == instruction_prompts("train", 60, 3)
    assert texts(first) != texts(instruction_prompts("train", 60, 4))
    assert len(set(texts(instruction_prompts("eval", 600, 0)))) == 600


@pytest.mark.parametrize("language", ["english", "korean"])
def test_no_topic_and_no_wording_of_train_is_in_eval(language):
    topics = _task()["topics"][language]
    assert not set(topics["train"]) & set(topics["eval"])
    for kind in instruction_kinds(language):
        wordings = _task()["kinds"][kind][language]
        assert not {w.casefold() for w in wordings["train"]} & {w.casefold() for w in wordings["eval"]}, kind
    train = instruction_prompts("train", 300, 0, instruction_kinds(language), languages=[language])
    held_out = instruction_prompts("eval", 60, 0, instruction_kinds(language), languages=[language])
    assert not {p.provenance.details["topic"] for p in train} & {
        p.provenance.details["topic"] for p in held_out
    }
    assert not set(texts(train)) & set(texts(held_out))


def test_there_are_enough_distinct_topics_and_kinds():
    topics = _task()["topics"]["english"]
    assert len(set(topics["train"])) == len(topics["train"]) >= 150
    assert len(set(topics["eval"])) == len(topics["eval"]) >= 60
    assert len(QUICKSTART_KINDS) >= 10
    assert set(QUICKSTART_KINDS) <= set(instruction_kinds())
    assert set(instruction_kinds()) <= set(CONSTRAINTS)


def test_kinds_and_topics_take_turns():
    prompts = instruction_prompts("eval", 200, 0)
    counts = {k: sum(p.provenance.details["kind"] == k for p in prompts) for k in QUICKSTART_KINDS}
    assert max(counts.values()) - min(counts.values()) <= 1
    topics = [p.provenance.details["topic"] for p in prompts]
    assert max(topics.count(t) for t in topics) <= -(-200 // len(set(topics))) + 1


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("kind", instruction_kinds())
def test_every_prompt_states_its_constraint_and_can_be_checked(kind, split):
    for prompt in instruction_prompts(split, 30, 0, [kind]):
        (constraint,) = prompt.constraints
        checked(constraint)
        assert constraint["kind"] == kind
        text = prompt.prompt[0].content
        assert prompt.provenance.details["topic"] in text
        assert "(s)" not in text
        for name, value in constraint.items():
            stated = value if isinstance(value, list) else [str(value)]
            assert name == "kind" or all(part.casefold() in text.casefold() for part in stated)


def test_counts_of_one_are_singular():
    prompts = instruction_prompts("train", 60, 0, ["exclamation"])
    one = [t for p, t in zip(prompts, texts(prompts), strict=True) if p.constraints[0]["count"] == 1]
    assert any("1 exclamation mark" in t for t in one)
    assert not any("1 exclamation marks" in t.replace("1 or more", "") for t in one)


def test_two_constraints_that_can_be_obeyed_together():
    prompts = instruction_prompts("train", 200, 0, instruction_kinds(), constraints_per_prompt=2)
    kinds = [{c["kind"] for c in p.constraints} for p in prompts]
    assert all(len(pair) == 2 for pair in kinds)
    assert {"lowercase", "uppercase"} not in kinds
    assert {"max_words", "min_words"} not in kinds


def test_languages_take_turns():
    prompts = instruction_prompts("train", 10, 0, ["max_words"], languages=["english", "korean"])
    assert [p.provenance.details["language"] for p in prompts] == ["english", "korean"] * 5
    assert any("가" <= c <= "힣" for c in texts(prompts)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "accepted are train, eval"),
        ({"kinds": ["max_word"]}, "accepted are max_words"),
        ({"kinds": []}, "no kind has english wordings"),
        ({"kinds": ["title"], "languages": ["korean"]}, "no kind has korean wordings"),
        ({"languages": ["klingon"]}, "accepted are english, korean"),
        ({"n": 10_000, "kinds": ["lowercase"]}, "different prompts exist"),
        ({"constraints_per_prompt": 3}, "accepted are 1, 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        instruction_prompts(**{"split": "train", "n": 4, "seed": 0, **arguments})


def test_prompts_do_not_share_mutable_state_with_the_task():
    before = json.dumps(_task(), sort_keys=True)
    prompt = instruction_prompts("train", 1, 0, ["include_words"])[0]
    prompt.constraints[0]["words"].append("changed")  # type: ignore[union-attr]
    assert json.dumps(_task(), sort_keys=True) == before


def test_no_constraint_stands_beside_itself():
    assert not instructions._compatible("no_digits", "no_digits")
    for group in instructions._CONFLICTS:
        first, second, *_ = sorted(group)
        assert not instructions._compatible(first, second)
        assert not instructions._compatible(second, first)
    assert instructions._compatible("max_words", "lowercase")


@pytest.mark.parametrize(
    ("wording", "arguments", "filled"),
    [
        ("{count} word(s)", {"count": 1}, "1 word"),
        ("{count} word(s) or line(s)", {"count": 2}, "2 words or lines"),
        ("word(s)", {}, "words"),
        ("use {words}", {"words": ["sea", "tide"]}, "use sea, tide"),
        ("in {language}", {"language": "korean"}, "in Korean"),
        ("say {text}", {"text": "ok then"}, "say ok then"),
    ],
)
def test_a_wording_is_filled_with_its_arguments(wording, arguments, filled):
    assert instructions._fill(wording, arguments) == filled


def test_the_topic_stands_first_in_three_of_four_prompts():
    """Of 400, 300 with a standard deviation of 9."""
    prompts = instruction_prompts("train", 400, 0)
    first = sum(p.prompt[0].content.startswith(p.provenance.details["topic"]) for p in prompts)
    assert 260 < first < 340
    last = [p for p in prompts if not p.prompt[0].content.startswith(p.provenance.details["topic"])]
    assert all(p.prompt[0].content.endswith(p.provenance.details["topic"]) for p in last)


def test_what_a_prompt_says_of_itself():
    (one,) = instruction_prompts("eval", 1, 0, ["title"])
    details = dict(one.provenance.details)
    assert details.pop("topic") in _task()["topics"]["english"]["eval"]
    assert details == {"task": "instructions", "split": "eval", "kind": "title", "language": "english"}
    two = instruction_prompts("train", 20, 0, ["title", "bold"], constraints_per_prompt=2)
    assert {p.provenance.details["kind"] for p in two} == {"title+bold", "bold+title"}
    alone = instruction_prompts("train", 5, 0, ["title"], constraints_per_prompt=2)
    assert {p.provenance.details["kind"] for p in alone} == {"title"}  # nothing stands beside itself
    assert len(instruction_prompts("train", 0, 0)) == 0


def test_seeds_and_splits_deal_otherwise():
    def kinds(split, seed):
        return [p.provenance.details["kind"] for p in instruction_prompts(split, 12, seed)]

    assert sorted(kinds("train", 0)) == sorted(QUICKSTART_KINDS)  # each once in a round
    assert len({tuple(kinds(split, seed)) for split in ("train", "eval") for seed in (0, 1, 2)}) == 6


def test_short_texts_of_both_splits():
    train, held_out = (instructions.documents(split) for split in ("train", "eval"))
    assert not {d.text for d in train} & {d.text for d in held_out}
    assert all(d.provenance.details == {"task": "texts", "split": "eval"} for d in held_out)
    assert len(held_out) > 0
    assert len(train) > len(held_out)
