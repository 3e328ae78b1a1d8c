"""Rows of published forms with values of other types: dropped with a sentence, never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from alignloop.data.check import check_choices
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from tests.field.forms import ASKING, PAIRS, QUESTIONS, SCORED, SHOWING

ODD: list[Any] = [None, True, -3, "", "[", [1], [["x"]], {"a": {}}]
EVERY = {"pairs": PAIRS, "scored": SCORED, "showing": SHOWING, "asking": ASKING, "questions": QUESTIONS}
CASES = [(g, n) for g, cases in EVERY.items() for n, case in cases.items() if isinstance(case.rows, list)]


def spoilt(row: Any) -> Iterator[Any]:
    """The row with each value, at any depth, replaced by each odd one, and without it."""
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, path: tuple[Any, ...]) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            places.append((*path, key))
            walk(item, (*path, key))

    walk(row, ())
    for *path, last in places:
        for odd in ODD:
            made = copy.deepcopy(row)
            inner = made
            for key in path:
                inner = inner[key]
            inner[last] = odd
            yield made
        made = copy.deepcopy(row)
        inner = made
        for key in path:
            inner = inner[key]
        del inner[last]
        yield made


@pytest.mark.parametrize(("group", "name"), CASES)
def test_no_odd_value_crashes_the_reader(group: str, name: str, tmp_path: Path) -> None:
    case = EVERY[group][name]
    file = tmp_path / "rows.jsonl"
    rows = [case.rows[0], *spoilt(case.rows[0])]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    spec = {"path": str(file), "score_range": [-1e8, 1e8]}
    for kind in dict.fromkeys((None, case.kind, "demonstration", "prompt")):
        with suppress(DataError):
            data = read_records(spec, kind)
            assert len(data.records) + len(data.dropped) > 0
    with suppress(DataError):
        check_choices(spec)
