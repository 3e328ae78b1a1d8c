"""Runs the stages of same_losses.yaml with the code of two commits and compares what they compute, exactly.

    scripts/same_losses                  the working tree against main
    scripts/same_losses BASE             the working tree against BASE
    scripts/same_losses BASE OTHER       two commits
    scripts/same_losses BASE --keep DIR  runs stay in DIR, and those of a commit that lie there are used again

This is the guard of a refactoring: losses, metrics, samples, results and the bytes of every saved weight
have to be equal. Times, rates and memory are left out, and so is what says which code and which folders
were used. Both run from this file's recipe, one after the other, with a thread each. Exit code 1 if
anything differs; each difference is a line `STAGE: FILE: KEY: before → after`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path(__file__).with_suffix(".yaml")
WORKING_TREE = "the working tree"
UNEQUAL_KEYS = ("time_s", "step_s", "memory_gb", "duration_s", "peak_memory_gb", "seconds", "cost_s")
UNEQUAL_ENDINGS = ("_per_s", "_seconds", "_path", "_sha256")
"""Keys whose values differ between two runs of the same code."""
SHOWN = 40


def run(tree: Path, output: Path) -> None:
    """Run the recipe with a tree's code.

    Raises:
        SystemExit: with the end of the log if the recipe fails.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    cache = output.with_suffix(".cache")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "ALIGNLOOP_CACHE": str(cache),
    }
    command = [sys.executable, "-m", "alignloop", "run", str(RECIPE), f"output_dir={output}"]
    log = output.with_suffix(".log")
    with log.open("w", encoding="utf-8") as out:
        code = subprocess.run(
            command, cwd=tree, env=environment, stdout=out, stderr=out, check=False
        ).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:])
        raise SystemExit(f"{tree}: `{' '.join(command[1:])}` ended with {code}:\n{tail}")


def numbers(output: Path) -> dict[str, str]:
    """All that a pipeline computed: `STAGE: FILE: KEY` → value as JSON; of weight files their SHA-256."""
    found: dict[str, str] = {}
    for record in sorted(output.glob("*/run.json")):
        stage = record.parent
        results = json.loads(record.read_text(encoding="utf-8")).get("results", {})
        found.update({f"{stage.name}: results: {key}": value for key, value in _leaves(results, "", output)})
        for file in sorted(stage.rglob("*.jsonl")):
            name = file.relative_to(stage)
            for place, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                leaves = _leaves(json.loads(line), "", output)
                found.update({f"{stage.name}: {name}:{place}: {key}": value for key, value in leaves})
        for file in sorted(stage.rglob("*.safetensors")):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found[f"{stage.name}: {file.relative_to(stage)}: bytes"] = digest
    return found


def _leaves(value: Any, key: str, output: Path) -> Iterator[tuple[str, str]]:
    """Every value below, under its path of keys."""
    name = key.rsplit(".", 1)[-1]
    if name in UNEQUAL_KEYS or name.endswith(UNEQUAL_ENDINGS):
        return
    if isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _leaves(one, f"{key}.{inner}" if key else str(inner), output)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _leaves(one, f"{key}[{place}]", output)
    else:
        yield key, json.dumps(value, ensure_ascii=False).replace(str(output), "RUNS")


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A line for each value that only one of them has, or that differs."""
    keys = dict.fromkeys([*before, *after])
    missing = "nothing"
    return [
        f"{key}: {before.get(key, missing)} → {after.get(key, missing)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def computed(commit: str, folder: Path) -> dict[str, str]:
    """What a commit, or the working tree, computes; a commit's runs in `folder` are used again."""
    if commit == WORKING_TREE:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run(ROOT, Path(place) / "runs")
            return numbers(Path(place) / "runs")
    digest = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    output = folder / digest
    done = output.with_suffix(".json")
    if not done.exists():
        tree = folder / f"tree-{digest}"
        _git("worktree", "add", "--detach", "--force", str(tree), digest)
        try:
            run(tree, output)
        finally:
            _git("worktree", "remove", "--force", str(tree))
        done.write_text(json.dumps(numbers(output), ensure_ascii=False), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two commits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", nargs="?", default="main")
    parser.add_argument("other", nargs="?", default=WORKING_TREE)
    parser.add_argument("--keep", type=Path, help="folder for the runs; a temporary one if left out")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        before, after = computed(given.base, folder), computed(given.other, folder)
    found = differences(before, after)
    for line in found[:SHOWN]:
        print(line)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")
    print(f"{given.base} and {given.other}: {len(before)} values, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
