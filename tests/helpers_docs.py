"""Code blocks of the pages in docs/."""

from __future__ import annotations

from collections.abc import Iterator


def blocks(text: str, language: str = "") -> Iterator[str]:
    """The contents of a page's fenced blocks of one language; plain fences have none."""
    inside: list[str] | None = None
    wanted = False
    for line in text.splitlines():
        if not line.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside, wanted = [], line == f"```{language}"
        else:
            if wanted:
                yield "\n".join(inside) + "\n"
            inside = None


def commands(text: str) -> Iterator[str]:
    """Lines of plain fences that call `alignloop`: those that tests run."""
    for block in blocks(text):
        yield from (line for line in block.splitlines() if line.startswith("alignloop "))
