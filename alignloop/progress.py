"""What a person sees while something runs: a bar in a terminal or notebook, else a line every few seconds.

Work without steps to count is named by `busy`. One thing is shown at a time: a bar hides the name of the
work around it, and a bar within a bar stays hidden.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from alignloop.machine import memory_gb, process_rank
from alignloop.notebook import HtmlBar, in_notebook

_SHOWN = {"loss": "loss", "reward": "reward", "tokens_per_s": "tok/s", "memory_gb": "GB"}
_SMOOTHING = 0.3  # weight of the newest step's seconds in the ETA
_SPINNER_AFTER_S, _LINE_AFTER_S, _LINE_AGAIN_S = 0.3, 1.5, 30.0


class _Busy:
    """Names the work under way: a spinner in a terminal, else a line as soon as it takes long.

    Arguments:
        what: is done.
        file: where to write.
    """

    def __init__(self, what: str, file: IO[str]) -> None:
        self.what = what
        self._file = file
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = self._hidden = False
        self._spinner: Bar | None = None
        self._thread = threading.Thread(target=self._speak, daemon=True)
        if process_rank() == 0:  # the first of several processes speaks
            self._thread.start()

    def say(self, what: str) -> None:
        """Something else is done now."""
        with self._lock:
            self.what = what
            if self._spinner is not None:
                self._spinner.update(self._spinner.task_ids[0], description=what)
        self._changed.set()

    def hide(self, hidden: bool) -> None:
        """Make room for a bar, or come back after it."""
        with self._lock:
            self._hidden = hidden
            self._stop_spinner()
        self._changed.set()

    def close(self) -> None:
        """The work is done."""
        self._ended = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._stop_spinner()

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def _speak(self) -> None:
        terminal = self._file.isatty()
        since = time.monotonic()
        wait = _SPINNER_AFTER_S if terminal else _LINE_AFTER_S
        while not self._ended:
            if self._changed.wait(wait):
                self._changed.clear()
                since, wait = time.monotonic(), _SPINNER_AFTER_S if terminal else _LINE_AFTER_S
                continue
            with self._lock:
                if not self._hidden and not self._ended:
                    self._show(terminal, time.monotonic() - since)
            wait = _LINE_AGAIN_S

    def _show(self, terminal: bool, seconds: float) -> None:
        if not terminal:
            took = f"  {format_seconds(seconds)}" if seconds >= _LINE_AGAIN_S else ""
            print(f"{self.what} …{took}", file=self._file, flush=True)
        elif self._spinner is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self._spinner = Bar(*columns, console=Console(file=self._file), transient=True)
            self._spinner.add_task(self.what, total=None)
            self._spinner.start()


_BUSY: ContextVar[_Busy | None] = ContextVar("busy", default=None)
_BAR: ContextVar[Progress | None] = ContextVar("bar", default=None)


@contextmanager
def busy(what: str, *, file: IO[str] | None = None) -> Iterator[None]:
    """Say what is done if it takes long: `with busy("reading pairs.jsonl"): …`.

    Within another one it replaces that one's text while it lasts; within a bar nothing is shown.

    Args:
        what: is done, as `loading MODEL`.
        file: where to write, stderr if None.
    """
    outer = _BUSY.get()
    if _BAR.get() is not None:
        yield
    elif outer is not None:
        before = outer.what
        outer.say(what)
        try:
            yield
        finally:
            outer.say(before)
    else:
        shown = _Busy(what, file if file is not None else sys.stderr)
        token = _BUSY.set(shown)
        try:
            yield
        finally:
            _BUSY.reset(token)
            shown.close()


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
        brief: bool = False,
    ) -> None:
        """Start the clock.

        Args:
            total: steps in all, None if unknown.
            description: what runs.
            start: steps done before, by an earlier attempt.
            unit: what one step is.
            file: where to write, stderr if None.
            every_s: seconds between lines where there is no terminal.
            brief: the work is often over at once: leave nothing behind in a terminal, and no line
                elsewhere unless it takes long.
        """
        self.step = start
        self._total, self._description, self._unit = total, description, unit
        self._file = file if file is not None else sys.stderr
        self._every_s = every_s
        self._brief, self._spoke = brief, False
        self._doing = ""
        self._clock = self._last_line = time.monotonic()
        self._seconds_per_step: float | None = None
        self._left_s: float | None = None
        self._metrics: dict[str, float] = {}
        self._bar: Bar | None = None
        # The first of several processes shows the progress of all, the outer of two bars that of both.
        self._silent = process_rank() > 0 or _BAR.get() is not None
        notebook = file is None and not self._silent and in_notebook()
        self._html = HtmlBar(description, total) if notebook else None
        if self._html is None and self._file.isatty() and not self._silent:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self._file),
                transient=brief,
            )
            self._task = self._bar.add_task(description, total=total, completed=start, text="")

    def __enter__(self) -> Self:
        around = _BUSY.get()
        if around is not None:
            around.hide(True)
        if self._bar is not None:
            self._bar.start()
        self._outer = _BAR.get()
        _BAR.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._html is not None:
            self._html.update(self.step, self.text(), last=True)
        elif self._spoke or not self._brief:
            self._print_line()
        _BAR.set(self._outer)
        around = _BUSY.get()
        if around is not None and self._outer is None:
            around.hide(False)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say beside the bar what is done between two steps."""
        self._doing = what
        self._draw()
        try:
            yield
        finally:
            self._doing = ""
            self._draw()

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
        self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, text=self.text())
        elif self._html is not None:
            self._html.update(self.step, self.text())
        elif time.monotonic() - self._last_line >= self._every_s:
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
        if self._doing:
            parts.append(self._doing)
        return "  ".join(parts)

    def _print_line(self) -> None:
        if self._silent:
            return
        self._spoke, self._last_line = True, time.monotonic()
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
