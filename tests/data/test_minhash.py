import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.data import quality
from alignloop.data.quality import first_similar, jaccard, rows_per_band, shingles


def grams(text):
    return {text[k : k + 5] for k in range(max(1, len(text) - 4))}


def true_jaccard(a, b):
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


words = st.lists(st.sampled_from("alpha beta gamma delta 가나다라 마바사".split()), min_size=2, max_size=12)  # noqa: SIM905


@settings(deadline=None, max_examples=60)
@given(words, words)
def test_shingles_are_the_set_of_five_grams(a, b):
    one, two = " ".join(a), " ".join(b)
    assert len(shingles(one)) == len(grams(one))
    assert jaccard(shingles(one), shingles(two)) == true_jaccard(one, two)


def test_short_texts_and_case():
    assert len(shingles("")) == len(shingles("ab")) == 1
    assert jaccard(shingles("ab"), shingles("AB ")) == 1
    assert jaccard(shingles("ab"), shingles("ac")) == 0


def test_band_length_keeps_the_promised_recall():
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        rows = rows_per_band(threshold)
        assert (1 - threshold**rows) ** (128 // rows) <= 1e-3 or rows == 1
    # by hand: (1 - 0.8^5)^25 = 4.8e-5 is enough, (1 - 0.8^6)^21 = 1.8e-3 is not
    assert rows_per_band(0.8) == 5
    assert (rows_per_band(1.0), rows_per_band(0.35)) == (16, 2)


def test_finds_what_an_exhaustive_search_finds():
    chance = random.Random(0)
    base = ["".join(chance.choices("abcdefgh ", k=150)) for _ in range(40)]
    texts = list(base)
    for text in base:
        for edits in (1, 2, 4, 8):
            signs = list(text)
            for place in chance.sample(range(len(signs)), edits):
                signs[place] = "X"
            texts.append("".join(signs))
    texts = [" ".join(text.lower().split()) for text in texts]
    sets = [shingles(text) for text in texts]
    kept, expected = [], []
    for k in range(len(texts)):
        found = next((j for j in kept if jaccard(sets[k], sets[j]) >= 0.8), None)
        expected.append(found)
        if found is None:
            kept.append(k)
    assert first_similar([(text,) for text in texts], 0.8) == expected
    assert 40 < sum(found is not None for found in expected) < 160


def test_every_part_must_be_similar():
    long = "how do I water a cactus in winter " * 3
    items = [(long, "once a month"), (long, "never at all"), ("never at all", long), (long, "once a month!")]
    assert first_similar(items, 0.7) == [None, None, None, 0]
    assert first_similar([("a", "b"), ("a", "b", "c")], 0.5) == [None, None]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=2), max_size=8), st.floats(0.1, 1))
def test_equal_items_are_always_found_and_different_ones_never_at_one(items, threshold):
    found = first_similar(items + items, threshold)
    assert None not in found[len(items) :]
    for index, first in enumerate(first_similar(items, 1.0)):
        if first is not None:
            for a, b in zip(items[index], items[first], strict=True):
                assert np.array_equal(shingles(a), shingles(b))


def test_unlike_items_share_no_bucket():
    """Only items of one bucket are compared; where all were, a million rows would take for ever."""
    compared = []
    plain = quality.jaccard
    texts = [[f"{word} " * 30] for word in ("ocean", "window", "bridge", "candle", "purple", "ginger")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality, "jaccard", lambda a, b: (compared.append(1), plain(a, b))[1])
        assert first_similar(texts, 0.8) == [None] * len(texts)
        assert not compared
        assert first_similar([*texts, texts[0]], 0.8)[-1] == 0
    assert compared


def test_factors_are_odd_and_distinct():
    """An even one maps two sets of hashes to one, so that unlike texts would share a bucket."""
    seen = []
    plain = quality.signature
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality, "signature", lambda h, factors: (seen.append(factors), plain(h, factors))[1])
        first_similar([["some text"]], 0.8)
    (factors,) = seen
    assert len(set(factors.tolist())) == len(factors) == 25 * 5
    assert (factors % np.uint64(2) == 1).all()
