"""Rows out of files, run folders and hub data sets, with the place each came from.

A data set is named by a string, a mapping or a list of both:

    pairs.jsonl            .jsonl (.ndjson), .json, .csv, .tsv (each also .gz and .zst) or .parquet
    pairs.jsonl#500        its first 500 rows
    data/*.jsonl           every file that the pattern fits, by name; ** stands for any folders
    runs/sample            a run folder: its data/*.jsonl, else its samples.jsonl
    folder                 every data file of one split in it, by name
    owner/name             a hub data set, split `train`; owner/name:test for another split
    {path: a.jsonl, weight: 2, rows: 500}
    {path: owner/name, name: CONFIG, data_dir: FOLDER, revision: COMMIT, split: test}
    [{path: a.jsonl, weight: 2}, b.jsonl]

A weight is how often each row of that source is used in one pass: 2 is twice, 0.5 every second row.
A folder or pattern with files of several splits gives the split `train`, or the one that `split` names,
never two of them. What files may hold: see `source_files`.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TypeVar

from alignloop.data.source_files import ACCEPTED, SUFFIXES, OnFault, SourceRow, read_file
from alignloop.errors import DataError

_KEYS = ("path", "weight", "rows", "split", "name", "data_dir", "revision", "score_range")
_TEXTS = {"split": "a split", "name": "a configuration", "data_dir": "a folder", "revision": "a revision"}
_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<split>[\w.-]+))?")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words of file and folder names that tell a split."""

Named = str | os.PathLike[str]
Spec = Named | Mapping[str, object] | Sequence["Named | Mapping[str, object]"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """One file or hub data set of a specification.

    Attributes:
        path: file path or hub id.
        rows: use only so many rows from the start, None for all.
        weight: how often each row is used in one pass.
        split: the split of a hub data set, None for a file.
        name: the configuration of a hub data set, empty for its only one.
        data_dir: the folder of a hub data set, empty for all of it.
        revision: branch, tag or commit of a hub data set, empty for the newest.
        score_range: lowest and highest score of its ratings, None where nothing is said.
        left_out: files beside it that belong to other splits.
    """

    path: str
    rows: int | None = None
    weight: float = 1.0
    split: str | None = None
    name: str = ""
    data_dir: str = ""
    revision: str = ""
    score_range: tuple[float, float] | None = None
    left_out: tuple[str, ...] = ()


def read_rows(spec: Spec, *, on_fault: OnFault | None = None) -> Iterator[SourceRow]:
    """All rows of a data set, in order, repeated by weight.

    Args:
        spec: what to read, see the module's text.
        on_fault: called for each odd row, which is then skipped; by default the first one raises.

    Yields:
        Rows with their places.

    Raises:
        DataError: nothing there, a damaged file, or an odd row without `on_fault`.
    """
    for source in expand(spec):
        yield from repeat(read_source(source, on_fault=on_fault), source.weight)


def repeat(items: Iterable[T], weight: float) -> Iterator[T]:
    """Each item floor((i + 1)·weight) − floor(i·weight) times: evenly spread, without randomness."""
    exact = Fraction(weight).limit_denominator(1_000_000)
    done = 0
    for number, item in enumerate(items, 1):
        due = int(number * exact)
        for _ in range(due - done):
            yield item
        done = due


def expand(spec: Spec) -> list[Source]:
    """The files and hub data sets a specification means, folders resolved.

    Raises:
        DataError: a missing file, an unknown format or key, a weight that is not positive.
    """
    if isinstance(spec, str | os.PathLike):
        return _expand_name(os.fspath(spec))
    if isinstance(spec, Mapping):
        return _expand_mapping(spec)
    if not isinstance(spec, Sequence) or not spec:
        raise DataError(
            "a data set is a path, a hub id, a mapping with 'path', or a list of these", value=spec
        )
    return [source for item in spec for source in expand(item)]


def split_rows(name: str) -> tuple[str, str]:
    """`rows.jsonl#500` → (`rows.jsonl`, `#500`); a file whose name ends so is taken literally."""
    match = re.fullmatch(r"(.+)(#\d+)", name, re.DOTALL)
    return (match[1], match[2]) if match and not exists(Path(name)) else (name, "")


def exists(path: Path) -> bool:
    """Whether something is there; a text that can be no path names nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path may be, or with a NUL
        return False


def files_fitting(pattern: str) -> list[Path]:
    """The files that a pattern such as `data/*.jsonl` fits, by name; none for a plain name."""
    if not any(sign in pattern for sign in "*?["):
        return []
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())


def is_source(item: object) -> bool:
    """Whether an item of a list names a source (a path, or a mapping with `path`), and is no row itself."""
    if isinstance(item, Mapping):
        return "path" in item and set(item) <= set(_KEYS)
    return isinstance(item, str | os.PathLike)


def _expand_mapping(spec: Mapping[str, object]) -> list[Source]:
    for key in spec:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; accepted are {', '.join(_KEYS)}"
            raise DataError(f"unknown key '{key}' in a data source{hint}")
    path, weight, rows = (spec.get(key) for key in _KEYS[:3])
    if not isinstance(path, str | os.PathLike):
        raise DataError("a data source needs 'path'", value=dict(spec))
    path = os.fspath(path)
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise DataError("expected a number above 0", file=str(path), field="weight", value=weight)
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise DataError("expected a whole number from 1 up", file=str(path), field="rows", value=rows)
    told = {key: spec[key] for key in _TEXTS if spec.get(key) is not None}
    for key, value in told.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"expected the name of {_TEXTS[key]}", file=str(path), field=key, value=value)
    found = _expand_name(str(path), str(told.get("split", "")), str(told.get("data_dir", "")))
    told.pop("split", None)
    if told and any(source.split is None for source in found):
        told.pop("data_dir", None)
        if told:
            key = next(iter(told))
            message = f"only hub data sets have {_TEXTS[key]} to choose"
            raise DataError(message, file=str(path), field=key, value=told[key])
    scale = None if spec.get("score_range") is None else score_range(spec["score_range"], str(path))
    more = {"weight": float(weight), "score_range": scale} | ({} if rows is None else {"rows": rows})
    return [replace(source, **told, **more) for source in found]  # pyright: ignore[reportArgumentType]


def score_range(value: object, file: str = "") -> tuple[float, float]:
    """Lowest and highest score out of `[1, 10]`.

    Raises:
        DataError: no two finite numbers, the lower one first.
    """
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    numbers = [v for v in items if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(items) != 2 or len(numbers) != 2 or not -1e9 < numbers[0] < numbers[1] < 1e9:
        raise DataError(
            "expected the lowest and the highest score, such as [1, 10]",
            file=file,
            field="score_range",
            value=value,
        )
    return float(numbers[0]), float(numbers[1])


def _expand_name(name: str, split: str = "", data_dir: str = "") -> list[Source]:
    name, limit = split_rows(name)
    rows = int(limit[1:]) if limit else None
    if rows == 0:
        raise DataError("'#0' asks for no rows", file=name)
    path = Path(name).expanduser()
    if path.is_dir():
        files, left_out = _folder(path / data_dir if data_dir else path, split)
        return [Source(str(file), rows, left_out=left_out) for file in files]
    if path.exists():
        if split:
            raise DataError(
                "a file has no splits; a folder and a hub data set have",
                file=name,
                field="split",
                value=split,
            )
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"unknown data format; {ACCEPTED}", file=name)
        return [Source(str(path), rows)]
    if any(sign in name for sign in "*?["):
        files, left_out = _fitting_data(str(path), split)
        return [Source(str(file), rows, left_out=left_out) for file in files]
    hub = _HUB_ID.fullmatch(name)
    if hub and not _looks_local(hub["name"]):
        return [Source(hub["name"], rows, split=split or hub["split"] or "train")]
    close = difflib.get_close_matches(path.name, _names(path.parent), n=1, cutoff=0.8)
    raise DataError("no such file" + (f"; did you mean '{close[0]}'?" if close else ""), file=name)


def _looks_local(name: str) -> bool:
    """Whether owner/name is rather a path: it ends like a data file, or `owner` is a folder here."""
    owner = name.split("/")[0]
    return name.lower().endswith(SUFFIXES) or owner in ("runs", "data") or Path(owner).is_dir()


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _fitting_data(pattern: str, split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Data files that a pattern such as `data/*.jsonl` fits, and those of other splits."""
    there = files_fitting(pattern)
    found = [path for path in there if path.name.lower().endswith(SUFFIXES)]
    if not found:
        what = f"the pattern fits no data file; {ACCEPTED}" if there else "the pattern fits no file"
        raise DataError(what, file=pattern)
    return _of_one_split(found, split, pattern)


def _folder(path: Path, split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Data files of one split in a folder (or in its `data`), and those of other splits."""
    if (path / "run.json").exists():
        found = sorted((path / "data").glob("*.jsonl")) or [f for f in [path / "samples.jsonl"] if f.exists()]
        if not found:
            raise DataError("this run has neither data/*.jsonl nor samples.jsonl (yet)", file=str(path))
        return found, ()
    if not path.is_dir():
        raise DataError("no such folder", file=str(path))
    inner = [path, path / "data", *(entry for entry in sorted(path.iterdir()) if entry.name in _SPLITS)]
    of_folder = {f: _data_files(f) for f in inner if f.is_dir()}
    found = of_folder[path] or of_folder.get(path / "data") or [f for v in of_folder.values() for f in v]
    if not found:
        more = [entry.name for entry in sorted(path.iterdir()) if entry.is_dir() and _data_files(entry)]
        hint = f"; its folders {', '.join(more[:8])} hold some: name one" if more else f"; {ACCEPTED}"
        raise DataError(f"no data file in this folder{hint}", file=str(path))
    return _of_one_split(found, split, str(path))


def _data_files(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_file() and f.name.lower().endswith(SUFFIXES))


def _of_one_split(files: list[Path], split: str, name: str) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a split, and those of others.

    Without a word of a split in its name a file belongs to `train`, as do all where no other is.

    Raises:
        DataError: no file of that split, or several splits without `train` and none is named.
    """
    splits = {file: _split_of(file) for file in files}
    there = set(splits.values())
    asked = _SPLITS.get(split, split)
    wanted = asked or ("train" if "train" in there else there.pop() if len(there) == 1 else "")
    chosen = [file for file in files if splits[file] == wanted]
    if not chosen:
        names = ", ".join(sorted(set(splits.values())))
        message = f"has the splits {names}; name one with split" if not split else f"expected one of {names}"
        raise DataError(message, file=name, field="split", value=split or None)
    return chosen, tuple(str(file) for file in files if file not in chosen)


def _split_of(file: Path) -> str:
    words = re.split(r"[-_.]+", file.name.lower())
    return next((_SPLITS[word] for word in (*words, file.parent.name.lower()) if word in _SPLITS), "train")


def read_source(source: Source, *, on_fault: OnFault | None = None) -> Iterator[SourceRow]:
    """The rows of one source in order, its weight not applied.

    Raises:
        DataError: a damaged file, or an odd row without `on_fault`.
    """
    report = on_fault or _raise
    rows = _hub(source) if source.split is not None else read_file(Path(source.path), report)
    return rows if source.rows is None else islice(rows, min(source.rows, sys.maxsize))


def _raise(fault: DataError) -> None:
    raise fault


def _hub(source: Source) -> Iterator[SourceRow]:
    """A hub data set; the only place here that may use the network, and only for owner/name."""
    try:
        import httpx
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            "no such path; as a hub data set it needs the extra `data`: pip install 'alignloop[data]'",
            file=source.path,
        ) from error
    offline = ", HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
    try:
        more = {key: value for key in ("name", "data_dir", "revision") if (value := getattr(source, key))}
        rows = load_dataset(source.path, split=source.split, streaming=source.rows is not None, **more)
        for number, values in enumerate(rows, 1):
            yield SourceRow(dict(values), source.path, number)
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
    ) as error:  # what `datasets` raises for absent or offline
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"no such path, and as a hub data set it cannot be read ({reason}{offline})", file=source.path
        ) from error
