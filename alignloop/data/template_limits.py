"""Time and size limits for a chat template, which is a program of a stranger.

A template runs in jinja's sandbox, in the calling thread, under a `Budget`: processor time of the thread
and characters made. Every step that a template can repeat or enlarge passes through here: each round of
a loop, each call, filter, `+`, `*`, `**`, `%`, `~`, slice and joined output. An operation whose result
would be larger than what is left is refused before it runs. No signal, no second thread.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2

MAX_SECONDS = 10.0
"""Processor time of one rendering; a public template takes a millisecond."""
MAX_CHARS = 1 << 24
"""Characters that one rendering may make, beside `CHARS_PER_CHAR` for each character of its messages."""
CHARS_PER_CHAR = 64
MAX_NUMBER = 1_000_000
"""Largest whole number that may be handed to a method or filter, such as a width."""
MAX_BITS = 1 << 16
MAX_SOURCE = 1 << 18
"""Characters of a template's own text."""
_STEPS = 63
"""The clock is read every 64 steps."""
_PERCENT = re.compile(r"%[-+ #0]*([0-9]*)\.?([0-9]*)")
_BRACES = re.compile(r"\{[^{}]*:[^{}]*?([0-9]+)[^{}0-9]*\.?([0-9]*)")


class TemplateLimit(jinja2.TemplateError):
    """A template does more than it may; the text says what."""


class Budget:
    """What is left to one rendering.

    Arguments:
        chars: characters that may be made.
        seconds: processor time of this thread.
    """

    __slots__ = ("chars", "seconds", "steps", "until")

    def __init__(self, chars: int, seconds: float) -> None:
        self.chars, self.seconds, self.steps = chars, seconds, 0
        self.until: float | None = None  # reading the clock costs; most templates end before it is read

    def step(self) -> None:
        """Count a round of a loop, a call or an operation.

        Raises:
            TemplateLimit: the time is up.
        """
        self.steps += 1
        if self.steps & _STEPS:
            return
        now = time.thread_time()
        if self.until is None:
            self.until = now + self.seconds
        elif now > self.until:
            raise TemplateLimit(f"it takes longer than {self.seconds:g} s, as a loop without end does")

    def need(self, chars: int) -> None:
        """Refuse what would make more characters or items than are left.

        Raises:
            TemplateLimit: it would.
        """
        if chars > self.chars:
            raise TemplateLimit(f"it makes a text or list of more than {self.chars} characters or items")

    def spend(self, chars: int) -> None:
        """Take characters or items that were made off what is left.

        Raises:
            TemplateLimit: nothing is left.
        """
        self.need(chars)
        self.chars -= chars


_current: ContextVar[Budget] = ContextVar("template_budget")


@contextmanager
def limited(chars: int, seconds: float | None = None) -> Iterator[Budget]:
    """Give what runs inside a budget for messages of `chars` characters."""
    budget = Budget(MAX_CHARS + CHARS_PER_CHAR * chars, MAX_SECONDS if seconds is None else seconds)
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)


class Rounds:
    """An iterable whose every item is a step.

    Arguments:
        items: what a `for` of the template goes through.
    """

    __slots__ = ("items",)

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        step = _current.get().step
        for item in self.items:
            step()
            yield item

    def __len__(self) -> int:
        return len(self.items)


def size_of(value: object) -> int:
    """Characters or items of a value."""
    return len(value) if isinstance(value, str | bytes | list | tuple | dict | range) else 1


def joined(pieces: Any) -> str:
    """The pieces as one text; jinja calls this for a body's output."""
    found = list(pieces)
    _current.get().spend(sum(map(len, found)))
    return "".join(found)


def concatenated(values: list[Any]) -> str:
    """Jinja's `~`."""
    return joined([value if type(value) is str else str(value) for value in values])


def sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Jinja's `value[start:stop:step]`."""
    found = value[start:stop:step]
    _current.get().spend(size_of(found))
    return found


def calculated(operator: str, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """An operation of two values, refused where its result would be too large."""
    budget = _current.get()
    budget.step()
    if operator == "+":
        if isinstance(left, str | list | tuple):
            budget.spend(len(left) + size_of(right))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        if operator == "**":
            bits = left.bit_length() * max(right, 0)
        if bits > MAX_BITS:
            raise TemplateLimit("it calculates with a number that is too large")
    elif operator == "*":
        text, times = (left, right) if isinstance(right, int) else (right, left)
        if isinstance(times, int):
            budget.spend(size_of(text) * max(times, 0))
    elif operator == "%" and isinstance(left, str):
        _filled(budget, left, "%", right if isinstance(right, tuple) else (right,))
    return function(left, right)


def _filled(budget: Budget, text: str, mark: str, values: Any) -> None:
    """Refuse a format string whose result would be too large; `mark` is % or {."""
    fields = (_PERCENT if mark == "%" else _BRACES).findall(text)
    widths = [int(found[:8]) for pair in fields for found in pair if found]
    if "*" in text if mark == "%" else text.count("{") > text.count("}") or "{:{" in text.replace(" ", ""):
        widths += [abs(value) for value in values if isinstance(value, int)]
    width = max(widths, default=0)
    if width > MAX_NUMBER:
        raise TemplateLimit(f"it uses a width above {MAX_NUMBER}")
    longest = max((_length(value) for value in values), default=0)
    budget.need(len(text) + text.count(mark) * (longest + width))


def _length(value: object) -> int:
    """Characters of a value as text, an upper estimate without making the text of a long one."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_length(key) + _length(item) + 8 for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(_length(item) + 8 for item in value)
    return 64


def _method(budget: Budget, text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a method of a text whose result would be too large for what is left."""
    if name == "replace" and len(args) >= 2:
        old, new = str(args[0]), str(args[1])
        budget.need(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    elif name == "join" and args and isinstance(args[0], list):
        budget.need(len(text) * len(args[0]) + sum(map(size_of, args[0])))
    elif name == "expandtabs":
        width = max((x for x in (*args, *kwargs.values()) if isinstance(x, int)), default=8)
        budget.need(len(text) + text.count("\t") * max(width, 0))
    elif name == "translate" and args and isinstance(args[0], Mapping):
        budget.need(len(text) * max(map(size_of, args[0].values()), default=1))


def called(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Budget:
    """Count a call, and look at it before it runs.

    Returns:
        The budget, from which the size of the result has to be taken.

    Raises:
        TemplateLimit: the result would be too large.
    """
    budget = _current.get()
    budget.step()
    if not args and not kwargs:
        return budget
    for value in (*args, *kwargs.values()):
        if type(value) is int and abs(value) > MAX_NUMBER:
            raise TemplateLimit(f"it hands a number above {MAX_NUMBER} to a method or filter")
    owner = getattr(function, "__self__", None)
    if isinstance(owner, str):
        _method(budget, owner, function.__name__, args, kwargs)
    elif getattr(function, "__name__", "") in ("format", "format_map"):
        text = getattr(getattr(function, "__wrapped__", None), "__self__", "")
        _filled(budget, text, "{", (*args, *kwargs.values()))
    return budget


def bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter under the budget."""
    first = int(hasattr(function, "jinja_pass_arg"))  # before the value: the context or environment

    @functools.wraps(function)  # keeps the mark of such a filter
    def run(*args: Any, **kwargs: Any) -> Any:
        budget = called(function, args, kwargs)
        value, more = (args[first] if len(args) > first else ""), [*args[first + 1 :], *kwargs.values()]
        if name == "join" and not isinstance(value, str | Mapping | jinja2.Undefined):
            value = list(Rounds(value))
            args = (*args[:first], value, *args[first + 1 :])
            budget.need(_length(value) + len(value) * max(map(size_of, more), default=0))
        elif name == "replace" and len(more) >= 2:
            _method(budget, str(value), "replace", more, {})
        elif name == "format":
            _filled(budget, str(value), "%", more)
        elif name in ("indent", "tojson", "wordwrap", "pprint"):
            short = name == "indent" and isinstance(value, str)
            lines = str(value).count("\n") + 1 if short else _length(value)
            widths = [x if isinstance(x, int) else size_of(x) for x in more]
            budget.need(_length(value) + lines * max(widths, default=4))
        found = function(*args, **kwargs)
        budget.spend(size_of(found))
        return found

    return run
