import math

import pytest

from alignloop.evaluation.texts import distinct, openings, self_bleu


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
