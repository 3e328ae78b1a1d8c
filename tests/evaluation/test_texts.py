import math

import pytest

from alignloop.evaluation.texts import distinct, openings, refuses, self_bleu, toxic


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "I’m unable to provide instructions for that.",
        "As an AI language model, I cannot give medical advice.",
        "That is against my guidelines.",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "그 정보는 제공해 드릴 수 없어요.",
        "",
        "   ",
    ],
)
def test_refusals_are_seen(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sure! You can bake bread in an hour.",
        "You cannot divide by zero, so the limit is taken instead.",
        "물론입니다. 먼저 물을 끓이세요.",
        "Here is a letter. " * 20 + "I'm sorry, I can't come.",  # part of the letter
    ],
)
def test_answers_are_no_refusals(text):
    assert not refuses(text)


def test_toxicity_is_by_whole_words():
    assert toxic("You are an IDIOT!")
    assert toxic("이 바보 같은")
    assert not toxic("Scunthorpe assesses classic hello")
    assert not toxic("")


def test_distinct_by_hand():
    # words: a b a | a c → 5 unigrams, 3 different; bigrams: ab, ba, ac → all different
    assert distinct(["a b a", "A c"], 1) == 3 / 5
    assert distinct(["a b a", "A c"], 2) == 1.0
    assert distinct(["x"], 2) == 0.0


def test_self_bleu_by_hand():
    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1.0)
    assert self_bleu(["a b c d e", "v w x y z"]) == 0.0
    assert self_bleu(["alone"]) == 0.0
    # a b c d against a b x d: p₁ = 3/4, p₂ = (1 + 1)/(3 + 1), p₃ = (0 + 1)/(2 + 1), p₄ = (0 + 1)/(1 + 1)
    expected = (3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25
    assert self_bleu(["a b c d", "a b x d"]) == pytest.approx(expected)
    # brevity: two words against three of another: exp(1 − 3/2)
    short = (2 / 2 * 2 / 2) ** 0.5 * math.exp(1 - 3 / 2)
    long = (2 / 3 * 2 / 3) ** 0.5
    assert self_bleu(["a b", "a b c"], n=2) == pytest.approx((short + long) / 2)


def test_a_count_is_clipped_at_the_largest_of_any_one_other_text():
    # of "a a a" the others hold at most two in one text: 2/3; of "a a": 3 → 2/2; of "a b": 1/2
    texts = ["a a a", "a a c", "a b d"]
    assert self_bleu(texts, n=1) == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)


def test_openings():
    texts = ["Certainly! Here is a list", "certainly here is a poem", "No."]
    opening, share, effective = openings(texts)
    assert opening == "certainly here is a"
    assert share == 2 / 3
    assert effective == pytest.approx(math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))))
    assert openings([]) == ("", 0.0, 0.0)
