"""Certification on judges whose faults are known."""

import zlib

import pytest

from alignloop.errors import UserError
from alignloop.judges.adviser import Ask, Reply
from alignloop.judges.certify import NULL_ANSWERS, certify, refuse_unless_passed
from alignloop.judges.pairwise import AnswerPair, JudgeSettings
from alignloop.judges.rubric import load_rubric
from alignloop.records import Message, Preference
from tests.judges.scripted import Scripted, by_taste, shown

RUBRIC = load_rubric("default")
NULLS = {text for both in NULL_ANSWERS.values() for text in both}


def asked(number: int) -> tuple[Message]:
    return (Message("user", f"question {number}"),)


def value(text: str) -> float:
    """What people like: the number at the end of an answer; constant answers have none."""
    return -1.0 if text in NULLS else float(text.split()[-1])


# Longer and shorter answers win equally often: the filler goes to the better one of every second pair.
PAIRS = [
    AnswerPair(
        asked(k), "word " * (10 if k % 2 else 1) + f"{k % 7 + 1}", "word " * (1 if k % 2 else 10) + "0"
    )
    for k in range(80)
]
HUMAN = [Preference(p.prompt, *sorted((p.first, p.second), key=value, reverse=True)) for p in PAIRS]


def test_a_perfect_judge_passes_in_everything() -> None:
    certificate = certify(by_taste(value), PAIRS, RUBRIC, JudgeSettings(), human=HUMAN)
    found = {m.name: m for m in certificate.measures}
    assert found["swap_consistency"].value == 1
    assert found["length_preference"].value == 0.5
    assert found["kappa"].value == 1
    assert found["null_win_rate"].value == 0
    assert all(m.passed for m in certificate.measures)
    assert found["swap_consistency"].low == pytest.approx(80 / (80 + 1.9599639845**2) * 1.0, abs=0.03)
    refuse_unless_passed(certificate)


def test_a_judge_that_takes_the_first_answer_fails() -> None:
    judge = Scripted(lambda ask: Reply("", (0.9, 0.1, 0.0)))
    certificate = certify(judge, PAIRS, RUBRIC, JudgeSettings(), human=HUMAN)
    found = {m.name: m for m in certificate.measures}
    assert found["swap_consistency"].value == 0
    assert found["null_win_rate"].value == 0.5  # all ties
    assert found["length_preference"].value is None  # nothing is decided
    assert set(certificate.failed) >= {"swap_consistency", "null_win_rate", "length_preference"}
    with pytest.raises(UserError, match=r"swap_consistency 0\.00 .*override: \[swap_consistency, "):
        refuse_unless_passed(certificate)


def test_a_judge_that_likes_long_answers_fails_in_that() -> None:
    certificate = certify(by_taste(len), PAIRS, RUBRIC, JudgeSettings(), human=HUMAN)
    found = {m.name: m for m in certificate.measures}
    assert found["length_preference"].value == 1
    assert found["swap_consistency"].value == 1
    # it agrees with people on half of the pairs: no better than chance
    assert abs(found["kappa"].value or 0) < 0.15
    assert not found["kappa"].passed


def test_a_judge_that_falls_for_a_constant_answer_fails_in_that() -> None:
    certificate = certify(
        by_taste(lambda t: 99.0 if t in NULLS else value(t)), PAIRS, RUBRIC, JudgeSettings(), human=HUMAN
    )
    assert certificate.failed == ("null_win_rate",)


def test_kappa_needs_people_or_an_override() -> None:
    without = certify(by_taste(value), PAIRS, RUBRIC, JudgeSettings())
    assert without.failed == ("kappa",)
    with pytest.raises(UserError, match="needs human labels: human_dataset"):
        refuse_unless_passed(without)
    overridden = certify(by_taste(value), PAIRS, RUBRIC, JudgeSettings(), override=["kappa", "null_win_rate"])
    refuse_unless_passed(overridden)
    assert overridden.overridden == ("kappa",)  # what passed needs no override


def test_where_people_put_their_choice_says_nothing() -> None:
    """A judge that never looks agrees with people at chance, although `chosen` always comes first."""

    def answer(ask: Ask) -> Reply:
        asked_for = ask.messages[1].content.split("</conversation>")[0]
        first, second = (zlib.crc32((asked_for + text).encode()) for text in shown(ask))
        return Reply("", (float(first > second), float(first < second), 0.0))

    judge = Scripted(answer)
    certificate = certify(judge, PAIRS, RUBRIC, JudgeSettings(), human=HUMAN)
    kappa = next(m for m in certificate.measures if m.name == "kappa")
    assert kappa.value is not None
    assert abs(kappa.value) < 0.25
