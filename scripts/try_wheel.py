"""Builds the wheel, installs it into a new environment that has no pip, and runs a command there.

    python scripts/try_wheel.py FOLDER [WORD ...]     (default: quickstart --model tiny)

The dependencies are those of the interpreter that runs this script; nothing is fetched. FOLDER receives
the wheel, the environment and the runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("alignloop", "pyproject.toml", "README.md", "LICENSE")


def build(folder: Path) -> Path:
    """The wheel, built from a copy of the sources, so that nothing is left beside them."""
    copy = folder / "sources"
    copy.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True)
    (wheel,) = folder.glob("alignloop-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """An environment without pip that has the wheel and sees this interpreter's packages; its `bin`."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    programs = environment / "bin"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(programs / "python"),
            "install",
            "--no-deps",
            "--quiet",
            wheel,
        ],
        check=True,
        env=_outside(),
    )
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def _outside() -> dict[str, str]:
    """The environment's variables without those that lead Python to the sources of this repository."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }


def run(programs: Path, folder: Path, words: list[str]) -> int:
    """Run `alignloop WORD …` in the environment, in a folder of its own.

    Raises:
        SystemExit: pip or the sources of this repository can be imported there.
    """
    place = folder / "work"
    place.mkdir()
    kept = _outside()
    kept["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    question = "import alignloop, sys; sys.exit(not alignloop.__file__.startswith(sys.prefix))"
    if subprocess.run([programs / "python", "-c", question], cwd=place, env=kept, check=False).returncode:
        sys.exit("try_wheel: the package that is imported is not the installed one")
    return subprocess.run(["alignloop", *words], cwd=place, env=kept, check=False).returncode


def main() -> int:
    """The command line."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    programs = install(build(folder), folder)
    return run(programs, folder, sys.argv[2:] or ["quickstart", "--model", "tiny"])


if __name__ == "__main__":
    sys.exit(main())
