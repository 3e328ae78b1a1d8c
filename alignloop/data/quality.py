"""Filters for training data; each returns the kept records and a fault for every dropped one.

A record that a mixing weight repeats (same file and line) is no duplicate of itself.

Near-duplicates are found by MinHash signatures, banding, and a check of each candidate. A text is the set
of its character 5-grams (after normalisation), which works alike for languages with and without spaces.
Candidates share a band of the signature (Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3); the exact Jaccard similarity of the sets decides, so there are no false finds, and at most one
true pair in a thousand is missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from alignloop.data.columns import content_of
from alignloop.data.normal import completion_texts, fault_of, normalise, prompt_key, prompt_text, words
from alignloop.errors import DataError
from alignloop.records import Document, Label, Preference, Record

Filtered = tuple[list[Record], list[DataError]]


def _place(record: Record) -> str:
    return (
        f"{record.provenance.file}:{record.provenance.line}" if record.provenance.line else "an earlier row"
    )


def _keep(records: Iterable[Record], check: Callable[[Record], DataError | None]) -> Filtered:
    kept: list[Record] = []
    dropped: list[DataError] = []
    for record in records:
        fault = check(record)
        if fault is None:
            kept.append(record)
        else:
            dropped.append(fault)
    return kept, dropped


def exact_duplicates(records: Sequence[Record]) -> Filtered:
    """Drop records whose content, labels included, an earlier record has."""
    seen: dict[str, Record] = {}

    def check(record: Record) -> DataError | None:
        content = content_of(record, provenance=False)
        first = seen.get(content)
        if first is None:
            seen[content] = record
            return None
        if first == record and record.provenance.line:
            return None
        return fault_of(record, "duplicate", f"the same as {_place(first)}")

    return _keep(records, check)


def near_duplicates(records: Sequence[Record], threshold: float = 0.8) -> Filtered:
    """Drop records nearly equal to an earlier one with the same system prompt.

    Args:
        records: any kinds; labels are not compared.
        threshold: least Jaccard similarity of character 5-grams that the prompts *and* each of the
            completions must have, in (0, 1].

    Returns:
        Kept records and a fault for each dropped one.
    """
    if not 0 < threshold <= 1:
        raise DataError("expected a number above 0, at most 1", field="threshold", value=threshold)
    # rows repeated by a weight are one item here
    keys = [content_of(r) if r.provenance.line else str(k) for k, r in enumerate(records)]
    items = dict(zip(reversed(keys), reversed(records), strict=True))
    unique = list(dict.fromkeys(keys))
    # a long system prompt shared by all rows would make different questions look alike
    systems = [normalise(prompt_text(items[key], "system")) for key in unique]
    texts = [
        (prompt_text(items[key], "user", "assistant", "tool"), *completion_texts(items[key]))
        for key in unique
    ]
    similar = dict(zip(unique, first_similar(texts, threshold, groups=systems), strict=True))
    kept: list[Record] = []
    dropped: list[DataError] = []
    for key, record in zip(keys, records, strict=True):
        first = similar[key]
        if first is None:
            kept.append(record)
        else:
            place = _place(items[unique[first]])
            dropped.append(fault_of(record, "near_duplicate", f"nearly the same as {place}"))
    return kept, dropped


def length_bounds(
    records: Sequence[Record],
    *,
    prompt: tuple[int, int] = (0, 10**9),
    completion: tuple[int, int] = (1, 10**9),
) -> Filtered:
    """Drop records with a prompt or any completion outside the bounds (least, most), in characters."""

    def check(record: Record) -> DataError | None:
        sizes = [("prompt", len(prompt_text(record)), prompt)]
        sizes += [("completion", len(text), completion) for text in completion_texts(record)]
        for what, size, (least, most) in sizes:
            if not least <= size <= most:
                reason = f"{what}_too_{'short' if size < least else 'long'}"
                return fault_of(record, reason, f"{what} of {size} characters, wanted {least} to {most}")
        return None

    return _keep(records, check)


def empty_completions(records: Sequence[Record]) -> Filtered:
    """Drop records with a completion of nothing but white space."""

    def check(record: Record) -> DataError | None:
        empty = any(not text.strip() for text in completion_texts(record))
        return fault_of(record, "empty_completion", "a completion is empty") if empty else None

    return _keep(records, check)


def equal_pairs(records: Sequence[Record]) -> Filtered:
    """Drop preferences whose two completions are the same up to white space at the ends."""

    def check(record: Record) -> DataError | None:
        if isinstance(record, Preference) and record.chosen.strip() == record.rejected.strip():
            return fault_of(record, "chosen_is_rejected", "chosen and rejected are the same text")
        return None

    return _keep(records, check)


def contradictions(records: Sequence[Record]) -> Filtered:
    """Drop preferences of which another row says the opposite, and labels of both values.

    All rows of a contradiction go: which one is right cannot be told. Ties contradict nothing.
    """
    verdicts: dict[tuple[str, ...], set[bool]] = defaultdict(set)
    for record in records:
        key, verdict = _verdict(record)
        if verdict is not None:
            verdicts[key].add(verdict)

    def check(record: Record) -> DataError | None:
        key, verdict = _verdict(record)
        if verdict is None or len(verdicts[key]) < 2:
            return None
        return fault_of(record, "contradiction", "another row judges the same completions the other way")

    return _keep(records, check)


def _verdict(record: Record) -> tuple[tuple[str, ...], bool | None]:
    """What is judged, and how; None if there is nothing to contradict."""
    match record:
        case Preference() if record.probability != 0.5 and record.chosen != record.rejected:
            one, two = sorted((record.chosen, record.rejected))
            return (prompt_key(record), one, two), (record.chosen == one) == (record.probability > 0.5)
        case Label():
            return (prompt_key(record), record.completion), record.desirable
        case _:
            return (), None


def without_evaluation(
    records: Sequence[Record], evaluation: Sequence[Record], *, size: int = 8, threshold: float = 0.5
) -> Filtered:
    """Drop training records that contain a prompt of the evaluation set.

    A record goes if its prompt equals one (normalised), or if its prompt and completions contain at
    least `threshold` of the word n-grams of an evaluation prompt. Evaluation prompts of fewer than
    `size` words are only compared as a whole, lest every "Thank you." be a find.

    Args:
        records: training data.
        evaluation: records whose prompts must not be learned; of a dialogue, its last user message.
        size: words of an n-gram.
        threshold: share of an evaluation prompt's n-grams in (0, 1].

    Returns:
        Kept records and a fault for each dropped one.
    """
    asked = {normalise(text): record for record in reversed(evaluation) if (text := _last_user(record))}
    grams = {text: _grams(text, size) for text in asked}
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text, found in grams.items():
        for gram in found:
            holders[gram].append(text)

    def check(record: Record) -> DataError | None:
        own = normalise(_last_user(record))
        if own in asked:
            return fault_of(record, "in_evaluation", f"its prompt is that of {_place(asked[own])}")
        whole = "\n".join((prompt_text(record), *completion_texts(record)))
        hits = Counter(text for gram in _grams(whole, size) for text in holders.get(gram, ()))
        for text, count in hits.items():
            if count >= threshold * len(grams[text]):
                return fault_of(record, "in_evaluation", f"contains the prompt of {_place(asked[text])}")
        return None

    return _keep(records, check)


def _last_user(record: Record) -> str:
    if isinstance(record, Document):
        return ""
    return next((m.content for m in reversed(record.prompt) if m.role == "user"), "")


def _grams(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[k : k + size]) for k in range(len(found) - size + 1)}


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
