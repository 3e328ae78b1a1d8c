"""Items to judge from any data set and any sample run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from alignloop.data.columns import read_records
from alignloop.data.sources import Row, read_rows
from alignloop.errors import DataError, UserError
from alignloop.feedback.assign import mix
from alignloop.feedback.project import Answer, NewItem
from alignloop.feedback.tasks import ANSWER_COUNTS
from alignloop.records import (
    Conversation,
    Demonstration,
    Label,
    Message,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    Record,
)

ANSWER_KEYS = ("answers", "responses", "completions", "completion")
SAMPLE_FILES = ("data/rows.jsonl", "samples.jsonl")
"""Where run folders keep sampled answers."""
Pairs = Literal["one", "all"]


@dataclass(frozen=True, slots=True)
class Imported:
    """Items, and how many rows or answers were left out for which reason."""

    items: list[NewItem]
    left_out: dict[str, int]


def read_items(path: str | Path, *, task: str, pairs: Pairs = "one", gold: bool = False) -> Imported:
    """Items from a data file, a hub id, or the folder of a sample run.

    Rows may be `{"prompt", "answers": [text or {"text", "model"}]}`, samples
    `{"prompt", "completion", "model"}` (gathered by prompt), or any form that `read_records` reads.

    Args:
        path: what to read.
        task: the project's task, which decides how many answers an item has.
        pairs: of a prompt with more than two answers in a pair project: `one` seeded pair, or `all`.
        gold: take the preferences in the data as the expected judgement of hidden checks.

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
    first = next(read_rows(str(source)), None)
    if first is None:
        raise DataError("there is no row", file=str(source))
    if _has_answers(first.values):
        return fit(_from_rows(read_rows(str(source))), task=task, pairs=pairs)
    data = read_records(str(source))
    made = fit(_from_records(data.records, gold=gold), task=task, pairs=pairs)
    return Imported(made.items, data.reasons | made.left_out)


def fit(found: Iterable[NewItem], *, task: str, pairs: Pairs = "one") -> Imported:
    """Give every item as many answers as the task can take; equal answers are shown once."""
    low, high = ANSWER_COUNTS[task]
    items: list[NewItem] = []
    left_out: Counter[str] = Counter()
    for number, item in enumerate(found):
        texts = list(dict.fromkeys(answer.text for answer in item.answers))
        if len(texts) < len(item.answers):
            left_out["equal answer"] += len(item.answers) - len(texts)
            by_text = {answer.text: answer for answer in reversed(item.answers)}
            item = replace(item, answers=tuple(by_text[text] for text in texts), gold=None)
        if len(item.answers) < low:
            left_out[f"fewer than {low} different answers"] += 1
        elif len(item.answers) <= high:
            items.append(item)
        elif task == "pair":
            chosen = list(combinations(range(len(item.answers)), 2))
            if pairs == "one":
                chosen = [chosen[int(mix(number)[0] % len(chosen))]]
            items += [replace(item, answers=(item.answers[i], item.answers[j])) for i, j in chosen]
        else:
            starts = range(0, len(item.answers), high)
            parts = [item.answers[start : start + high] for start in starts]
            whole_parts = [part for part in parts if len(part) >= low]
            left_out["too few left over"] += len(parts) - len(whole_parts)
            items += [replace(item, answers=part) for part in whole_parts]
    return Imported(items, {reason: count for reason, count in left_out.items() if count})


def _has_answers(values: Mapping[str, object]) -> bool:
    """Whether a row holds answers that nobody has judged yet."""
    judged = {"ranking", "label", "score", "scores", "chosen", "rejected"} & values.keys()
    return "prompt" in values and not judged and any(key in values for key in ANSWER_KEYS)


def _from_rows(rows: Iterable[Row]) -> Iterator[NewItem]:
    gathered: dict[str, tuple[Conversation, list[Answer], Row]] = {}
    for row in rows:
        prompt = _prompt(row)
        listed = next((row.values[key] for key in ANSWER_KEYS if key in row.values), None)
        entries = listed if isinstance(listed, list) else [listed]
        key = json.dumps([[m.role, m.content] for m in prompt], ensure_ascii=False)
        _, answers, _ = gathered.setdefault(key, (prompt, [], row))
        model = str(row.values.get("model") or _details(row).get("model", ""))
        answers += [_answer(entry, model, row) for entry in entries]
    for prompt, answers, row in gathered.values():
        yield NewItem(prompt, tuple(answers), provenance=Provenance(row.file, row.line))


def _details(row: Row) -> Mapping[str, object]:
    provenance = row.values.get("provenance")
    details = provenance.get("details") if isinstance(provenance, dict) else None
    return details if isinstance(details, dict) else {}


def _prompt(row: Row) -> Conversation:
    value = row.values.get("prompt")
    if isinstance(value, str) and value.strip():
        return (Message("user", value),)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        turns = [(turn.get("role"), turn.get("content")) for turn in value]
        if all(isinstance(role, str) and isinstance(content, str) for role, content in turns):
            return tuple(Message(str(role), str(content)) for role, content in turns)
    raise DataError(
        "expected a text or a list of {role, content}",
        file=row.file,
        line=row.line,
        field="prompt",
        value=value,
    )


def _answer(entry: object, model: str, row: Row) -> Answer:
    if isinstance(entry, str):
        return Answer(entry, model)
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        details = {
            k: v for k, v in entry.items() if k not in ("text", "model") and isinstance(v, str | int | float)
        }
        return Answer(entry["text"], str(entry.get("model", model)), details)
    raise DataError(
        "expected a text or {text, model}", file=row.file, line=row.line, field="answers", value=entry
    )


def _from_records(records: Iterable[Record], *, gold: bool) -> Iterator[NewItem]:
    singles: dict[Conversation, tuple[list[str], Provenance]] = {}
    for record in records:
        source = record.provenance
        match record:
            case Preference():
                known = {"preference": 1, "both_bad": False} if gold and record.probability > 0.5 else None
                answers = (Answer(record.chosen), Answer(record.rejected))
                yield NewItem(record.prompt, answers, gold=known, provenance=source)
            case Ranking():
                dense = {rank: k for k, rank in enumerate(sorted(set(record.ranks)), start=1)}
                known = {"ranks": [dense[rank] for rank in record.ranks]} if gold else None
                answers = tuple(Answer(text) for text in record.completions)
                yield NewItem(record.prompt, answers, gold=known, provenance=source)
            case Prompt():
                singles.setdefault(record.prompt, ([], source))
            case Demonstration() | Label() | Rating():
                singles.setdefault(record.prompt, ([], source))[0].append(record.completion)
            case _:
                raise UserError("documents have no prompt and cannot be judged")
    for prompt, (texts, source) in singles.items():
        yield NewItem(prompt, tuple(Answer(text) for text in texts), provenance=source)
