"""Completion scripts evaluated by the shells themselves, as a person at the prompt has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `alignloop` in bin/ and a home of its own."""
    program = tmp_path / "bin" / "alignloop"
    program.parent.mkdir()
    code = "import sys; sys.argv[0] = 'alignloop'; from alignloop.cli import main; main()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "mine.yaml").write_text("stage: sft\n", encoding="utf-8")
    return tmp_path


def shell(place: Path, *words: str, **environment: str) -> str:
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(place), "ZDOTDIR": str(place)}
    done = subprocess.run(
        words, cwd=place, env={**os.environ, **own, **environment}, capture_output=True, encoding="utf-8",
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


COMPLETE_IN_BASH = """
eval "$(_ALIGNLOOP_COMPLETE=source_bash alignloop)"
COMP_WORDS=(TYPED); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p alignloop | sed 's/.*-F \\([a-z_]*\\).*/\\1/')
"$function" alignloop
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("alignloop rep", ["report"]),
        ("alignloop re", ["reward-bench", "recipes", "report"]),
        ("alignloop train gr", ["grpo"]),
        ("alignloop train dpo --over", ["--overwrite"]),
        ("alignloop run mi", ["mine.yaml", "mixed"]),
        ("alignloop schema kt", ["kto"]),
        ("alignloop data ch", ["check"]),
    ],
)
def test_bash_completes_commands_methods_recipes_and_options(place, words, found) -> None:
    code = COMPLETE_IN_BASH.replace("TYPED", words)
    assert shell(place, "bash", "--norc", "-c", code).split() == found


COMPLETE_IN_ZSH = """
autoload -U compinit && compinit -u
eval "$(_ALIGNLOOP_COMPLETE=source_zsh alignloop)"
print -r -- $_comps[alignloop]
_arguments() { print -r -- "$@" }
_describe() { print -r -- ${(P)2} ${(P)3} }
words=(alignloop rep); CURRENT=2
eval $_comps[alignloop]
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(place: Path) -> None:
    shown = shell(place, "zsh", "-f", "-c", COMPLETE_IN_ZSH)
    assert shown.splitlines()[0] == "_alignloop_completion"
    assert "report" in "".join(shown.splitlines()[1:])
    assert "recipes" not in "".join(shown.splitlines()[1:])


def test_it_installs_itself(place: Path) -> None:
    said = shell(place, "bash", "--norc", "-c", "alignloop --install-completion bash")
    assert "completion installed" in said
    line = (place / ".bashrc").read_text(encoding="utf-8")
    assert "alignloop" in line
    script = next(place.rglob(".bash_completions/alignloop.sh"))
    shell(place, "bash", "--norc", "-n", str(script))
