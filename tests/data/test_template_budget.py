"""What each step of a template costs, in characters, by hand."""

from __future__ import annotations

import functools
import time
from typing import Any

import jinja2
import jinja2.sandbox
import pytest

from alignloop.data import template_limits as limits
from alignloop.data.template_limits import Budget, TemplateLimit, bounded, calculated, called, limited

BITS = 1 << 15
"""Two numbers of so many bits have 65 536 together, which is the limit."""


def cost(run: Any, chars: int = 1000) -> int:
    """Characters that a call takes off a budget."""
    budget = Budget(chars, 10.0)
    token = limits._current.set(budget)
    try:
        run()
    finally:
        limits._current.reset(token)
    return chars - budget.chars


def least(run: Any) -> int:
    """The smallest budget under which a call is not refused."""
    low, high = -1, 5000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cost(run, middle)
            high = middle
        except TemplateLimit:
            low = middle
    return high


def test_what_is_left_can_be_used_up_and_not_more() -> None:
    budget = Budget(5, 1.0)
    budget.need(5)
    with pytest.raises(TemplateLimit, match="more than 5 characters or items"):
        budget.need(6)
    budget.spend(3)
    assert budget.chars == 2
    with pytest.raises(TemplateLimit, match="more than 2"):
        budget.spend(3)
    assert budget.chars == 2


def test_a_rendering_gets_16_mebi_and_64_for_each_character() -> None:
    with limited(10) as budget:
        assert (budget.chars, budget.seconds) == (16_777_216 + 640, 10.0)
        with limited(0, 0.5) as inner:
            assert (inner.chars, inner.seconds) == (16_777_216, 0.5)
            limits.joined(["ab"])
        assert (inner.chars, budget.chars) == (16_777_214, 16_777_216 + 640)


def test_the_clock_is_read_every_64_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts at the first reading; the time itself is not above the limit."""
    read: list[float] = []
    clock = iter([10.0, 12.0, 12.5])

    def now() -> float:
        read.append(next(clock))
        return read[-1]

    monkeypatch.setattr(time, "thread_time", now)
    budget = Budget(0, 2.0)
    seen = []
    for _ in range(191):
        budget.step()
        seen.append(len(read))
    assert [seen.index(number) + 1 for number in (1, 2)] == [64, 128]
    with pytest.raises(TemplateLimit, match="longer than 2 s"):
        budget.step()


@pytest.mark.parametrize(
    ("operator", "left", "right", "spent"),
    [
        ("+", "ab", "c", 3),
        ("+", [1], [2, 3], 3),
        ("+", (1,), (2,), 2),
        ("+", 1, 2, 0),
        ("*", "ab", 3, 6),
        ("*", 3, "ab", 6),
        ("*", [1, 2], 3, 6),
        ("*", "ab", -1, 0),
        ("*", 2.5, 2, 2),  # a number counts as one
        ("**", 2, BITS, 0),
        ("**", 2, -1, 0),
        ("%", "%d", 1, 0),
        ("-", 5, 3, 0),
    ],
)
def test_operations(operator: str, left: Any, right: Any, spent: int) -> None:
    found: list[Any] = []
    assert cost(lambda: found.append(calculated(operator, lambda a, b: (a, b), left, right))) == spent
    assert found == [(left, right)]
    if spent:
        with pytest.raises(TemplateLimit, match="more than"):
            cost(lambda: calculated(operator, lambda a, b: None, left, right), spent - 1)


def test_numbers_of_65536_bits_are_the_largest() -> None:
    half = 1 << (BITS - 1)
    assert cost(lambda: calculated("*", lambda a, b: None, half, half)) == 0
    for operator, left, right in (("*", 2 * half, half), ("**", 2, BITS + 1)):
        with pytest.raises(TemplateLimit, match="a number that is too large"):
            cost(functools.partial(calculated, operator, lambda a, b: None, left, right))


def test_pieces_of_output_cost_their_length() -> None:
    assert cost(lambda: limits.joined(iter(["ab", "", "c"]))) == 3
    assert cost(lambda: limits.concatenated(["ab", 12, None])) == 8
    assert cost(lambda: limits.sliced("abcdef", 1, 5, 2)) == 2
    assert [limits.size_of(value) for value in ("ab", b"abc", [1], (1, 2), {"a": 1}, range(7), 5, None)] == [
        2,
        3,
        1,
        2,
        1,
        7,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("text", "values", "needed"),
    [
        # the text, and for each mark the longest value and the largest width; numbers count 64
        ("%5d", (1,), 3 + 5 + 64),
        ("%s and %s", ("abc", "d"), 9 + 2 * 3),
        ("%.7f", (1.0,), 4 + 7 + 64),
        ("%*d", (30, 1), 3 + 30 + 64),
        ("%d %d", (30, 1), 5 + 2 * 64),  # without a star numbers are no widths
        ("plain", (), 5),
    ],
)
def test_a_percent_format(text: str, values: tuple[Any, ...], needed: int) -> None:
    assert least(lambda: calculated("%", lambda a, b: None, text, values)) == needed
    if len(values) == 1:
        assert least(lambda: calculated("%", lambda a, b: None, text, values[0])) == needed


@pytest.mark.parametrize(
    ("text", "values", "needed"),
    [
        ("{:>5}", ("abc",), 5 + 3 + 5),
        ("{0:.7}{1}", ("abc", "d"), 9 + 2 * (3 + 7)),
        ("{} {}", ("abc", "d"), 5 + 2 * 3),
        ("{:{}}", ("a", 20), 5 + 2 * (64 + 20)),
    ],
)
def test_a_brace_format(text: str, values: tuple[Any, ...], needed: int) -> None:
    sandboxed = jinja2.sandbox.SandboxedEnvironment().getattr(text, "format")
    assert least(lambda: called(sandboxed, values, {})) == needed


@pytest.mark.parametrize(("text", "values"), [("%1000000d", (1,)), ("%*d", (-1_000_000, 1))])
def test_a_width_of_a_million_is_the_largest(text: str, values: tuple[int, ...]) -> None:
    def run(text: str, values: tuple[int, ...]) -> None:
        cost(lambda: calculated("%", lambda a, b: None, text, values), 3_000_000)

    run(text, values)
    with pytest.raises(TemplateLimit, match="a width above 1000000"):
        run(text.replace("0d", "1d"), (values[0] - 1, *values[1:]))


@pytest.mark.parametrize(("args", "kwargs"), [((1_000_000,), {}), ((), {"width": -1_000_000})])
def test_a_million_is_the_largest_argument(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    assert cost(lambda: called(len, args, kwargs)) == 0
    args, kwargs = tuple(value + 1 for value in args), {name: value - 1 for name, value in kwargs.items()}
    with pytest.raises(TemplateLimit, match="a number above 1000000"):
        cost(lambda: called(len, args, kwargs))


@pytest.mark.parametrize(
    ("method", "args", "needed"),
    [
        ("abab".replace, ("a", "xyz"), 4 + 2 * 3),
        ("abab".replace, ("", "xyz"), 4 + 5 * 3),
        (", ".join, (["ab", "c"],), 2 * 2 + 3),
        ("a\tb".expandtabs, (20,), 3 + 20),
        ("a\tb".expandtabs, (-5,), 3),
        ("abc".translate, ({97: "xy", 98: "z"},), 3 * 2),
        ("abc".translate, ({},), 3),
        ("abc".upper, (), 0),
        ("abc".strip, ("a",), 0),
    ],
)
def test_methods_of_a_text(method: Any, args: tuple[Any, ...], needed: int) -> None:
    assert least(lambda: called(method, args, {})) == needed


@pytest.mark.parametrize("method", ["ab".replace, ", ".join, "abc".translate, "ab".upper])
def test_arguments_that_a_method_does_not_have_are_its_own_fault(method: Any) -> None:
    for args, kwargs in (((), {"x": ["a"]}), ((7,), {}), (({"a", "b"},), {})):
        assert cost(functools.partial(called, method, args, kwargs)) == 0


@pytest.mark.parametrize(
    ("name", "args", "spent", "needed"),
    [
        ("upper", ("abc",), 3, 3),
        ("replace", ("abab", "a", "xyz"), 8, 10),
        ("format", ("%5d", 1), 5, 72),
        ("indent", ("a\nb", 4), 7, 3 + 2 * 4),  # without a first line it makes less than is asked for
        ("tojson", ({"a": 1},), 8, 73 + 73 * 4),  # 1 + 64 + 8 for the pair; at most 4 more for each
        ("length", ([1, 2, 3],), 1, 1),
    ],
)
def test_filters(name: str, args: tuple[Any, ...], spent: int, needed: int) -> None:
    """What is needed is looked at before, what came out is taken off."""
    plain = jinja2.Environment().filters[name]
    run = bounded(name, plain)
    if hasattr(plain, "jinja_pass_arg"):
        args = (jinja2.nodes.EvalContext(jinja2.Environment()), *args)
    assert cost(lambda: run(*args)) == spent
    assert least(lambda: run(*args)) == needed


def test_a_join_counts_rounds_items_and_separators() -> None:
    run = bounded("join", jinja2.Environment().filters["join"])
    context = jinja2.nodes.EvalContext(jinja2.Environment())
    # two items of 2 and 1 characters and 8 each, and a separator for each
    assert least(lambda: run(context, iter(["ab", "c"]), ", ")) == 3 + 2 * 8 + 2 * 2
    assert cost(lambda: run(context, iter(["ab", "c"]), ", ")) == len("ab, c")
    assert least(lambda: run(context, ["ab", "c"])) == 3 + 2 * 8


def test_each_round_is_a_step() -> None:
    with limited(0) as budget:
        rounds = limits.Rounds([1, 2, 3])
        assert (list(rounds), len(rounds), budget.steps) == ([1, 2, 3], 3, 3)
        called(len, (), {})
        calculated("-", lambda a, b: None, 1, 2)
        assert budget.steps == 5
