"""Tags on run folders, what depends on a run, and deleting one without harm.

Tags are in tags.json of the folder, so that a run can be tagged while it is being written.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from alignloop.errors import RunError
from alignloop.foreign import loads, read_text
from alignloop.io import write_whole
from alignloop.runs.folder import Run
from alignloop.runs.hashing import RUN_FILE
from alignloop.runs.lineage import find_run, find_runs
from alignloop.runs.ownership import take_lock
from alignloop.runs.record import GIVEN

TAGS_FILE = "tags.json"
PIPELINE_FILE = "pipeline.json"
_TAG = re.compile(r"[\w.:-]{1,64}")
_OURS = frozenset(
    (
        RUN_FILE,
        TAGS_FILE,
        "recipe.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "answers.jsonl",
        "verdicts.jsonl",
        "checkpoints",
        "checkpoints-unused",
        "best",
        "data",
        GIVEN,
        "model",
        "rounds",
        "tensorboard",
        "report.html",
        "report.md",
        "report.json",
        "comparison.html",
        "comparison.md",
        "comparison.json",
    )
)


def tags(path: str | Path) -> list[str]:
    """A run's tags, sorted; a damaged file holds none."""
    try:
        found = loads(read_text(Path(path) / TAGS_FILE))
    except (OSError, ValueError):
        return []
    return sorted(tag for tag in found if isinstance(tag, str)) if isinstance(found, list) else []


def set_tags(path: str | Path, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> list[str]:
    """Add and remove tags.

    Args:
        path: the run folder.
        add: tags to add: letters, digits and . : - _, 64 at most.
        remove: tags to take away; one that is not there is no error.

    Returns:
        The tags now.

    Raises:
        RunError: no run there, or no valid tag.
    """
    Run.open(path)
    wanted = list(add)
    odd = next((tag for tag in wanted if not _TAG.fullmatch(tag)), None)
    if odd is not None:
        raise RunError(f"tag '{odd}': letters, digits and . : - _ are accepted, 64 at most")
    now = sorted({*tags(path), *wanted} - set(remove))
    write_whole(Path(path) / TAGS_FILE, json.dumps(now, ensure_ascii=False) + "\n")
    return now


def children(path: str | Path, roots: Sequence[str | Path]) -> list[Run]:
    """The runs in `roots` that were made from this one.

    Raises:
        RunError: a root that is no folder.
    """
    here = Path(path).resolve()
    found: dict[Path, Run] = {}
    for root in roots:
        for run in find_runs(root, depth=4):
            for link in run.record.get("parents", []):
                parent = find_run(str(link.get("path")), run.path)
                inside = run.path.resolve().is_relative_to(here)
                if parent is not None and parent.resolve() == here and not inside:
                    found[run.path.resolve()] = run
    return list(found.values())


def delete_run(
    path: str | Path,
    *,
    roots: Sequence[str | Path],
    force: Collection[str] = (),
    within: str | Path | None = None,
    remedy: str = "to delete it all the same, name it: --force {name}",
) -> None:
    """Delete a run folder, if nothing speaks against it.

    Refused are: a folder without a readable run.json, a link, a pipeline, a folder with files that no
    run writes, a run that another process is writing, and a parent of another run that `force` does not
    name.

    Args:
        path: the run folder.
        roots: where to look for runs made from it.
        force: names of parents that may be deleted all the same.
        within: folder of a pipeline, whose runs do not count as made from it: they are made again.
        remedy: end of the sentence about a parent; {name} is the run's name.

    Raises:
        RunError: one of the above, in a sentence.
    """
    folder = Path(path)
    run = Run.open(folder)
    if folder.is_symlink():
        raise RunError(f"{folder}: is a link; delete the run it points to by its own path")
    if (folder / PIPELINE_FILE).exists():
        raise RunError(f"{folder}: is a pipeline; delete its runs one by one")
    strangers = sorted(p.name for p in folder.iterdir() if not _is_ours(p.name))
    if strangers:
        shown = ", ".join(strangers[:3])
        raise RunError(f"{folder}: holds files that no run writes ({shown}); move them away first")
    own = Path(within).resolve() if within is not None else None
    made = [
        run for run in children(folder, roots) if own is None or not run.path.resolve().is_relative_to(own)
    ]
    name = str(run.record.get("name") or folder.resolve().name)
    if made and name not in force:
        shown = ", ".join(str(child.path) for child in made[:3]) + (", …" if len(made) > 3 else "")
        verb = "was" if len(made) == 1 else "were"
        raise RunError(f"{folder}: {shown} {verb} made from it; {remedy.format(name=name)}")
    lock = take_lock(folder)
    try:
        # The name goes first, and with it the claim to be a run: a kill leaves a hidden rest, not half a run.
        doomed = folder.rename(_free(folder.resolve().parent / f".{folder.resolve().name}.deleted"))
        (doomed / RUN_FILE).unlink()
        shutil.rmtree(doomed)
    finally:
        lock.close()


def _is_ours(name: str) -> bool:
    hidden = name == ".lock" or (name.startswith(".") and name.endswith(".tmp"))
    return hidden or name in _OURS or name.endswith(".svg")


def _free(path: Path) -> Path:
    number = 0
    while (candidate := path.with_name(f"{path.name}-{number}") if number else path).exists():
        number += 1
    return candidate
