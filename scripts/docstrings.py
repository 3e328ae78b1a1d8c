#!/usr/bin/env python3
"""pydoclint with one concession: a docstring may be prose, but one with an Args section must be complete.

pydoclint asks every docstring of more than a line for Args and Returns sections. Where the summary
says it all, those would be noise; where there is an Args section, every finding counts.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

MISSING_SECTIONS = {"DOC101", "DOC103", "DOC201", "DOC402"}


@cache
def prose_lines(file: str) -> frozenset[int]:
    """Lines of the functions in a file whose docstring has no Args section."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return frozenset(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not re.search(r"^\s*(Args|Arguments):$", ast.get_docstring(node) or "", re.MULTILINE)
    )


def main() -> int:
    lint = subprocess.run(
        [sys.executable, "-m", "pydoclint.main", "--quiet", "alignloop"],
        capture_output=True,
        text=True,
        check=False,
    )
    file, found = "", []
    for line in (lint.stdout + lint.stderr).splitlines():
        finding = re.match(r"\s+(\d+): (DOC\d+): ", line)
        if line.endswith(".py"):
            file = line
        elif not finding:
            found += [line] if line.strip() else []
        elif finding[2] not in MISSING_SECTIONS or int(finding[1]) not in prose_lines(file):
            found.append(f"{file}:{line.strip()}")
    print("\n".join(found) or "every Args section is complete")
    return int(bool(found) or lint.returncode not in (0, 1))


if __name__ == "__main__":
    sys.exit(main())
