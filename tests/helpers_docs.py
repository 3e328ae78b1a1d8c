"""Code blocks of the pages in docs/."""

from __future__ import annotations

from collections.abc import Iterator


def blocks(text: str, language: str = "") -> Iterator[str]:
    """The contents of a page's fenced blocks (``` or ~~~) of one language; plain fences have none."""
    inside: list[str] | None = None
    wanted, fence = False, ""
    for line in text.splitlines():
        opens = inside is None and line.startswith(("```", "~~~"))
        if opens:
            inside, wanted, fence = [], line[3:] == language, line[:3]
        elif inside is not None and line.startswith(fence):
            if wanted:
                yield "\n".join(inside) + "\n"
            inside = None
        elif inside is not None:
            inside.append(line)


def commands(text: str) -> Iterator[str]:
    """Lines of plain fences that call `alignloop`: those that tests run."""
    for block in blocks(text):
        yield from (line for line in block.splitlines() if line.startswith("alignloop "))
