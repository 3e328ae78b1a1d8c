"""Writes docs/files.md: every file of the package with its purpose, the first sentence of its docstring.

python scripts/files.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "files.md"


def purpose(file: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    line = " ".join(text.split("\n\n")[0].split())
    end = line.find(". ")
    return (line if end < 0 else line[: end + 1]).rstrip(".").replace("|", "\\|")


def page() -> str:
    """The whole page."""
    parts = [
        "# Every file and its purpose\n\nWritten by `python scripts/files.py` from the files themselves.\n"
    ]
    for folder in ("alignloop", "bench", "scripts"):
        files = sorted((ROOT / folder).rglob("*.py"), key=lambda f: (f.parent.as_posix(), f.name))
        for parent in dict.fromkeys(file.parent for file in files):
            rows = [
                f"| {file.name} | {found} |"
                for file in files
                if file.parent == parent and file.name != "__init__.py" and (found := purpose(file))
            ]
            if rows:
                parts.append(
                    f"\n## {parent.relative_to(ROOT).as_posix()}/\n\n| file | purpose |\n|---|---|\n"
                    + "\n".join(rows)
                    + "\n"
                )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
