"""Where a run comes from, back to rows of data, and which runs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alignloop.errors import RunError
from alignloop.runs.folder import Run
from alignloop.runs.hashing import RUN_FILE


def lineage(run: Run | str | Path) -> dict[str, Any]:
    """A run with its ancestors, nested.

    Args:
        run: the run or its folder.

    Returns:
        {path, stage, name, status, fingerprint, config_sha256, seed, code, inputs: {key: {path, sha256,
        rows}}, parents: [the same of each]}. A parent whose folder is gone is {path, stage, fingerprint,
        missing: true}; one that was made anew since has `changed: true`.

    Raises:
        RunError: no run at that path.
    """
    return _lineage(run if isinstance(run, Run) else Run.open(run), frozenset())


def _lineage(run: Run, below: frozenset[Path]) -> dict[str, Any]:
    record = run.record
    keys = ("stage", "name", "status", "fingerprint", "config_sha256", "seed", "code", "inputs")
    here = run.path.resolve()
    parents = []
    for link in record.get("parents", []):
        path = find_run(str(link["path"]), run.path)
        if path is None or path.resolve() in below | {here}:  # a run.json edited by hand may name a child
            parents.append({**link, "missing": True})
            continue
        parent = _lineage(Run.open(path), below | {here})
        changed = {} if parent["fingerprint"] == link["fingerprint"] else {"changed": True}
        parents.append({**parent, **changed})
    return {"path": str(run.path), **{key: record.get(key) for key in keys}, "parents": parents}


def find_run(path: str, child: Path) -> Path | None:
    """The run folder that a run.json names: as given, or beside the child if the folders were moved."""
    candidates = (Path(path), child / path, child.parent / Path(path).name)
    return next((p for p in candidates if (p / RUN_FILE).is_file()), None)


def find_runs(
    root: str | Path, *, depth: int = 3, on_fault: Callable[[RunError], object] | None = None
) -> Iterator[Run]:
    """All readable runs in a folder, those of pipelines included, in the order of their paths.

    Args:
        root: where to look.
        depth: folders below `root`.
        on_fault: gets what is wrong with a run.json that cannot be read, which is passed over.

    Yields:
        Each run, for reading.

    Raises:
        RunError: no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    for level in range(depth + 1):
        for file in sorted(folder.glob("*/" * level + RUN_FILE)):
            try:
                yield Run.open(file.parent)
            except RunError as error:
                if on_fault is not None:
                    on_fault(error)
