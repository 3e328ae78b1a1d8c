"""What lies at a path into nested objects and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignloop.foreign import loads


def at(row: Any, path: str) -> Any:
    """What lies at a path into nested objects and lists, such as `reward_model.ground_truth` or `a[0].b`.

    A column whose own name has dots is found first. None where there is nothing.
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    found = row
    for name, index in re.findall(r"([^.\[\]]+)|\[(-?\d+)\]", path):
        if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
            try:
                found = loads(found)
            except ValueError:
                return None
        if name and isinstance(found, Mapping):
            found = found.get(name)
        elif index and isinstance(found, Sequence) and -len(found) <= int(index) < len(found):
            found = found[int(index)]
        else:
            return None
    return found


class Watched(dict[str, Any]):
    """An object that notes which of its values, and of those within it, are looked at.

    `seen` holds the paths of plain values, and of objects of which all values are looked at; `taken` finds
    what was passed on whole. Every element of a list has the path of the list with `[]`, and a list
    within elements of a list of the same name has the outer one's path, as replies to replies have.
    """

    def __init__(self, value: Mapping[str, Any], path: str, seen: set[str]) -> None:
        super().__init__(value)
        self.path = path
        self.seen = seen

    def __getitem__(self, key: str) -> Any:
        return _watched(super().__getitem__(key), _below(self.path, key), self.seen)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - get is this method

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # without a method of its own, dict(watched) would take the bare values

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]


class WatchedList(list[Any]):
    """A list whose elements are watched, see `Watched`."""

    def __init__(self, value: Sequence[Any], path: str, seen: set[str]) -> None:
        super().__init__(value)
        self.path = path
        self.seen = seen

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        return _watched(super().__getitem__(index), f"{self.path}[]", self.seen)

    def __iter__(self) -> Iterator[Any]:
        return (_watched(item, f"{self.path}[]", self.seen) for item in super().__iter__())


def _below(path: str, key: str) -> str:
    if f".{path}".endswith(f".{key}[]"):
        return path[:-2]
    return f"{path}.{key}" if path else key


def _watched(value: Any, path: str, seen: set[str]) -> Any:
    if isinstance(value, Mapping):
        return Watched(value, path, seen)
    if isinstance(value, list):
        return WatchedList(value, path, seen)
    seen.add(path)
    return value


def taken(value: Any) -> Iterator[str]:
    """The paths of watched objects and lists that a value holds whole."""
    if isinstance(value, Watched | WatchedList):
        yield value.path
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from taken(item)


def unseen(value: Any, path: str, seen: set[str]) -> tuple[list[str], bool]:
    """Paths within a value at which something was not looked at, and whether anything was.

    An object of which nothing was looked at is named itself, not its values.
    """
    if path in seen:
        return [], True
    if isinstance(value, Mapping):
        parts = [unseen(item, _below(path, str(key)), seen) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [unseen(item, f"{path}[]", seen) for item in value]
    else:
        return ([] if value in (None, "") else [path]), False
    found = list(dict.fromkeys(name for names, _ in parts for name in names))
    if any(looked for _, looked in parts):
        return found, True
    return ([path] if found else []), False
