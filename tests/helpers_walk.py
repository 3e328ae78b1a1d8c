"""docs/walk.md as data, and the functions of the package that a piece of work runs."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "alignloop"
PAGE = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([\w/]+\.py) \| ([\w.]+) \|", re.MULTILINE)
Function = tuple[str, str]


def walks() -> dict[str, list[Function]]:
    """First word of each title → (file, function) of each row."""
    parts = PAGE.split("\n## ")[1:]
    return {part.split(maxsplit=2)[1]: ROW.findall(part) for part in parts}


@contextmanager
def traced() -> Iterator[dict[Function, list[int]]]:
    """What is called within, in this thread and those that start within: the places of its calls."""
    found: dict[Function, list[int]] = defaultdict(list)
    places = itertools.count()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            file = Path(code.co_filename).relative_to(PACKAGE).as_posix()
            found[file, code.co_qualname].append(next(places))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def check_order(walk: list[Function], found: dict[Function, list[int]]) -> None:
    """There is a call of each row after one of the row before it."""
    assert not (missing := [row for row in walk if row not in found]), missing
    place = -1
    for row in walk:
        calls = found[row]
        later = bisect_right(calls, place)
        assert later < len(calls), f"{row} is not called after the row above it"
        place = calls[later]
