"""The math verifier's rules, on answers as models and data sets write them."""

import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

from alignloop.errors import DataError
from alignloop.rl.math_answers import (
    _time_limit,
    check_reference,
    final_answer,
    plain_number,
    reference_number,
    same_answer,
)

EQUAL = [
    ("The answer is 1,234.50.", "1,234.5"),
    ("#### 1,000", "x\n#### 1000"),
    ("So $\\boxed{42}$.", "42"),
    ("So $\\boxed{1,234.50}$.", "1234.5"),
    ("$\\boxed{\\frac{1}{2}}$", "0.5"),
    ("$\\boxed{\\dfrac{3}{4}}$", "3/4"),
    ("$\\boxed{\\text{12 km}}$", "12"),
    ("$\\boxed{12\\text{ km}}$", "12"),
    ("$\\boxed{x=5}$", "5"),
    ("\\boxed{5} or maybe \\boxed{6}", "6"),
    ("$\\boxed{-3}$", "-3"),
    ("$\\boxed{−3}$", "-3"),
    ("$\\boxed{\\$1{,}234}$", "1234"),
    ("$\\boxed{1{,}234}$", "1234"),
    ("$\\boxed{1\\,234}$", "1234"),
    ("\\fbox{7}", "7"),
    ("\\boxed 7", "7"),
    ("Answer: $42", "42"),
    ("It is 42%.", "42"),
    ("so 6/8", "3/4"),
    ("1 1/2", "1.5"),
    ("1.5e3", "1500"),
    ("10**3", "1000"),
    ("１２", "12"),
    ("답은 12개입니다.", "12"),
    ("<think>maybe 7</think> 42", "42"),
    ("#### 42 apples (7 left)", "42"),
    ("#### -5", "-5"),
    ("12:30", "12:30"),
    ("the answer is 7 .", "7"),
    ("7.", "7"),
    ("7.0.", "7"),
    ("(7)", "7"),
    ("=7", "7"),
    ("#### \\$18", "18"),
    ("3 1/7", "22/7"),
    ("-0", "0"),
    ("pages 3–5", "5"),
    ("A) 5", "5"),
    ("the 2nd one is 9", "9"),
    ("9007199254740993", "9007199254740993"),
    ("$\\boxed{(1,2)}$", "(1,2)"),
    ("$\\boxed{12{,}345{,}678}$", "12345678"),
    ("\\boxed{4}", "\\sqrt{16}"),
    ("\\boxed{\\pi}", "\\pi"),
    ("\\boxed{90^\\circ}", "90"),
    ("\\boxed{90}", "90^\\circ"),
    ("\\boxed{\\$18}", "18"),
    ("\\boxed{18.}", "18"),
    ("$$\\boxed{\\frac{14}{3}}$$", "14/3"),
    ("\\boxed{\\frac12}", "1/2"),
    ("\\boxed{0.5}", "\\frac{1}{2}"),
    ("\\boxed{\\frac{-1}{2}}", "-0.5"),
    ("so it is $\\sqrt{16}$.", "4"),
    ("It costs $5 and then $6", "6"),
    ("\\(4\\)", "4"),
    ("**42**", "42"),
    ("The total is 24 clips.", "She sold 24 clips in all."),
    ("Therefore, x = \\frac{1}{2}", "0.5"),
    (r"we get $1 + x^2$.", "x^2 + 1"),
]
DIFFERENT = [
    ("\\boxed{50\\%}", "0.5"),
    ("0.333", "1/3"),
    ("1/3", "0.3333333333"),
    ("from 3-5", "-5"),
    ("H2O", "2"),
    ("", "5"),
    ("no", "5"),
    ("9007199254740992", "9007199254740993"),
    ("\\boxed{}", "5"),
    ("\\boxed{\\{1,2\\}}", "1"),
    ("$\\boxed{8}$", "2516_8"),
    ("$\\boxed{2}$", "(1,2)"),
    ("$\\boxed{5}$", "1e-5"),
    ("$\\boxed{3}$", "y=2x+3"),
    ("$\\boxed{1}$", "[0,1]"),
    ("$\\boxed{30}$", "12:30"),
    ("gives $x^{16}$.", "16"),
    ("12,5", "12.5"),
    ("\\boxed{5}", "5 or 6"),
    ("it is 0.30000000000000004", "3/10"),
]
REPEATED = [
    "#### 18",
    "$18",
    "(1,2)",
    "(3, \\frac{\\pi}{2})",
    "(C)",
    "-3",
    "-\\frac{2}{3}",
    "0.5",
    "1, 2, 3",
    "1,234.50",
    "1.0",
    "1/2",
    "10,\\!000",
    "1011_2",
    "10^{5}",
    "11 \\text{ cm}",
    "120^{\\circ}",
    "12:30",
    "1e-5",
    "1{,}000",
    "2, -2",
    "2516_8",
    "2\\sqrt{2}",
    "2x+3",
    "3:4",
    "3\\frac{1}{2}",
    "5 or 6",
    "5!",
    "6\\text{ PM}",
    "8\\frac12",
    "90^\\circ",
    "A",
    "[0,1]",
    "\\$36",
    "\\binom{5}{2}",
    "\\frac{1}{2}",
    "\\infty",
    "\\left(1,2\\right)",
    "\\pm 2",
    "\\sqrt 2",
    "\\text{(C)}",
    "\\text{Evelyn}",
    "\\{1,2\\}",
    "a+b",
    "n",
    "x>3",
    "x^2+1",
    "y=2x+3",
    "yes",
    "정답 18",
]
"""References that are right when a completion boxes them letter by letter."""


@pytest.mark.parametrize(("completion", "reference"), EQUAL)
def test_equal_answers(completion, reference):
    check_reference(reference)
    assert same_answer(completion, reference)


@pytest.mark.parametrize(("completion", "reference"), DIFFERENT)
def test_different_answers(completion, reference):
    check_reference(reference)
    assert not same_answer(completion, reference)


@pytest.mark.parametrize("reference", REPEATED)
def test_a_repeated_reference_is_right(reference):
    check_reference(reference)
    assert same_answer(f"We get $\\boxed{{{reference}}}$.", reference)
    assert not same_answer("We get $\\boxed{7777}$.", reference)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{\\frac{1}{2}} of it", ("\\frac{1}{2}", True)),
        ("\\boxed{\\text{a {b} c}}", ("\\text{a {b} c}", True)),
        ("\\boxed{1} then \\fbox{2}", ("2", True)),
        ("\\boxed{3", ("\\boxed{3", False)),
        ("a\n#### 12 apples\nmore", ("12 apples", True)),
        ("<think>\\boxed{1}</think> so 2", ("so 2", False)),
        ("\\boxed 7 of 9", ("7", True)),
        ("\\boxed{1} of $\\boxed$ 3", ("1", True)),
        ("of 9 \\boxed", ("of 9 \\boxed", False)),
        ("\\boxed{a \\} b} c", ("a \\} b", True)),
        ("1 ####", ("", True)),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("3\\frac{1}{7}", Fraction(22, 7)),
        ("-3 1/2", Fraction(-7, 2)),
        ("½", Fraction(1, 2)),
        ("2^{10}", Fraction(1024)),
        ("1.5e-3", Fraction(3, 2000)),
        ("x = −3", Fraction(-3)),
        ("12 km/h", Fraction(12)),
        ("(7)", Fraction(7)),
        ("(-7)", Fraction(-7)),
        ("(7", None),
        ("\\frac{-1}{2}", Fraction(-1, 2)),
        ("-3\\frac12", Fraction(-7, 2)),
        ("- 3", Fraction(-3)),
        ("+3", Fraction(3)),
        ("$ 3.50", Fraction(7, 2)),
        ("90^{\\circ}", Fraction(90)),
        ("10**3", Fraction(1000)),
        ("2^64", Fraction(2) ** 64),
        ("2^65", None),
        ("-2^2", Fraction(-4)),
        ("\\text{12}", Fraction(12)),
        ("1\\,000", Fraction(1000)),
        ("1{,}000", Fraction(1000)),
        ("⁄".join("12"), Fraction(1, 2)),
        ("9" * 400, Fraction(int("9" * 400))),
        ("1/0", None),
        ("3-5", None),
        ("(1,2)", None),
        ("x", None),
        ("9" * 401, None),
        ("2^999999", None),
    ],
)
def test_plain_number(text, number):
    assert plain_number(text) == number


@pytest.mark.parametrize(
    "completion",
    [
        "9" * 100_000,
        "\\boxed{" + "9" * 5000 + "}",
        "\\boxed{9^{9^{9^9}}}",
        "\\boxed{(10^9)!}",
        "\\boxed{99999!!}",
        "1 " * 50_000,
        "\\boxed{" * 20_000,
        "$" * 50_001,
        "1/" * 50_000,
        "\\frac{1" * 20_000,
    ],
)
@pytest.mark.parametrize("reference", ["5", "\\sqrt{2}"])
def test_a_hostile_completion_ends_in_time(completion, reference):
    started = time.process_time()
    assert not same_answer(completion, reference)
    assert time.process_time() - started < 3


def test_a_thread_without_signals_compares_as_well():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(same_answer, "\\boxed{2\\sqrt{2}}", "$\\sqrt{8}$").result()


def test_a_long_reference_is_refused():
    with pytest.raises(DataError, match="characters"):
        check_reference("9" * 4301)


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("42", 42),
        ("2 + 3 = 5\n#### 5 apples", 5),
        ("#### \\sqrt{2} of 3", None),
        ("\\boxed{x} #### 3 apples", None),
        ("The three of them have 12 apples", 12),
        ("about 12 apples", None),  # two words are no sentence
        ("there are 12 apples", 12),
        ("there are $12$ apples here", None),
        ("there are \\dots 12 apples here", None),
    ],
)
def test_number_of_a_reference(reference, number):
    found = reference_number(reference)
    assert found == (None if number is None else Fraction(number))


def test_time_is_limited_where_a_signal_can_be_waited_for():
    assert _time_limit() == 5
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_time_limit).result() is None
