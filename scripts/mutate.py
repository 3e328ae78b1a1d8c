"""Mutates modules and prints which mutants its tests let live.

    scripts/mutate alignloop/training/loop.py                      every mutant
    scripts/mutate alignloop/data/packing.py --sample 30 --seed 1  30 of them, the same ones each time
    scripts/mutate alignloop/model/kv.py --tests tests/model       with these tests
    scripts/mutate alignloop/rl/*.py --tests tests/rl --sample 99  99 of all mutants of a folder
    scripts/mutate alignloop/rl/*.py --again lived.txt             those that lived, after tests were added

Without `--tests` those of the module's own folder are run: `tests/FOLDER/test_MODULE*.py` first, then
the files of `tests/FOLDER` that import the module; all of `tests/FOLDER` where there are none. A test
that runs none of a mutant's lines is left out for it, unless it runs none of the file at all (it may
start a program that does).

A mutant lives in a copy of the repository in a temporary folder; the working tree is never changed. The
libraries are imported once, each mutant is tried in a fork of that process, and it is killed by the
first test that fails or by the time limit. The tests named after its module run first, quick ones before
slow ones. Exit code 1 if some lived.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import difflib
import importlib
import json
import os
import random
import re
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
from py_compile import PycInvalidationMode
from types import FrameType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutants import Mutant, mutants_of

COPIED = (
    "alignloop",
    "bench",
    "tests",
    "docs",
    "scripts",
    "pyproject.toml",
    "mkdocs.yml",
    "README.md",
    "README.ko.md",
)
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
    parser.add_argument("files", nargs="+", type=Path, help="modules of the package")
    parser.add_argument("--sample", type=int, default=0, help="try this many mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--minutes", type=float, default=0, help="stop the sample after so long; 0 for never")
    parser.add_argument("--tests", nargs="+", default=[], help="test files, folders or pytest's node ids")
    parser.add_argument(
        "--timeout", type=float, default=0, help="seconds a mutant; 0 for 20 and 5 times the tests'"
    )
    parser.add_argument("--again", type=Path, help="only those that lived in an earlier output, a file")
    parser.add_argument("--lines", default="", help="only mutants of these lines: 40 or 40-60")
    options = parser.parse_args()
    root = _root_of(options.files[0].resolve())
    files = [file.resolve().relative_to(root) for file in options.files]
    tests = options.tests or list(dict.fromkeys(test for file in files for test in mirrors(root, file)))
    if not tests:
        parser.error(f"no test mirrors {options.files[0]}; name some with --tests")
    found = [(file, m) for file in files for m in mutants_of((root / file).read_text(encoding="utf-8"))]
    mutants = _chosen(found, options)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied = Path(folder).resolve() / root.name
        _copy(root, copied)
        trials = _try_all(copied, mutants, tests, options.timeout)
        return _report(_until(trials, options.minutes), len(mutants))


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
    # compiled once for all forks; by the hash of its text a changed file is told from the old one
    compileall.compile_dir(target, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def _chosen(mutants: list[tuple[Path, Mutant]], options: argparse.Namespace) -> list[tuple[Path, Mutant]]:
    if options.again:
        lived = set(re.findall(r"^(\S+\.py):(\d+): (.*?)(?: \(|$)", options.again.read_text("utf-8"), re.M))
        mutants = [(file, m) for file, m in mutants if (file.as_posix(), str(m.line), m.kind) in lived]
    if options.lines:
        first, _, last = options.lines.partition("-")
        mutants = [(file, m) for file, m in mutants if int(first) <= m.line <= int(last or first)]
    if options.sample and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    return mutants


@dataclass(slots=True)
class Trial:
    """A mutant and what became of it: killed, timeout, lived, or not run by any test."""

    file: Path
    mutant: Mutant
    outcome: str
    line: str
    changed: str


def _try_all(
    root: Path, mutants: Sequence[tuple[Path, Mutant]], tests: Sequence[str], timeout: float
) -> Iterator[Trial]:
    """Run the tests without a change, then with each; yields as they end."""
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(root))
    os.chdir(root)
    files = dict.fromkeys(str(root / file) for file, _ in mutants)
    started = time.monotonic()
    if code := _fork(lambda: _traced(list(files), tests), 7200):
        log = (root / "log").read_text(encoding="utf-8")
        raise SystemExit(
            f"{log[-3000:]}\nmutate: the tests fail without a change (pytest's exit code {code})"
        )
    timeout = timeout or 20 + 5 * (time.monotonic() - started)
    ran = json.loads((root / "ran.json").read_text(encoding="utf-8"))
    _import_libraries(ran["modules"])
    for file, mutant in mutants:
        source = (root / file).read_text(encoding="utf-8")
        changed = mutant.apply(source)
        reached = _reaching(ran, str(root / file), mutant)
        outcome = "not run"
        if reached:
            (root / file).write_text(changed, encoding="utf-8")
            chosen = sorted({name.split("::")[0] for name in reached})
            selected = _Selected({name: _order(ran, name, file) for name in reached})
            code = _fork(lambda some=chosen, those=selected: _run(some, those), timeout)
            (root / file).write_text(source, encoding="utf-8")
            outcome = {0: "lived", NO_TESTS: "not run", None: "timeout"}.get(code, "killed")
        yield Trial(file, mutant, outcome, *_difference(source, changed))


def _until(trials: Iterator[Trial], minutes: float) -> Iterator[Trial]:
    """Trials that end before the time is over; a sample comes in random order, so they stand for all."""
    started = time.monotonic()
    for trial in trials:
        yield trial
        if minutes and time.monotonic() - started > 60 * minutes:
            return


def _reaching(ran: dict[str, Any], file: str, mutant: Mutant) -> set[str]:
    """Tests that run a line of the statement, or nothing of the files; all for what importing runs."""
    span = set(range(mutant.lines[0], mutant.lines[1] + 1))
    if span & set(ran["imported"].get(file, ())):
        return set(ran["tests"])
    return {name for name, lines in ran["tests"].items() if not lines or span & set(lines.get(file, ()))}


def _order(ran: dict[str, Any], name: str, file: Path) -> tuple[bool, float]:
    """Tests named after the module first, then by their time."""
    own = Path(name.split("::")[0]).name.startswith(f"test_{file.stem}")
    return not own, ran["seconds"].get(name, 0.0)


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
    # nobody reads what an assertion compared
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain"]
    return pytest.main([*options, *tests], plugins=list(plugins))


@dataclass(slots=True)
class _Selected:
    """Leaves the tests that are not to run out, and sorts the others."""

    places: dict[str, tuple[bool, float]]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.places]
        items[:] = sorted(chosen, key=lambda item: self.places[item.nodeid])


@dataclass(slots=True)
class _Tracer:
    """Notes the lines of some files that each test runs, and those that run when they are imported."""

    files: frozenset[str]
    tests: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    now: dict[str, set[int]] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        if file not in self.files:
            return None
        self.now.setdefault(file, set()).add(frame.f_lineno)
        return self

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.now = self.tests.setdefault(item.nodeid, {})
        started = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - started
        return result


def _traced(files: Sequence[str], tests: Sequence[str]) -> int:
    """Run the tests as they are and write what they ran to `ran.json`."""
    tracer = _Tracer(frozenset(files))
    imported = tracer.now
    sys.settrace(tracer)
    threading.settrace(tracer)
    code = _run(tests, tracer)
    sys.settrace(None)
    found = {
        "imported": imported,
        "tests": tracer.tests,
        "seconds": tracer.seconds,
        "modules": [name for name in sys.modules if name.split(".")[0] not in OWN],
    }
    Path("ran.json").write_text(json.dumps(found, default=sorted), encoding="utf-8")
    return code


def _import_libraries(names: Sequence[str]) -> None:
    """Import what the tests did, in their order, so that the forks need not."""
    for name in names:
        with contextlib.suppress(ImportError):  # made up by a library while it ran
            importlib.import_module(name)


def _report(trials: Iterator[Trial], number: int) -> int:
    counts: dict[str, Counter[str]] = {}
    for done, trial in enumerate(trials, 1):
        file = trial.file.as_posix()
        counts.setdefault(file, Counter())[trial.outcome] += 1
        if trial.outcome in ("lived", "not run"):
            note = " (no test runs it)" if trial.outcome == "not run" else ""
            print(f"{file}:{trial.mutant.line}: {trial.mutant.kind}{note}")
            print(f"  - {trial.line}\n  + {trial.changed}", flush=True)
        elif sys.stderr.isatty():
            print(f"\r{done} of {number}", end="\r", file=sys.stderr)
    total = sum(counts.values(), Counter[str]())
    for name, found in [*counts.items(), *([("all", total)] if len(counts) > 1 else [])]:
        lived = found["lived"] + found["not run"]
        ended = f"{found['killed']} killed by a test, {found['timeout']} by the time limit"
        share = f"{lived} lived ({100 * lived / found.total():.1f} %)"
        print(
            f"{name}: {found.total()} made, {ended}; {share}, {found['not run']} on lines that no test runs"
        )
    return int(total["lived"] + total["not run"] > 0)


if __name__ == "__main__":
    sys.exit(main())
