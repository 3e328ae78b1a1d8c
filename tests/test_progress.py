"""Progress: lines where there is no terminal, a bar where there is one, an ETA from the pace so far."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from alignloop import progress
from alignloop.progress import Progress, SamplingProgress, format_number, format_seconds


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_lines_every_few_seconds(clock: Clock) -> None:
    file = io.StringIO()
    with Progress(10, description="sft", file=file, every_s=5) as bar:
        for step in range(1, 9):
            clock.now += 2
            bar.update(step, loss=1 / step, memory_gb=1.5)
    lines = file.getvalue().splitlines()
    # steps of 2 s: after 6 s and 12 s, and the last one when it closes
    assert [line.split("  ")[:2] for line in lines] == [
        ["sft", "step 3/10"],
        ["sft", "step 6/10"],
        ["sft", "step 8/10"],
    ]
    assert lines[0] == "sft  step 3/10  loss 0.3333  GB 1.5  ETA 14s"


def test_eta_after_a_resume_counts_only_the_steps_made_here(clock: Clock) -> None:
    bar = Progress(100, start=90, file=io.StringIO())
    clock.now += 4
    bar.update(92)
    assert bar.text().endswith("ETA 16s")  # 2 s per step, 8 steps left


def test_metrics_keep_their_last_value(clock: Clock) -> None:
    bar = Progress(None, file=io.StringIO())
    bar.update(1, loss=0.5, reward=-1.25, tokens_per_s=12345.6, memory_gb=2.0)
    bar.update(2, loss=0.25)
    assert bar.text() == "loss 0.25  reward -1.25  tok/s 12346  GB 2"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    file = Terminal()
    with Progress(4, description="dpo [한국어]", file=file) as bar:
        bar.update(2, loss=0.693147)
        bar.say("a [note]")
    text = file.getvalue()
    assert "2/4" in text
    assert "loss 0.6931" in text
    assert "a [note]" in text
    assert "dpo [한국어]" in text


def test_the_eta_of_sampling_counts_tokens(clock: Clock) -> None:
    bar = SamplingProgress(10, 40, file=io.StringIO())
    clock.now += 2
    bar.drew(40)  # 20 tokens/s
    # no answer has ended: 10 × 40 − 40 tokens are left at most
    assert "tok/s 20  " in bar.text()
    assert bar.text().endswith("ETA 18s")
    clock.now += 2
    bar.drew(40)
    for _ in range(5):
        bar.ended(8)
    # 5 are left, of (1 − ½) · 40 + ½ · 8 = 24 tokens; 80 − 40 of them are drawn: 80 tokens at 20 tokens/s
    assert bar.text().endswith("ETA 4s")


def test_a_resumed_sampling_counts_what_had_ended_and_the_tokens_drawn_here(clock: Clock) -> None:
    bar = SamplingProgress(10, 40, ended=6, file=io.StringIO())
    clock.now += 2
    bar.drew(40)
    assert bar.step == 6
    assert bar.text().endswith("ETA 6s")  # 4 × 40 − 40 tokens at 20 tokens/s


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (59.6, "1m00s"), (185, "3m05s"), (7810, "2h10m")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0001234567, "0.0001235"), (3.0, "3"), (999.96, "1000"), (12345.6, "12346"), (1e-9, "1e-09")],
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_notebook_gets_one_element_that_is_drawn_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, shown: str) -> None:
            drawn.append(shown)

    def display(shown: str, display_id: bool) -> Handle:
        assert display_id
        drawn.append(shown)
        return Handle()

    screen = SimpleNamespace(HTML=str, display=display)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=screen))
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    with Progress(4, description="<sft>") as bar:
        bar.update(1, loss=0.5)
        bar.update(2, loss=0.25)  # at once: not drawn
        clock.now += 1
        bar.update(3, loss=0.125)
    assert [text.partition("</progress> ")[2].split("  ")[0] for text in drawn] == ["1/4", "3/4", "3/4"]
    assert '&lt;sft&gt; <progress max="4" value="1">' in drawn[0]
    assert "loss 0.125" in drawn[-1]
    assert capsys.readouterr().err == ""


def test_of_several_processes_the_first_one_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = io.StringIO()
    with Progress(2, description="dpo", file=file, every_s=0.0) as bar:
        bar.update(1)
    assert file.getvalue() == ""


def test_work_without_steps_is_named_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_AFTER_S", 0.05)
    monkeypatch.setattr(progress, "_LINE_AGAIN_S", 0.05)
    file = io.StringIO()
    with progress.busy("reading", file=file):
        pass
    assert file.getvalue() == ""
    with progress.busy("loading", file=file), progress.busy("converting"):
        wait_for(lambda: file.getvalue().count("\n") >= 2)
    lines = file.getvalue().splitlines()
    assert {line.partition(" …")[0] for line in lines} == {"converting"}


def test_a_bar_takes_the_place_of_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_AFTER_S", 0.02)
    named, bar = io.StringIO(), io.StringIO()
    with progress.busy("evaluating", file=named):
        with Progress(2, description="outer", file=bar, every_s=0.0):
            with Progress(2, description="inner", file=bar, every_s=0.0) as inner:
                inner.update(1)
            time.sleep(0.1)
            assert named.getvalue() == ""
        wait_for(lambda: named.getvalue() != "")
    assert named.getvalue() == "evaluating …\n"
    assert "inner" not in bar.getvalue()
    assert "outer" in bar.getvalue()


def test_brief_work_leaves_no_line(clock: Clock) -> None:
    file = io.StringIO()
    with Progress(4, description="rewards", unit="row", file=file, every_s=2, brief=True) as bar:
        bar.update(4)
    assert file.getvalue() == ""
    with Progress(4, description="rewards", unit="row", file=file, every_s=2, brief=True) as bar:
        clock.now += 3
        bar.update(2)
        bar.update(4)
    assert [line.split("  ")[1] for line in file.getvalue().splitlines()] == ["row 2/4", "row 4/4"]


def test_what_is_done_between_two_steps_stands_beside_the_bar() -> None:
    file = io.StringIO()
    with Progress(4, description="dpo", file=file, every_s=0.0) as bar, bar.doing("evaluating 9 rows"):
        pass
    assert "evaluating 9 rows" in file.getvalue().splitlines()[0]
    assert "evaluating" not in file.getvalue().splitlines()[-1]


def wait_for(ready: Callable[[], bool]) -> None:
    """Until a thread has done something; a generous bound for a busy machine."""
    ends = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < ends
        time.sleep(0.01)
