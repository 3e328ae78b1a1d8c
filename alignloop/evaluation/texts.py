"""Variety and repetition of texts: distinct-n, self-BLEU, openings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from alignloop.rl.constraints import bare_words


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: different word n-grams among all n-grams of the texts together (Li et al. 2016).

    Args:
        texts: completions.
        n: 1 or more.

    Returns:
        Share, 0 to 1; 0 where there is no n-gram.
    """
    grams = [gram for text in texts for gram in _grams(bare_words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], *, n: int = 4, at_most: int = 200, seed: int = 0) -> float:
    """Mean BLEU-n of each text against all others: 1 where all say the same (Zhu et al. 2018).

    Precisions are clipped at the largest count in any one other text; one is added to numerator and
    denominator of those above 1-grams (Lin & Och 2004); brevity against the closest length.

    Args:
        texts: completions; those without words are left out.
        n: longest n-gram, all weighted alike.
        at_most: texts used, drawn from a seed.
        seed: of the draw.

    Returns:
        0 to 1; 0 for fewer than two texts.
    """
    tokens = [found for text in texts if (found := bare_words(text))]
    if len(tokens) > at_most:
        drawn = np.random.default_rng(seed).permutation(len(tokens))[:at_most]
        tokens = [tokens[i] for i in sorted(drawn)]
    if len(tokens) < 2:
        return 0.0
    logs = np.zeros(len(tokens))
    for order in range(1, n + 1):
        counts = [Counter(_grams(words, order)) for words in tokens]
        best, second, owner = _two_largest(counts)
        for i, count in enumerate(counts):
            hits = sum(min(c, second[g] if owner[g] == i else best[g]) for g, c in count.items())
            smooth = order > 1
            logs[i] += _log((hits + smooth), (count.total() + smooth)) / n
    lengths = [len(words) for words in tokens]
    return float(np.mean([math.exp(logs[i] + _brevity(i, lengths)) for i in range(len(tokens))]))


def openings(texts: Sequence[str], *, num_words: int = 4) -> tuple[str, float, float]:
    """The commonest opening, its share, and how many equally common openings there are in effect.

    Args:
        texts: completions.
        num_words: words of an opening.

    Returns:
        (opening, share, e to the entropy of the openings); ("", 0, 0) without texts.
    """
    if not texts:
        return "", 0.0, 0.0
    counts = Counter(" ".join(bare_words(text)[:num_words]) for text in texts)
    shares = np.array([count / len(texts) for count in counts.values()])
    opening, count = counts.most_common(1)[0]
    return opening, count / len(texts), float(np.exp(-(shares * np.log(shares)).sum()))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _two_largest(
    counts: Sequence[Counter[tuple[str, ...]]],
) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], int], dict[tuple[str, ...], int]]:
    """For every n-gram its largest count in a text, the largest in another text, and the first's number."""
    best: dict[tuple[str, ...], int] = {}
    second: dict[tuple[str, ...], int] = {}
    owner: dict[tuple[str, ...], int] = {}
    for i, counter in enumerate(counts):
        for gram, count in counter.items():
            if count > best.get(gram, 0):
                second[gram] = best.get(gram, 0)
                best[gram], owner[gram] = count, i
            else:
                second[gram] = max(second[gram], count)
    return best, second, owner


def _log(numerator: float, denominator: float) -> float:
    return math.log(numerator / denominator) if numerator else -math.inf


def _brevity(i: int, lengths: Sequence[int]) -> float:
    """BLEU's penalty, as a logarithm."""
    others = [length for k, length in enumerate(lengths) if k != i]
    closest = min(others, key=lambda length: (abs(length - lengths[i]), length))
    return min(0.0, 1 - closest / lengths[i])
