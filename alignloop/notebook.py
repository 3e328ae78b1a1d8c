"""A progress bar in a notebook: one HTML element that is drawn again, without a widget library."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import Any

_EVERY_S = 0.25


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, VS Code, Colab)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class HtmlBar:
    """A bar with a text beside it, below the cell that runs.

    Arguments:
        description: what runs.
        total: steps in all, None if unknown.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._handle: Any = None
        self._drawn = 0.0

    def update(self, step: int, text: str, *, last: bool = False) -> None:
        """Draw the bar, at most a few times a second.

        Args:
            step: steps done.
            text: shown beside the bar.
            last: draw in any case.
        """
        now = time.monotonic()
        if not last and self._handle is not None and now - self._drawn < _EVERY_S:
            return
        self._drawn = now
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        shown = HTML(self.html(step, text))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def html(self, step: int, text: str) -> str:
        """The element."""
        of = f"/{self._total}" if self._total is not None else ""
        most = f' max="{self._total}" value="{step}"' if self._total is not None else ""
        said = escape(f"{step}{of}  {text}")
        return (
            f'<div style="font-family: monospace; white-space: pre">{escape(self._description)} '
            f"<progress{most}></progress> {said}</div>"
        )
