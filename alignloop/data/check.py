"""What a person should know about a data set, or a file of multiple-choice questions, before using it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from alignloop.data import multiple_choice, quality
from alignloop.data.columns import Dataset
from alignloop.data.diversity import Diversity, diversity
from alignloop.data.multiple_choice import LETTERS
from alignloop.data.normal import completion_texts, prompt_text
from alignloop.data.paths import Watched, unseen
from alignloop.data.sources import Spec, read_rows
from alignloop.errors import DataError
from alignloop.records import Demonstration, Label, Preference, Ranking, Record

_TURN_MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<eos>")


@dataclass(frozen=True, slots=True)
class Check:
    """A data set's summary.

    Attributes:
        kind: of its records.
        rows: read from its files.
        usable: rows that became records.
        dropped: faults of the others.
        findings: faults that the quality filters would drop, by filter.
        diversity: instructions and lengths.
        warnings: sentences about the whole.
        turns: of demonstrations that are conversations, how many turns are the assistant's and how many
            of them are trained; turns with thoughts, with tool calls and by tools where there are any.
    """

    kind: str
    rows: int
    usable: int
    dropped: list[DataError]
    findings: dict[str, list[DataError]]
    diversity: Diversity
    warnings: list[str]
    turns: dict[str, int] = field(default_factory=dict)


def check(data: Dataset, *, threshold: float = 0.8) -> Check:
    """Run every quality filter over a data set, without changing it.

    Args:
        data: what was read.
        threshold: similarity of near-duplicates.

    Returns:
        The summary.
    """
    unique, duplicates = quality.exact_duplicates(data.records)
    findings = {
        "exact duplicates": duplicates,
        "near duplicates": quality.near_duplicates(unique, threshold)[1],
        "chosen is rejected": quality.equal_pairs(data.records)[1],
        "contradictions": quality.contradictions(data.records)[1],
    }
    rows = sum(int(file["rows"]) for file in data.files.values())
    return Check(
        kind=data.kind,
        rows=rows,
        usable=rows - len(data.dropped),
        dropped=data.dropped,
        findings=findings,
        diversity=diversity(data.records),
        warnings=[*data.notes, *warnings(data.records)],
        turns=turns_of(data.records),
    )


def turns_of(records: Sequence[Record]) -> dict[str, int]:
    """What kinds of turns demonstrations have; empty if every one is a question and a plain answer."""
    rows = [record for record in records if isinstance(record, Demonstration)]
    every = [message for row in rows for message in (*row.prompt, row.turn)]
    own = [message for message in every if message.role == "assistant"]
    counts = {"assistant": len(own), "trained": sum(len(row.trained) for row in rows)}
    more = {
        "with thoughts": sum(bool(message.thinking) for message in own),
        "with tool calls": sum(bool(message.tool_calls) for message in own),
        "by tools": sum(message.role == "tool" for message in every),
    }
    found = {what: count for what, count in more.items() if count}
    return counts | found if found or counts["assistant"] > len(rows) else {}


def warnings(records: Sequence[Record]) -> list[str]:
    """Traps that no single row shows."""
    found = []
    labels = [r.desirable for r in records if isinstance(r, Label)]
    if labels and len(set(labels)) == 1:
        found.append(f"all {len(labels)} labels are {'good' if labels[0] else 'bad'}: KTO needs both")
    rankings = [r for r in records if isinstance(r, Ranking)]
    if rankings and all(len(set(r.ranks)) == 1 for r in rankings):
        found.append("every ranking is one tie: nothing can be learned from it")
    pairs = [r for r in records if isinstance(r, Preference)]
    if pairs and all(r.probability == 0.5 for r in pairs):
        found.append("every preference is a tie: nothing can be learned from it")
    decided = [r for r in pairs if len(r.chosen) != len(r.rejected) and r.probability > 0.5]
    if len(decided) >= 20:
        longer = sum(len(r.chosen) > len(r.rejected) for r in decided) / len(decided)
        if not 0.3 < longer < 0.7:
            found.append(
                f"chosen is longer than rejected in {longer:.0%} of {len(decided)} pairs: watch length bias"
            )
    marks = dict.fromkeys(_TURN_MARKS, 0)
    broken = 0
    for record in records:
        text = "\n".join((prompt_text(record), *completion_texts(record)))
        for mark in _TURN_MARKS:
            marks[mark] += mark in text
        broken += "\ufffd" in text
    used = ", ".join(f"{mark} ({count})" for mark, count in marks.items() if count)
    if used:
        found.append(f"rows hold a chat template's own marks as text: {used}")
    if broken:
        found.append(f"{broken} rows hold U+FFFD: characters were lost when the file was made")
    return found


_HEAD = 20


@dataclass(slots=True)
class Choices:
    """A summary of multiple-choice questions.

    Attributes:
        kind: of the evaluation set that reads them, `multiple_choice` or `truthfulness`.
        rows: read.
        usable: rows that are questions.
        dropped: faults of the others.
        choices: how many questions have how many choices.
        places: how often the right answer has which letter.
        first: the first question with its choices, on one line.
        unused: columns that nothing was read from.
    """

    kind: str
    rows: int = 0
    usable: int = 0
    dropped: list[DataError] = field(default_factory=list)
    choices: dict[int, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    first: str = ""
    unused: list[str] = field(default_factory=list)


def is_choices(spec: Spec) -> bool:
    """Whether most of the first rows of a data set are multiple-choice questions.

    Raises:
        DataError: nothing there, or a damaged file.
    """
    rows = [row.values for row in islice(read_rows(spec, on_fault=lambda fault: None), _HEAD)]
    asked = [_form(row) for row in rows]
    return bool(rows) and sum(form is not None for form in asked) * 2 > len(rows)


def _form(row: multiple_choice.Row) -> multiple_choice.ChoiceForm | None:
    form = multiple_choice.form_of(row)
    return multiple_choice.TRUTHFUL if form is None and multiple_choice.TRUTHFUL.fits(row) else form


def check_choices(spec: Spec, *, strict: bool = False) -> Choices:
    """Read every question of a data set.

    Args:
        spec: what to read.
        strict: the first unusable row is an error.

    Returns:
        The summary.

    Raises:
        DataError: nothing there, a damaged file, no usable row, or with `strict` the first unusable one.
    """
    found = Choices("multiple_choice")
    places: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    unused: dict[str, None] = {}
    for row in read_rows(spec, on_fault=found.dropped.append):
        found.rows += 1
        form = _form(row.values)
        try:
            choice = form.read(row.values) if form else multiple_choice.choice_of(row.values)
        except DataError as fault:
            found.dropped.append(fault.at(row.file, row.line))
            continue
        found.kind = "truthfulness" if form is multiple_choice.TRUTHFUL else "multiple_choice"
        found.first = found.first or _line(choice)
        found.usable += 1
        sizes[len(choice.choices)] += 1
        places.update(
            LETTERS[k] for k, right in enumerate(choice.right) if right and found.kind != "truthfulness"
        )
        unused |= dict.fromkeys(_unused(row.values, form) if form else ())
    if found.dropped and (strict or not found.usable):
        raise found.dropped[0]
    if not found.usable:
        raise DataError("no usable row: the file has none", file=str(spec), reason="no_usable_row")
    found.choices, found.places, found.unused = dict(sizes), dict(sorted(places.items())), list(unused)
    return found


def _line(choice: multiple_choice.ChoiceQuestion) -> str:
    shown = "; ".join(
        f"{LETTERS[k]} {text}" + (" (right)" if right else "")
        for k, (text, right) in enumerate(zip(choice.choices, choice.right, strict=True))
    )
    text = " ".join(f"{choice.question}  {shown}".split())
    return text if len(text) <= 300 else text[:299] + "…"


def _unused(row: multiple_choice.Row, form: multiple_choice.ChoiceForm) -> list[str]:
    """Columns and keys that hold something and are not read for the question."""
    seen: set[str] = set()
    forms = (form, multiple_choice.SINGLE) if form is multiple_choice.TRUTHFUL else (form,)
    for one in forms:
        with suppress(DataError):
            one.read(Watched(row, "", seen))
    return [path for name, value in row.items() for path in unseen(value, name, seen)[0]]
