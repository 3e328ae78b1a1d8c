"""Constitutions: the default one, draws, and typos."""

import re

import pytest

from alignloop.errors import ConfigError
from alignloop.judges.constitution.principles import HERE, benign_prompts, load_constitution
from alignloop.records import Message

DEFAULT = (HERE / "default.yaml").read_text(encoding="utf-8")
BOOK = load_constitution("default")


def prompt(text: str) -> tuple[Message]:
    return (Message("user", text),)


def test_the_default_one_is_written_in_two_languages():
    assert len(BOOK.principles) == 10
    assert BOOK.languages == ("en", "ko")
    for principle in BOOK.principles:
        for language, words in principle.wordings.items():
            hangul = any("가" <= c <= "힣" for c in words.critique + words.revise + words.prefer)
            assert hangul == (language == "ko")


def test_draws_are_seeded_and_use_every_principle_before_any_twice():
    names = [p.name for p in BOOK.draw(prompt("a"), 10, seed=1)]
    assert sorted(names) == sorted(p.name for p in BOOK.principles)
    assert names == [p.name for p in BOOK.draw(prompt("a"), 10, seed=1)]
    assert names[:3] == [p.name for p in BOOK.draw(prompt("a"), 3, seed=1)]
    assert names != [p.name for p in BOOK.draw(prompt("b"), 10, seed=1)]
    assert names != [p.name for p in BOOK.draw(prompt("a"), 10, seed=2)]
    first = {BOOK.draw(prompt(f"{k}"), 1, seed=0)[0].name for k in range(100)}
    assert len(first) == 10


def test_a_prompt_is_discussed_in_its_language():
    assert BOOK.language(prompt("무엇을 먹을까요?")) == "ko"
    assert BOOK.language(prompt("What shall I eat?")) == "en"
    assert BOOK.language(prompt("What shall I eat?"), "ko") == "ko"
    with pytest.raises(ConfigError, match="no texts in 'fr'"):
        BOOK.language(prompt("a"), "fr")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("critique:", "critque:", r"book\.yaml:6: unknown key 'critque'; did you mean 'critique'\?"),
        ("    ko:", "    kr:", r"book\.yaml:9: unknown key 'kr'; one of: name, en, ko"),
        ("  - name: truth", "  - name: no-harm", r"a principle named 'no-harm' exists already"),
        ("principles:", "principels:", r"did you mean 'principles'\?"),
        ("  - name: no-harm", "  - nane: no-harm", r"unknown key 'nane'; did you mean 'name'\?"),
    ],
)
def test_typos_are_named_at_their_line(tmp_path, old, new, message):
    file = tmp_path / "book.yaml"
    file.write_text(DEFAULT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_constitution(str(file))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_all_typos_are_told_at_once(tmp_path):
    file = tmp_path / "book.yaml"
    file.write_text(DEFAULT.replace("revise:", "revse:"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_constitution(str(file))
    assert len(caught.value.findings) == 2 * 10  # unknown and missing, in the first language of each


def test_a_principle_without_a_language_of_the_others(tmp_path):
    file = tmp_path / "book.yaml"
    words = "      critique: a\n      revise: b\n      prefer: c\n"
    file.write_text(
        f"name: n\nprinciples:\n  - name: x\n    en:\n{words}  - name: y\n    ko:\n{words}", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"book\.yaml:8: .*all need the same languages"):
        load_constitution(str(file))


def test_benign_prompts_are_there_in_both_languages():
    texts = benign_prompts()
    assert len(texts) == len(set(texts)) >= 20
    assert sum(any("가" <= c <= "힣" for c in text) for text in texts) >= 8
