import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

from alignloop.errors import DataError, UserError
from alignloop.records import Message, Prompt
from alignloop.rl.verifiers import (
    VERIFIERS,
    check_prompt,
    exact_match,
    final_number,
    instruction_reward,
    json_schema_reward,
    math_reward,
    passes,
    regex_reward,
)

ASK = (Message("user", "?"),)


def test_instruction_reward_is_the_share_of_satisfied_constraints():
    constraints = [{"kind": "max_words", "limit": 9}, {"kind": "lowercase"}, {"kind": "no_commas"}]
    assert instruction_reward("Rain falls when clouds cool.", constraints) == 2 / 3
    assert not passes("Rain falls when clouds cool.", constraints)
    assert instruction_reward("rain falls when clouds cool.", constraints) == 1.0
    assert passes("rain falls when clouds cool.", constraints)


@pytest.mark.parametrize("text", ["", "rain", "rain " * 50, "it falls from the sky " * 9])
def test_degenerate_completions_earn_nothing_though_they_obey(text):
    constraints = [{"kind": "lowercase"}, {"kind": "no_commas"}]
    assert instruction_reward(text, constraints) == 0.0
    assert not passes(text, constraints)


def test_repeating_the_prompt_earns_nothing():
    asked = "Tell me about rain. Write the whole answer without commas."
    prompt = Prompt((Message("user", asked),), constraints=({"kind": "no_commas"},))
    assert VERIFIERS["constraints"](asked, prompt) == 0.0
    # 4 of the 8 runs of three words are copied: half is too much.
    assert (
        VERIFIERS["constraints"]("Write the whole answer without commas. Rain falls often here.", prompt)
        == 0.0
    )
    assert VERIFIERS["constraints"]("The whole answer without rain falls from clouds.", prompt) == 1.0
    assert passes(asked, prompt.constraints)


def test_no_constraints_and_unknown_constraints_are_errors_even_for_empty_text():
    with pytest.raises(DataError, match="without constraints"):
        instruction_reward("text", [])
    with pytest.raises(DataError, match="accepted are"):
        instruction_reward("", [{"kind": "nonsense"}])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7 apples\n#### 7", 7),
        ("#### 5\nNo: #### $1,234.50 in total, 3 people", Fraction("1234.5")),
        ("so 12 and then 15.", 15),
        ("x = -3", -3),
        ("x = −3", -3),
        ("the answer is 1/3", Fraction(1, 3)),
        ("the answer is ½", Fraction(1, 2)),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        (r"so \boxed{42} of 50", 42),
        (r"\boxed{-1,000}", -1000),
        ("12,5", 5),  # no thousands separator
        ("１２", 12),
        ("x=7", 7),
        ("100%", 100),
        ("10-4", 4),
        ("1/0", 0),
        ("none", None),
        ("#### none, though 3 before", 3),
        ("3 #### none", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


def test_math_reward_compares_exactly():
    assert math_reward("it is 0.3", "3/10") == 1.0
    assert math_reward("it is 0.30000000000000004", "3/10") == 0.0
    assert math_reward("9007199254740993", "9007199254740992") == 0.0
    assert math_reward("no idea", "#### 3") == 0.0
    with pytest.raises(DataError, match="no number"):
        math_reward("3", "three")


def test_expressions_are_compared_as_mathematics():
    pytest.importorskip("math_verify", reason="math-verify comes with the extra 'verifiers'")
    assert math_reward(r"so it is \boxed{\frac{2}{4}}", r"\frac{1}{2}") == 1.0
    assert math_reward("so it is 0.5", r"\frac{1}{2}") == 1.0
    assert math_reward("so it is 2", r"\frac{1}{2}") == 0.0  # its last number
    assert math_reward("we get $1 + x^2$.", "x^2 + 1") == 1.0
    assert math_reward("", "x^2 + 1") == 0.0
    with ThreadPoolExecutor(1) as pool:  # where no signal can be waited for
        assert pool.submit(math_reward, r"\boxed{2\sqrt{2}}", r"$\sqrt{8}$").result() == 1.0
    with pytest.raises(DataError, match="no expression"):
        math_reward("1", r"\frac")


def test_expressions_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert math_reward("3 apples", "3") == 1.0
    with pytest.raises(UserError, match=r"alignloop\[verifiers\]"):
        math_reward("1/2", r"\frac{1}{2}")


def test_regex_reward():
    assert regex_reward("call 010-1234", r"\d{3}-\d{4}") == 1.0
    assert regex_reward("none", r"\d") == 0.0
    with pytest.raises(DataError, match="not a regular expression"):
        regex_reward("x", "(")


def test_catastrophic_pattern_is_stopped():
    start = (
        time.process_time()
    )  # the search is stopped by this process's own time, however busy the machine is
    assert regex_reward("a" * 60 + "b", r"^(a|aa)+$", timeout_s=0.2) == 0.0
    assert time.process_time() - start < 2


def test_json_schema_reward():
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    assert json_schema_reward('{"n": 3}', schema) == 1.0
    assert json_schema_reward('```json\n{"n": 3}\n```', schema) == 1.0
    assert json_schema_reward('{"n": "3"}', schema) == 0.0
    assert json_schema_reward("n: 3", schema) == 0.0
    with pytest.raises(DataError, match="not a JSON schema"):
        json_schema_reward("{}", '{"type": 5}')
    with pytest.raises(DataError, match="not a JSON schema"):
        json_schema_reward("{}", "{")


def test_exact_match_ignores_case_space_width_and_outer_punctuation():
    assert exact_match(" “Ｓeoul  City”. ", "seoul city") == 1.0
    assert exact_match("부산", "서울") == 0.0
    assert exact_match("50%", "50") == 0.0


def test_verifiers_read_the_prompt():
    constrained = Prompt(ASK, constraints=({"kind": "no_commas"},))
    assert VERIFIERS["constraints"]("rain falls when clouds cool", constrained) == 1.0
    assert VERIFIERS["math"]("it is 7", Prompt(ASK, answer="#### 7")) == 1.0
    assert VERIFIERS["regex"]("it is 7", Prompt(ASK, answer=r"\d$")) == 1.0
    assert VERIFIERS["json_schema"]("[]", Prompt(ASK, answer='{"type": "object"}')) == 0.0
    assert VERIFIERS["exact"]("Paris.", Prompt(ASK, answer="paris")) == 1.0


def test_check_prompt_finds_what_is_missing_before_sampling():
    check_prompt(Prompt(ASK, constraints=({"kind": "no_commas"},)), "constraints")
    with pytest.raises(DataError, match="needs constraints"):
        check_prompt(Prompt(ASK), "constraints")
    with pytest.raises(DataError, match="takes no arguments"):
        check_prompt(Prompt(ASK, constraints=({"kind": "no_commas", "n": 1},)), "constraints")
    with pytest.raises(DataError, match="reference answer"):
        check_prompt(Prompt(ASK), "math")
    with pytest.raises(DataError, match="no number"):
        check_prompt(Prompt(ASK, answer="three"), "math")
    with pytest.raises(DataError, match="not a regular expression"):
        check_prompt(Prompt(ASK, answer="("), "regex")
    with pytest.raises(UserError, match="accepted are constraints"):
        check_prompt(Prompt(ASK), "magic")
