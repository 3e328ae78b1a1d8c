"""Records of one kind made from records of another, only when asked for.

| from | to | rule |
|---|---|---|
| ranking | preference | every pair with different ranks, or only best against worst |
| ranking | demonstration | the one response ranked first |
| rating | preference | responses to the same prompt whose scores differ by at least `min_gap` |
| rating | label | good from `min_score` up, else bad |
| rating | demonstration | scores from `min_score` up |
| label | preference | every good response to a prompt against every bad one |
| label | demonstration | good responses |
| preference | label | the chosen response is good, the rejected one bad |
| preference | demonstration | the chosen response |
| any but document | prompt | the prompt, once |

A demonstration made from a judged answer trains that answer; earlier turns are its context. The result
has origin `derived`; its details hold the conversion and the origin of its source, file
and line point at that source. What yields nothing is returned with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

from alignloop.data.normal import fault_of, prompt_key
from alignloop.errors import DataError
from alignloop.records import (
    Conversed,
    Demonstration,
    Document,
    Label,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    Record,
    as_context,
    kind_of,
)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert.

    Attributes:
        pairs: of a ranking all pairs, or only the best against the worst response.
        attribute: the score that counts in ratings; empty for the only one there is.
        min_gap: least difference of scores that makes a preference.
        min_score: least score of a good response; needed for labels and demonstrations.
    """

    pairs: Literal["all", "best_worst"] = "all"
    attribute: str = ""
    min_gap: float = 1.0
    min_score: float | None = None


def convert(
    records: Sequence[Record], to: str, options: Options | None = None
) -> tuple[list[Record], list[DataError]]:
    """Records of kind `to` made from `records`, which must all be of one kind.

    Args:
        records: the source.
        to: the kind to make, see the module's table.
        options: how; the defaults if None.

    Returns:
        The new records in the order of their sources, and a fault for each source without any.

    Raises:
        DataError: no such conversion, mixed kinds, or a needed option is missing.
    """
    options = options or Options()
    if options.pairs not in ("all", "best_worst"):
        raise DataError("expected all or best_worst", field="pairs", value=options.pairs)
    if not options.min_gap > 0:
        raise DataError("expected a number above 0", field="min_gap", value=options.min_gap)
    possible = targets(records)
    kind = kind_of(records[0])
    if to not in possible:
        raise DataError(
            f"a {kind} cannot be made into a {to}; possible: {', '.join(possible) or 'nothing'}",
            field="to",
            value=to,
        )
    conversion = _to_prompt if to == "prompt" else _CONVERSIONS[kind, to]
    made: list[Record] = []
    skipped: list[DataError] = []
    for item in conversion(records, options):
        (skipped if isinstance(item, DataError) else made).append(item)  # pyright: ignore[reportArgumentType]
    return made, skipped


def targets(records: Sequence[Record]) -> list[str]:
    """The kinds that records can be made into.

    Raises:
        DataError: no records, or of several kinds.
    """
    kinds = {kind_of(record) for record in records}
    if len(kinds) != 1:
        raise DataError(f"expected records of one kind, found {', '.join(sorted(kinds)) or 'none'}")
    kind = kinds.pop()
    return [b for a, b in _CONVERSIONS if a == kind] + ["prompt"] * (kind != "document")


def _derived(source: Provenance, name: str, **details: str | int | float | bool) -> Provenance:
    own = {**source.details, "conversion": name, "source_origin": source.origin, **details}
    return Provenance(source.file, source.line, "derived", own)


def _by_prompt(records: Sequence[R]) -> list[list[R]]:
    groups: dict[str, list[R]] = {}
    for record in records:
        groups.setdefault(prompt_key(record), []).append(record)
    return list(groups.values())


def _ranking_to_preference(records: Sequence[Ranking], options: Options) -> Iterator[Record | DataError]:
    name = f"ranking to preference, {options.pairs}"
    for record in records:
        order = sorted(zip(record.ranks, record.completions, strict=True), key=lambda pair: pair[0])
        pairs = combinations(order, 2) if options.pairs == "all" else [(order[0], order[-1])]
        decided = [(a, b) for a, b in pairs if a[0] < b[0]]
        if not decided:
            yield fault_of(record, "tie", "all responses share a rank")
        for (rank, chosen), (other, rejected) in decided:
            source = _derived(record.provenance, name, chosen_rank=rank, rejected_rank=other)
            yield Preference(record.prompt, chosen, rejected, provenance=source)


def _score(record: Rating, attribute: str) -> float:
    """The score that counts.

    Raises:
        DataError: several attributes and none named, or the named one is missing.
    """
    if not attribute and len(record.scores) == 1:
        return next(iter(record.scores.values()))
    if attribute not in record.scores:
        raise DataError(
            f"name the attribute to use, one of {', '.join(record.scores)}",
            file=record.provenance.file,
            line=record.provenance.line,
            field="attribute",
            value=attribute or None,
        )
    return record.scores[attribute]


def _least(options: Options) -> float:
    if options.min_score is None:
        raise DataError("say from which score up a response is good", field="min_score")
    return options.min_score


def _rating_to_preference(records: Sequence[Rating], options: Options) -> Iterator[Record | DataError]:
    for group in _by_prompt(records):
        scored = sorted(((_score(r, options.attribute), r) for r in group), key=lambda pair: -pair[0])
        decided = [(a, b) for a, b in combinations(scored, 2) if a[0] - b[0] >= options.min_gap]
        if not decided:
            why = "the only response to its prompt" if len(group) == 1 else "no score differs by min_gap"
            yield fault_of(group[0], "no_pair", why)
        for (high, chosen), (low, rejected) in decided:
            source = _derived(
                chosen.provenance, "rating to preference", gap=high - low, **_other(chosen, rejected)
            )
            yield Preference(chosen.prompt, chosen.completion, rejected.completion, provenance=source)


def _other(chosen: Record, rejected: Record) -> dict[str, str | int]:
    """Where the rejected response comes from."""
    place = rejected.provenance
    return {"rejected_line": place.line} | (
        {"rejected_file": place.file} if place.file != chosen.provenance.file else {}
    )


def _label_to_preference(records: Sequence[Label], options: Options) -> Iterator[Record | DataError]:
    for group in _by_prompt(records):
        good = [r for r in group if r.desirable]
        bad = [r for r in group if not r.desirable]
        if not good or not bad:
            yield fault_of(group[0], "no_pair", f"only {'good' if good else 'bad'} responses to its prompt")
        for chosen in good:
            for rejected in bad:
                source = _derived(chosen.provenance, "label to preference", **_other(chosen, rejected))
                yield Preference(chosen.prompt, chosen.completion, rejected.completion, provenance=source)


_Answers = tuple[list[tuple[str, bool]], tuple[str, str], str, dict[str, float]]
"""Answers and whether each is good, why none is (reason, sentence), what decides, and its number."""


def _judged(record: Record, options: Options) -> _Answers:
    match record:
        case Ranking():
            best = [
                c for c, r in zip(record.completions, record.ranks, strict=True) if r == min(record.ranks)
            ]
            why = ("tie", f"{len(best)} responses share the first rank")
            return [(text, True) for text in best if len(best) == 1], why, "", {}
        case Rating():
            least, score = _least(options), _score(record, options.attribute)
            why = ("low_score", f"score {score:g} is below {least:g}")
            return [(record.completion, score >= least)], why, f"from {least:g}", {"score": score}
        case Label():
            why = ("undesirable", "the response is labelled bad")
            return [(record.completion, record.desirable)], why, "", {}
        case Preference():
            pair = [(record.chosen, True), (record.rejected, False)]
            why = ("tie", f"chosen is preferred with probability {record.probability:g}")
            return pair if record.probability > 0.5 else [], why, "", {}
    raise TypeError(f"not judged: {type(record).__name__}")


def _to_label(records: Sequence[Conversed], options: Options) -> Iterator[Record | DataError]:
    for record in records:
        answers, why, bound, details = _judged(record, options)
        if not answers:
            yield fault_of(record, *why)
        name = f"{kind_of(record)} to label" + (f", good {bound}" if bound else "")
        for text, good in answers:
            yield Label(record.prompt, text, good, _derived(record.provenance, name, **details))


def _to_demonstration(records: Sequence[Conversed], options: Options) -> Iterator[Record | DataError]:
    for record in records:
        answers, why, bound, details = _judged(record, options)
        best = next((text for text, good in answers if good), None)
        if best is None:
            yield fault_of(record, *why)
            continue
        name = f"{kind_of(record)} to demonstration" + (f", {bound}" if bound else "")
        source = _derived(record.provenance, name, **details)
        yield Demonstration(as_context(record.prompt), best, source)


def _to_prompt(records: Sequence[Record], options: Options) -> Iterator[Record | DataError]:
    for group in _by_prompt(records):
        first = group[0]
        assert not isinstance(first, Document)  # refused by `convert`
        name = f"{kind_of(first)} to prompt"
        yield (
            first
            if isinstance(first, Prompt)
            else Prompt(first.prompt, provenance=_derived(first.provenance, name))
        )
        for record in group[1:]:
            yield fault_of(record, "duplicate", "its prompt was taken from an earlier row")


_CONVERSIONS: Mapping[tuple[str, str], Callable[..., Iterator[Record | DataError]]] = {
    ("ranking", "preference"): _ranking_to_preference,
    ("ranking", "demonstration"): _to_demonstration,
    ("rating", "preference"): _rating_to_preference,
    ("rating", "label"): _to_label,
    ("rating", "demonstration"): _to_demonstration,
    ("label", "preference"): _label_to_preference,
    ("label", "demonstration"): _to_demonstration,
    ("preference", "label"): _to_label,
    ("preference", "demonstration"): _to_demonstration,
}
