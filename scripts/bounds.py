"""Runs tests with the oldest or the newest releases that pyproject.toml admits.

    python scripts/bounds.py oldest                            the tests named in TESTS
    python scripts/bounds.py newest tests/model tests/serve    others; words after the first go to pytest

Every dependency with a lower bound gets it (oldest) or the last release below its upper bound (newest), in a
temporary folder that goes before this environment. torch stays as it is installed: its wheels are gigabytes.
Prints the versions; exit code that of pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
KEPT = {"torch"}
ALONE = {"peft"}
"""Installed without what it requires, since that includes torch."""
TESTS = (
    "tests/model/test_generate.py",
    "tests/model/test_load.py",
    "tests/model/test_adapters.py",
    "tests/model/test_adapter_load.py",
    "tests/model/test_packed.py",
    "tests/model/test_verify.py",
    "tests/data",
    "tests/serve/test_app.py",
    "tests/test_config.py",
    "tests/labels/test_store.py",
    "tests/stages/test_loop_of_stages.py",
)


def bounded() -> list[Requirement]:
    """The dependencies with a lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    return [one for one in found if one.name not in KEPT and any(s.operator == ">=" for s in one.specifier)]


def pinned(requirement: Requirement, which: str) -> str:
    """What pip is asked for."""
    if which == "newest":
        return str(requirement)
    (least,) = (one.version for one in requirement.specifier if one.operator == ">=")
    return f"{requirement.name}=={least}"


def install(folder: Path, which: str) -> None:
    """The releases, into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder)]
    wanted = {one.name: pinned(one, which) for one in bounded()}
    subprocess.run([*pip, *(text for name, text in wanted.items() if name not in ALONE)], check=True)
    subprocess.run([*pip, "--no-deps", *(text for name, text in wanted.items() if name in ALONE)], check=True)
    there = sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))
    print(f"{which}: {', '.join(there)}", flush=True)


def main() -> int:
    """Install, then test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("oldest", "newest"))
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        install(Path(name), options.which)
        paths = os.pathsep.join([name, str(ROOT)])
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *(words or TESTS)]
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
