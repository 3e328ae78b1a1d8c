"""Mutates a module and prints which mutants its tests let live.

    scripts/mutate alignloop/training/loop.py                      every mutant
    scripts/mutate alignloop/data/packing.py --sample 30 --seed 1  30 of them, the same ones each time
    scripts/mutate alignloop/model/kv.py --tests tests/model       with these tests

Without `--tests` those of the module's own folder are run: `tests/FOLDER/test_MODULE*.py` first, then
the files of `tests/FOLDER` that import the module; all of `tests/FOLDER` where there are none. A test
that runs none of a mutant's lines is left out for it, unless it runs none of the file at all (it may
start a program that does).

A mutant lives in a copy of the repository in a temporary folder; the working tree is never changed. The
libraries are imported once, each mutant is tried in a fork of that process, and it is killed by the
first test that fails or by the time limit. Exit code 1 if some lived.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutants import Mutant, mutants_of

COPIED = ("alignloop", "bench", "tests", "docs", "scripts", "pyproject.toml", "README.md", "README.ko.md")
OWN = ("alignloop", "bench", "tests", "conftest", "scripts", "mutants")
MEMORY = 12 * 2**30
"""Bytes of address space that a mutant may take: one that allocates without end is killed."""
NO_TESTS = 5
"""pytest's exit code where nothing was selected."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a module of the package")
    parser.add_argument("--sample", type=int, default=0, help="try this many mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--tests", nargs="+", default=[], help="test files, folders or pytest's node ids")
    parser.add_argument(
        "--timeout", type=float, default=0, help="seconds a mutant; 0 for 20 and 5 times the tests'"
    )
    parser.add_argument("--lines", default="", help="only mutants of these lines: 40 or 40-60")
    options = parser.parse_args()
    root = _root_of(options.file.resolve())
    file = options.file.resolve().relative_to(root)
    tests = options.tests or mirrors(root, file)
    if not tests:
        parser.error(f"no test mirrors {file}; name some with --tests")
    mutants = _chosen(mutants_of((root / file).read_text(encoding="utf-8")), options)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied = Path(folder).resolve() / root.name
        _copy(root, copied)
        return _report(file, _try_all(copied, file, mutants, tests, options.timeout), len(mutants))


def mirrors(root: Path, file: Path) -> list[str]:
    """Tests of a module: those named after it, then those in its folder that import it, else the folder."""
    folder = root / "tests" / Path(*file.parts[1:-1])
    module = ".".join(file.with_suffix("").parts)
    named = sorted(folder.glob(f"test_{file.stem}*.py"))
    others = [
        path for path in sorted(folder.rglob("test_*.py")) if path not in named and _imports(path, module)
    ]
    found = named + others or [folder] * folder.is_dir()
    return [path.relative_to(root).as_posix() for path in found]


def _imports(path: Path, module: str) -> bool:
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return module in names


def _root_of(file: Path) -> Path:
    return next(parent for parent in file.parents if (parent / "pyproject.toml").is_file())


def _copy(root: Path, target: Path) -> None:
    target.mkdir()
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        elif (root / name).is_file():
            shutil.copy2(root / name, target / name)


def _chosen(mutants: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    if options.lines:
        first, _, last = options.lines.partition("-")
        mutants = [m for m in mutants if int(first) <= m.line <= int(last or first)]
    if options.sample and options.sample < len(mutants):
        numbers = sorted(random.Random(options.seed).sample(range(len(mutants)), options.sample))
        mutants = [mutants[number] for number in numbers]
    return mutants


@dataclass(slots=True)
class Trial:
    """A mutant and what became of it: killed, timeout, lived, or not run by any test."""

    mutant: Mutant
    outcome: str
    line: str
    changed: str


def _try_all(
    root: Path, file: Path, mutants: Sequence[Mutant], tests: Sequence[str], timeout: float
) -> Iterator[Trial]:
    """Run the tests without a change, then with each; yields as they end."""
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(root))
    os.chdir(root)
    source = (root / file).read_text(encoding="utf-8")
    started = time.monotonic()
    if code := _fork(lambda: _traced(root / file, tests), 3600):
        log = (root / "log").read_text(encoding="utf-8")
        raise SystemExit(
            f"{log[-3000:]}\nmutate: the tests fail without a change (pytest's exit code {code})"
        )
    timeout = timeout or 20 + 5 * (time.monotonic() - started)
    ran = json.loads((root / "ran.json").read_text(encoding="utf-8"))
    _import_libraries(ran["modules"])
    everywhere, lines_of = set(ran["imported"]), {name: set(lines) for name, lines in ran["tests"].items()}
    for mutant in mutants:
        span = set(range(mutant.lines[0], mutant.lines[1] + 1))
        reached = [name for name, lines in lines_of.items() if not lines or span & lines or span & everywhere]
        changed = mutant.apply(source)
        outcome = "not run"
        if reached:
            (root / file).write_text(changed, encoding="utf-8")
            code = _fork(lambda reached=reached: _run(tests, _Selected(set(reached))), timeout)
            (root / file).write_text(source, encoding="utf-8")
            outcome = {0: "lived", NO_TESTS: "not run", None: "timeout"}.get(code, "killed")
        yield Trial(mutant, outcome, *_difference(source, changed))


def _difference(source: str, changed: str) -> tuple[str, str]:
    """First line that goes and what comes in its place."""
    lines = list(difflib.ndiff(source.splitlines(), changed.splitlines()))
    gone = next((line[2:].strip() for line in lines if line.startswith("- ")), "")
    come = next((line[2:].strip() for line in lines if line.startswith("+ ")), "")
    return gone, come


def _fork(work: Any, timeout: float) -> int | None:
    """Run `work` in a fork with its output in a file; its exit code, or None where it took too long."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        with contextlib.suppress(BaseException):  # a mutant may do anything
            code = int(work())
        sys.stdout.flush()
        os._exit(code)
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(tests: Sequence[str], *plugins: Any) -> int:
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=list(plugins))


@dataclass(slots=True)
class _Selected:
    """Leaves the tests that are not to run out."""

    names: set[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.names]


@dataclass(slots=True)
class _Tracer:
    """Notes the lines of one file that each test runs, and those that run when it is imported."""

    file: str
    tests: dict[str, set[int]] = field(default_factory=dict)
    now: set[int] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != self.file:
            return None
        self.now.add(frame.f_lineno)
        return self

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.now = self.tests.setdefault(item.nodeid, set())
        return (yield)


def _traced(file: Path, tests: Sequence[str]) -> int:
    """Run the tests as they are and write what they ran to `ran.json`."""
    tracer = _Tracer(str(file))
    imported = tracer.now
    sys.settrace(tracer)
    threading.settrace(tracer)
    code = _run(tests, tracer)
    sys.settrace(None)
    found = {
        "imported": sorted(imported),
        "tests": {name: sorted(lines) for name, lines in tracer.tests.items()},
        "modules": [name for name in sys.modules if name.split(".")[0] not in OWN],
    }
    Path("ran.json").write_text(json.dumps(found), encoding="utf-8")
    return code


def _import_libraries(names: Sequence[str]) -> None:
    """Import what the tests did, in their order, so that the forks need not."""
    for name in names:
        with contextlib.suppress(ImportError):  # made up by a library while it ran
            importlib.import_module(name)


def _report(file: Path, trials: Iterator[Trial], number: int) -> int:
    counts = Counter[str]()
    for done, trial in enumerate(trials, 1):
        counts[trial.outcome] += 1
        if trial.outcome in ("lived", "not run"):
            note = " (no test runs it)" if trial.outcome == "not run" else ""
            print(f"{file}:{trial.mutant.line}: {trial.mutant.kind}{note}")
            print(f"  - {trial.line}\n  + {trial.changed}", flush=True)
        elif sys.stderr.isatty():
            print(f"\r{done} of {number}", end="\r", file=sys.stderr)
    lived = counts["lived"] + counts["not run"]
    share = 100 * lived / max(1, number)
    print(
        f"{file}: {number} made, {counts['killed']} killed by a test, {counts['timeout']} by the time limit; "
        f"{lived} lived ({share:.1f} %), {counts['not run']} of them on lines that no test runs"
    )
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main())
