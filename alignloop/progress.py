"""What a person sees while something runs: a bar in a terminal or notebook, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from alignloop.machine import memory_gb, process_rank
from alignloop.notebook import HtmlBar, in_notebook

_SHOWN = {"loss": "loss", "reward": "reward", "tokens_per_s": "tok/s", "memory_gb": "GB"}
_SMOOTHING = 0.3  # weight of the newest step's seconds in the ETA


class Progress:
    """Progress of one piece of work with a known or unknown number of steps.

    Shows step, loss, reward, tokens/s, memory and the time that is left. Use it in a `with`.

    Attributes:
        step: the last step that was reported.
    """

    def __init__(
        self,
        total: int | None,
        *,
        description: str = "",
        start: int = 0,
        unit: str = "step",
        file: IO[str] | None = None,
        every_s: float = 5.0,
    ) -> None:
        """Start the clock.

        Args:
            total: steps in all, None if unknown.
            description: what runs.
            start: steps done before, by an earlier attempt.
            unit: what one step is.
            file: where to write, stderr if None.
            every_s: seconds between lines where there is no terminal.
        """
        self.step = start
        self._total, self._description, self._unit = total, description, unit
        self._file = file if file is not None else sys.stderr
        self._every_s = every_s
        self._clock = self._last_line = time.monotonic()
        self._seconds_per_step: float | None = None
        self._left_s: float | None = None
        self._metrics: dict[str, float] = {}
        self._bar: Bar | None = None
        self._silent = process_rank() > 0  # the first of several processes shows the progress of all
        self._html = HtmlBar(description, total) if file is None and in_notebook() else None
        if self._html is None and self._file.isatty() and not self._silent:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self._file),
                transient=False,
            )
            self._task = self._bar.add_task(description, total=total, completed=start, text="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._html is not None:
            self._html.update(self.step, self.text(), last=True)
        else:
            self._print_line()

    def update(self, step: int, *, left_s: float | None = None, **metrics: float) -> None:
        """Report that `step` steps are done; metrics keep their last value until given again.

        Args:
            step: steps done.
            left_s: seconds left, where the caller knows better than the pace of the steps tells.
            **metrics: what to show.
        """
        now = time.monotonic()
        self._left_s = left_s
        if step > self.step:
            seconds = (now - self._clock) / (step - self.step)
            known = self._seconds_per_step
            self._seconds_per_step = seconds if known is None else known + _SMOOTHING * (seconds - known)
            self._clock = now
        self.step = step
        self._metrics |= metrics
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self.text())
        elif self._html is not None:
            self._html.update(step, self.text())
        elif now - self._last_line >= self._every_s:
            self._print_line()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._file, flush=True)

    def text(self) -> str:
        """The metrics and the time left, as shown beside the bar."""
        shown = {"memory_gb": memory_gb(), **self._metrics}
        parts = [f"{label} {format_number(shown[name])}" for name, label in _SHOWN.items() if name in shown]
        left_s = self._left_s
        if left_s is None and self._total is not None and self._seconds_per_step is not None:
            left_s = self._seconds_per_step * max(0, self._total - self.step)
        if left_s is not None:
            parts.append(f"ETA {format_seconds(left_s)}")
        return "  ".join(parts)

    def _print_line(self) -> None:
        if self._silent:
            return
        self._last_line = time.monotonic()
        total = f"/{self._total}" if self._total is not None else ""
        parts = (self._description, f"{self._unit} {self.step}{total}", self.text())
        print("  ".join(part for part in parts if part), file=self._file, flush=True)


class SamplingProgress(Progress):
    """Progress of sampled answers. Many run at once and the first ends late, so the time left is that of
    the tokens still to be drawn: an answer counts with the mean length of those that have ended, by
    their share, else with the longest.

    Arguments:
        total: answers in all.
        max_tokens: of an answer.
        description: what runs.
        ended: answers that ended in an earlier attempt.
    """

    def __init__(
        self,
        total: int,
        max_tokens: int,
        *,
        description: str = "",
        ended: int = 0,
        file: IO[str] | None = None,
    ) -> None:
        super().__init__(total, description=description, start=ended, unit="answer", file=file)
        self._answers, self._max_tokens, self._before = total, max_tokens, ended
        self._drawn = self._drawn_of_ended = 0
        self._started = time.monotonic()

    def drew(self, tokens: int) -> None:
        """So many tokens were drawn in one step, of all running answers together."""
        self._drawn += tokens
        self._report(self.step)

    def ended(self, tokens: int) -> None:
        """An answer of so many tokens, which were drawn before, has ended."""
        self._drawn_of_ended += tokens
        self._report(self.step + 1)

    def _report(self, step: int) -> None:
        rate = self._drawn / max(time.monotonic() - self._started, 1e-9)
        ended, left = step - self._before, self._answers - step
        known = ended / max(1, ended + left)
        length = (1 - known) * self._max_tokens + known * self._drawn_of_ended / max(1, ended)
        tokens_left = max(0.0, left * length - (self._drawn - self._drawn_of_ended))
        left_s = tokens_left / rate if rate > 0 else None
        self.update(step, left_s=left_s, tokens_per_s=rate)


def format_number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_seconds(seconds: float) -> str:
    """`45s`, `3m05s`, `2h10m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
