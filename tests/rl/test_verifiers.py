import time

import pytest

from alignloop.errors import DataError, UserError
from alignloop.records import Message, Prompt
from alignloop.rl.verifiers import (
    VERIFIERS,
    check_prompt,
    exact_match,
    instruction_reward,
    json_schema_reward,
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


def test_a_math_reference_without_an_answer_is_refused_before_sampling():
    for answer, why in (
        ("", "empty"),
        ('{"kind": "max_words", "n": 3}', "JSON"),
        (r"\frac", "no expression"),
    ):
        with pytest.raises(DataError, match=why):
            check_prompt(Prompt(ASK, answer), "math")
    check_prompt(Prompt(ASK, "three"), "math")
    assert VERIFIERS["math"]("three", Prompt(ASK, "Three.")) == 1.0


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
    with pytest.raises(DataError, match="empty"):
        check_prompt(Prompt(ASK, answer=" "), "math")
    with pytest.raises(DataError, match="not a regular expression"):
        check_prompt(Prompt(ASK, answer="("), "regex")
    with pytest.raises(UserError, match="accepted are constraints"):
        check_prompt(Prompt(ASK), "magic")
