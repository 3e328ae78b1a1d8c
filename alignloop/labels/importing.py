"""Items to judge from any data set and any sample run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from alignloop.data import builders, forms, values
from alignloop.data.columns import read_records
from alignloop.data.sources import SourceRow, read_rows
from alignloop.errors import DataError, UserError
from alignloop.labels.assign import mix
from alignloop.labels.project import ItemAnswer, NewItem, Project
from alignloop.labels.store import Store
from alignloop.labels.tasks import ANSWER_COUNTS
from alignloop.records import (
    Conversation,
    Demonstration,
    Label,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    Record,
)

ANSWERS = "answers"
"""Column with a list of answers, each a text or {text, model}; those of rankings are read as well."""
SAMPLE_FILES = ("data/rows.jsonl", "samples.jsonl")
"""Where run folders keep sampled answers."""
_JUDGED = ("ranking", "label", "scores", "chosen", "rejected", "response_a", "response_b")
Pairs = Literal["one", "all"]
Say = Callable[[str], object]
MAX_REFUSED = 10
"""Refused items that are named one by one."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Items, and how many rows or answers were left out for which reason."""

    items: list[NewItem]
    left_out: dict[str, int]


def add(
    store: Store,
    project: Project,
    data: str | Path,
    *,
    pairs: Pairs,
    gold: bool = False,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    actor: str = "command line",
    say: Say,
) -> None:
    """Import data into a project and say what became of it.

    Args:
        store: an open store.
        project: where the items go.
        data: data file, hub id, or folder of a sample run.
        pairs: see `read_items`.
        gold: see `read_items`.
        columns: see `read_items`.
        name: how the items name their file, where it is read from a copy.
        actor: who imports, for the audit log.
        say: takes a line.

    Raises:
        UserError: nothing there that the project can use.
    """
    read = read_items(data, task=project.task, pairs=pairs, gold=gold, columns=columns)
    items = read.items
    if name is not None:
        items = [replace(item, provenance=replace(item.provenance, file=name)) for item in items]
    done = store.add_items(project, items, actor=actor)
    say(f"{project.name}: {done.added} items added, {done.duplicates} were there already")
    for reason, count in read.left_out.items():
        say(f"  left out: {count} {reason}")
    for number, reason in done.refused[:MAX_REFUSED]:
        say(f"  refused: item {number + 1}: {reason}")
    if len(done.refused) > MAX_REFUSED:
        say(f"  refused: {len(done.refused) - MAX_REFUSED} more")
    if not done.added and not done.duplicates:
        raise UserError(f"{name or data} holds nothing that a {project.task} project can use")


def holds_samples(folder: Path) -> bool:
    """Whether a folder is a run with sampled answers."""
    return any((folder / name).exists() for name in SAMPLE_FILES)


def read_items(
    path: str | Path,
    *,
    task: str,
    pairs: Pairs = "one",
    gold: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Imported:
    """Items from a data file, a hub id, or the folder of a sample run.

    Rows may be a prompt in any form with `answers` (or `responses`) that nobody has judged, or any form
    that `read_records` reads; single completions are gathered by prompt.

    Args:
        path: what to read.
        task: the project's task, which decides how many answers an item has.
        pairs: of a prompt with more than two answers in a pair project: `one` seeded pair, or `all`.
        gold: take what the data says about its answers as the expected judgement of hidden checks.
        columns: {field: column} where names differ from those in `alignloop.data.forms`.

    Returns:
        The items and what was left out.

    Raises:
        DataError: nothing usable there.
    """
    source = Path(path)
    if source.is_dir():
        there = [source / name for name in SAMPLE_FILES if (source / name).exists()]
        if not there:
            raise UserError(f"{path} is a folder without {SAMPLE_FILES[0]}; give a sample run or a data file")
        source = there[0]
    mapping = forms.check_columns(columns)
    first = next(read_rows(str(source)), None)
    if first is None:
        raise DataError("there is no row", file=str(source))
    if _has_answers(first.values, mapping):
        made, reasons = fit(_from_rows(read_rows(str(source)), mapping), task=task, pairs=pairs), {}
    else:
        data = read_records(str(source), columns=columns)
        shown = [r for r in data.records if not (isinstance(r, Demonstration) and r.tool_calls)]
        calls = len(data.records) - len(shown)
        reasons = data.reasons | ({"answer that calls a tool": calls} if calls else {})
        made = fit(from_records(shown, task, gold), task=task, pairs=pairs)
    if not gold:
        return Imported(made.items, reasons | made.left_out)
    checks = [item for item in made.items if item.gold is not None]
    missing = {"without a judgement that this task could check": len(made.items) - len(checks)}
    return Imported(checks, reasons | made.left_out | {k: n for k, n in missing.items() if n})


def fit(found: Iterable[NewItem], *, task: str, pairs: Pairs = "one") -> Imported:
    """Give every item as many answers as the task can take; equal answers are shown once."""
    low, high = ANSWER_COUNTS[task]
    items: list[NewItem] = []
    left_out: Counter[str] = Counter()
    for number, item in enumerate(found):
        texts = list(dict.fromkeys(answer.text for answer in item.answers))
        if len(texts) < len(item.answers):
            left_out["equal answer"] += len(item.answers) - len(texts)
            item = _without_repeats(item, texts, task)
        if len(item.answers) < low:
            left_out[f"fewer than {low} different answers"] += 1
        elif len(item.answers) <= high:
            items.append(item)
        elif task == "pair":
            chosen = list(combinations(range(len(item.answers)), 2))
            if pairs == "one":
                chosen = [chosen[int(mix(number)[0] % len(chosen))]]
            items += [_part(item, places, task) for places in chosen]
        else:
            places = range(len(item.answers))
            parts = [places[start : start + high] for start in range(0, len(places), high)]
            whole_parts = [part for part in parts if len(part) >= low]
            left_out["too few left over"] += len(parts) - len(whole_parts)
            items += [_part(item, part, task) for part in whole_parts]
    return Imported(items, {reason: count for reason, count in left_out.items() if count})


def _without_repeats(item: NewItem, texts: Sequence[str], task: str) -> NewItem:
    """The item with each text once; what was said differently of equal answers is no check."""
    places = {text: [k for k, a in enumerate(item.answers) if a.text == text] for text in texts}
    first, last = (_part(item, [found[end] for found in places.values()], task) for end in (0, -1))
    return first if first.gold == last.gold else replace(first, gold=None)


def _part(item: NewItem, places: Sequence[int], task: str) -> NewItem:
    """The item with some of its answers, and what its expected judgement says about them."""
    gold: Mapping[str, Any] | None = item.gold
    if gold is not None and "ranks" in gold:
        gold = _ranked([gold["ranks"][place] for place in places], task)
    elif gold is not None and "thumbs" in gold:
        gold = {"thumbs": [gold["thumbs"][place] for place in places]}
    elif gold is not None and "scores" in gold:
        gold = {"scores": {name: [v[place] for place in places] for name, v in gold["scores"].items()}}
    elif len(places) < len(item.answers):
        gold = None
    return replace(item, answers=tuple(item.answers[place] for place in places), gold=gold)


def _ranked(ranks: Sequence[int], task: str) -> dict[str, Any] | None:
    """Ranks as an expected judgement; None where the task cannot say so."""
    if task == "pair" and len(ranks) == 2:
        sign = (ranks[0] < ranks[1]) - (ranks[0] > ranks[1])
        return {"preference": sign, "both_bad": False}
    dense = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return {"ranks": [dense[rank] for rank in ranks]} if task in ("pair", "ranking") else None


def _has_answers(row: Mapping[str, object], columns: Mapping[str, str]) -> bool:
    """Whether a row holds several answers that nobody has judged yet."""
    fields = forms.fields_of(row, columns)
    listed = ANSWERS in row or fields.has("responses")
    return listed and forms.has_prompt(fields) and not any(fields.has(name) for name in _JUDGED)


def _from_rows(rows: Iterable[SourceRow], columns: Mapping[str, str]) -> Iterator[NewItem]:
    gathered: dict[Conversation, tuple[list[ItemAnswer], Provenance]] = {}
    for row in rows:
        try:
            fields = forms.fields_of(row.values, columns)
            prompt = builders.build("prompt", fields, row.file, row.line, "unknown")
        except DataError as error:
            raise DataError(
                error.message, file=row.file, line=row.line, field=error.field, value=error.value
            ) from error
        assert isinstance(prompt, Prompt)
        listed = row.values[ANSWERS] if ANSWERS in row.values else fields.values.get("responses")
        if isinstance(listed, str) and listed.lstrip()[:1] == "[":  # a list in a CSV file
            listed = values.listed(listed, ANSWERS)
        entries = listed if isinstance(listed, list) else [listed]
        details = prompt.provenance.details
        source = Provenance(row.file, row.line, prompt.provenance.origin, details)
        answers, _ = gathered.setdefault(prompt.prompt, ([], source))
        model = str(row.values.get("model") or details.get("model", ""))
        answers += [_answer(entry, model, row) for entry in entries]
    for prompt, (answers, source) in gathered.items():
        yield NewItem(prompt, tuple(answers), provenance=source)


def _answer(entry: object, model: str, row: SourceRow) -> ItemAnswer:
    if isinstance(entry, str):
        return ItemAnswer(entry, model)
    text = entry.get("text", entry.get("content")) if isinstance(entry, dict) else None
    if isinstance(entry, dict) and isinstance(text, str):
        rest = {k: v for k, v in entry.items() if k not in ("text", "content", "role", "model")}
        details = {k: v for k, v in rest.items() if isinstance(v, str | int | float)}
        return ItemAnswer(text, str(entry.get("model", model)), details)
    raise DataError(
        "expected a text or {text, model}", file=row.file, line=row.line, field="answers", value=entry
    )


def from_records(records: Iterable[Record], task: str, gold: bool) -> Iterator[NewItem]:
    """Items of records; with `gold` what a record says of its answers is the expected judgement."""
    singles: dict[Conversation, list[Demonstration | Label | Rating]] = {}
    sources: dict[Conversation, Provenance] = {}
    for record in records:
        source, known = record.provenance, None
        model = str(source.details.get("model", ""))
        match record:
            case Preference():
                if record.probability != 0.5:
                    known = _ranked((1, 2) if record.probability > 0.5 else (2, 1), task)
                answers = (ItemAnswer(record.chosen, model), ItemAnswer(record.rejected, model))
                yield NewItem(record.prompt, answers, gold=known if gold else None, provenance=source)
            case Ranking():
                known = _ranked(record.ranks, task)
                answers = tuple(ItemAnswer(text, model) for text in record.completions)
                yield NewItem(record.prompt, answers, gold=known if gold else None, provenance=source)
            case Prompt():
                singles.setdefault(record.prompt, [])
                sources.setdefault(record.prompt, source)
            case Demonstration() | Label() | Rating():
                singles.setdefault(record.prompt, []).append(record)
                sources.setdefault(record.prompt, source)
            case _:
                raise UserError("documents have no prompt and cannot be judged")
    for prompt, found in singles.items():
        answers = tuple(
            ItemAnswer(
                r.text if isinstance(r, Demonstration) else r.completion,
                str(r.provenance.details.get("model", "")),
            )
            for r in found
        )
        known = _expected(found, task) if gold else None
        yield NewItem(prompt, answers, gold=known, provenance=sources[prompt])


def _expected(found: Sequence[Demonstration | Label | Rating], task: str) -> dict[str, Any] | None:
    """Labels as thumbs, or ratings in whole numbers as scores."""
    labels = [record.desirable for record in found if isinstance(record, Label)]
    if task == "thumbs" and labels and len(labels) == len(found):
        return {"thumbs": labels}
    ratings = [record.scores for record in found if isinstance(record, Rating)]
    if task != "scores" or not ratings or len(ratings) < len(found):
        return None
    given = [score for scores in ratings for score in scores.values()]
    if any(set(scores) != set(ratings[0]) for scores in ratings) or any(s != int(s) for s in given):
        return None
    return {"scores": {name: [int(scores[name]) for scores in ratings] for name in ratings[0]}}
