"""Reads run folders and pipeline folders, whatever state they are in.

A report is wanted most when a run went wrong, so a missing or half-written file is noted in
`problems` and the rest is shown. Only a path that is no run at all is an error.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignloop.errors import RunError
from alignloop.foreign import TooLarge, lines_of, loads, opened, read_bytes
from alignloop.runs import Run
from alignloop.runs.json_values import Json, mapping, text
from alignloop.runs.results import P, read_results


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What one run folder holds.

    Attributes:
        path: the folder.
        name: run.json's name, or the folder's.
        status: as in run.json, but interrupted where the process of a running one is gone.
        info: run.json, {} if unreadable.
        recipe: text of recipe.yaml.
        metrics: rows of metrics.jsonl that are objects, in the order of the file.
        samples: rows of samples.jsonl likewise.
        problems: what could not be read, one sentence each.
    """

    path: Path
    name: str
    status: str
    info: Mapping[str, Json]
    recipe: str
    metrics: tuple[Mapping[str, Json], ...]
    samples: tuple[Mapping[str, Json], ...]
    problems: tuple[str, ...]

    @property
    def stage(self) -> str:
        return text(self.info.get("stage"))

    @property
    def all_results(self) -> Mapping[str, Json]:
        """The results as they stand in run.json, for lists of all of them; see `results` for each."""
        return mapping(self.info.get("results"))

    def recipe_value(self, key: str) -> str:
        """The value of a key of the resolved recipe without its quotes, "" where it stands alone or not."""
        found = re.search(rf"^{key}: *(\S.*?) *$", self.recipe, re.MULTILINE)
        return found[1].strip("'\"") if found else ""

    def results(self, shape: type[P]) -> P:
        """The results in the form of a family of stages; see `runs.results.read_results`."""
        return read_results(self.all_results, shape)


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """The runs of a recipe with several stages, in the recipe's order."""

    name: str
    recipe: str
    runs: tuple[RunFolder, ...]
    problems: tuple[str, ...]


def is_pipeline(path: Path) -> bool:
    return (path / "pipeline.json").is_file()


def read_run(
    path: str | Path, *, name: str = "", rows: Collection[str] = ("metrics", "samples")
) -> RunFolder:
    """Read a run folder.

    Args:
        path: the folder.
        name: what to call the run instead of the name in its run.json.
        rows: which of the two files of rows to read; the other one is () in the result.

    Returns:
        The folder's content, with a list of what was missing or broken.

    Raises:
        RunError: the path is not a folder, or holds neither run.json nor metrics.jsonl.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not any((folder / file).is_file() for file in ("run.json", "metrics.jsonl")):
        raise RunError(f"{folder}: not a run folder: it has neither run.json nor metrics.jsonl")
    problems: list[str] = []
    info = _read_object(folder / "run.json", problems)
    return RunFolder(
        path=folder,
        name=name or text(info.get("name")) or folder.resolve().name,
        status=_status(folder, info),
        info=info,
        recipe=_read_text(folder / "recipe.yaml", problems),
        metrics=_read_lines(folder / "metrics.jsonl", problems) if "metrics" in rows else (),
        samples=_read_lines(folder / "samples.jsonl", problems) if "samples" in rows else (),
        problems=tuple(problems),
    )


def read_pipeline(path: str | Path) -> PipelineFolder:
    """Read a folder with a pipeline.json: {schema, recipe, stages: [{name, stage, path}]}.

    Stages that have not been started, or whose folder is gone, are listed in `problems`.

    Raises:
        RunError: there is no readable pipeline.json, or none of its stages can be read.
    """
    folder = Path(path)
    problems: list[str] = []
    info = _read_object(folder / "pipeline.json", problems)
    if problems:
        raise RunError(f"{folder}: {problems[0]}")
    runs: list[RunFolder] = []
    stages = info.get("stages")
    for stage in stages if isinstance(stages, list) else []:
        name, location = text(mapping(stage).get("name")), text(mapping(stage).get("path"))
        if Path(location).is_absolute() or ".." in Path(location).parts:
            problems.append(f"stage '{name}' is not in this folder ({location}); it was not read")
            continue
        try:
            runs.append(read_run(folder / location, name=name))
        except RunError:
            problems.append(f"stage '{name}' has no run folder yet ({location})")
    if not runs:
        raise RunError(f"{folder}: pipeline.json names no stage that was run")
    recipe = info.get("recipe")
    return PipelineFolder(
        name=folder.resolve().name,
        recipe=recipe if isinstance(recipe, str) else json.dumps(recipe, ensure_ascii=False, indent=2),
        runs=tuple(runs),
        problems=tuple(problems),
    )


def _status(folder: Path, info: Mapping[str, Json]) -> str:
    try:
        return Run.open(folder).status
    except RunError:  # a damaged run.json is reported on all the same
        return text(info.get("status")) or "unknown"


def _own(file: Path) -> Path:
    """The file, if it is the folder's own: a report is handed on, and a link could show anything."""
    if not file.resolve().is_relative_to(file.parent.resolve()):
        raise OSError(errno.ELOOP, "it is a link that leads out of the folder")
    return file


@contextmanager
def _noted(file: Path, problems: list[str]) -> Iterator[None]:
    """Reading of a file of the folder; what goes wrong is a problem of the report and no error."""
    try:
        yield
    except FileNotFoundError:
        problems.append(f"{file.name} is missing")
    except OSError as error:
        problems.append(f"{file.name} could not be read: {error.strerror}")
    except TooLarge as error:
        problems.append(f"{file.name} could not be read: it is {error}")


def _read_text(file: Path, problems: list[str]) -> str:
    content = b""
    with _noted(file, problems):
        content = read_bytes(_own(file))
    return text(content.decode("utf-8", "replace"))


def _read_object(file: Path, problems: list[str]) -> Mapping[str, Json]:
    source = _read_text(file, problems)
    if not source:
        return {}
    try:
        value = loads(source)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        problems.append(f"{file.name} is not a JSON object")
    return mapping(value)


def _read_lines(file: Path, problems: list[str]) -> tuple[Mapping[str, Json], ...]:
    """Rows of a JSONL file; a run that never writes the file (samples, say) is no problem."""
    if not file.exists():
        return ()
    rows: list[Mapping[str, Json]] = []
    broken = 0
    with _noted(file, problems), opened(_own(file)) as lines:
        for line in lines_of(lines):
            if line is not None and not line.strip():
                continue
            try:
                row = None if line is None else loads(line.decode("utf-8", "replace"))
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                broken += 1
    if broken:
        problems.append(f"{file.name}: {broken} {'line' if broken == 1 else 'lines'} could not be read")
    return tuple(rows)
