"""Near-duplicate search: MinHash signatures, banding, and a check of each candidate.

A text is the set of its character 5-grams (after normalisation), which works alike for languages
with and without spaces. Candidates share a band of the signature (Broder 1997; Leskovec et al.,
Mining of Massive Datasets, chapter 3); the exact Jaccard similarity of the sets decides, so there are
no false finds, and at most one true pair in a thousand is missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignloop.data.normal import normalise

_SIZE = 5
_HASHES = 128
_MISSED = 1e-3


def shingles(text: str) -> np.ndarray:
    """Sorted distinct 64-bit hashes of the character 5-grams of a text, uint64 (S,), S ≥ 1."""
    codes = np.frombuffer(normalise(text).ljust(_SIZE).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, _SIZE)
    value = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        value = _mix(value ^ column)
    return np.unique(value)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves every bit of the output."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared over all elements of two sorted sets; 1 for two empty ones."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    total = len(a) + len(b) - shared
    return shared / total if total else 1.0


def signature(hashes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Least element of the set after each of the multiplications (odd, modulo 2⁶⁴), uint64 (H,)."""
    return np.multiply.outer(factors, hashes).min(axis=1)


def rows_per_band(threshold: float) -> int:
    """The longest band with which a pair at the threshold is missed at most once in a thousand."""
    for rows in range(16, 1, -1):
        if (1 - threshold**rows) ** (_HASHES // rows) <= _MISSED:
            return rows
    return 1


def first_similar(
    items: Sequence[Sequence[str]], threshold: float, *, groups: Sequence[str] | None = None
) -> list[int | None]:
    """For each item the earliest kept item it is nearly equal to, None if it is kept itself.

    An item is one or more texts; two items are nearly equal if they have equally many texts and
    every text has a Jaccard similarity of at least `threshold` with its counterpart.

    Args:
        items: the texts of each record.
        threshold: similarity in (0, 1].
        groups: only items of the same group are compared; by default all are.

    Returns:
        Positions in `items`, or None.
    """
    rows = rows_per_band(threshold)
    bands = _HASHES // rows
    factors = _mix(np.arange(bands * rows, dtype=np.uint64)) | np.uint64(1)
    buckets: dict[tuple[str, int, int, bytes], list[int]] = {}
    sets: dict[int, list[np.ndarray]] = {}
    result: list[int | None] = []
    for index, texts in enumerate(items):
        own = [shingles(text) for text in texts]
        # marked with the text's place: swapped completions are another record
        marked = [_mix(part ^ np.uint64(place + 1)) for place, part in enumerate(own)]
        marks = signature(np.concatenate(marked), factors)
        kind = (groups[index] if groups is not None else "", len(own))
        keys = [(*kind, band, marks[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]
        candidates = sorted({other for key in keys for other in buckets.get(key, ())})
        found = next((c for c in candidates if _similar(own, sets[c], threshold)), None)
        result.append(found)
        if found is None:
            sets[index] = own
            for key in keys:
                buckets.setdefault(key, []).append(index)
    return result


def _similar(a: Sequence[np.ndarray], b: Sequence[np.ndarray], threshold: float) -> bool:
    return all(jaccard(x, y) >= threshold for x, y in zip(a, b, strict=True))
