import pytest

from alignloop.errors import ConfigError
from alignloop.evaluation.gate import RequirementError, enforce, judge, parse


def test_sentences_are_taken_apart():
    found = parse(" dpo.gsm8k.change_low>=-2e-2 ")
    assert (found.name, found.relation, found.bound) == ("dpo.gsm8k.change_low", ">=", -0.02)
    for odd in ("dpo > ", "> 3", "dpo = 3", "dpo > x", "dpo > 1 and b > 2", ""):
        with pytest.raises(ConfigError, match="is not of the form NAME RELATION NUMBER"):
            parse(odd)


@pytest.mark.parametrize(
    ("text", "met"),
    [("a > 0.5", False), ("a >= 0.5", True), ("a < 0.5", False), ("a <= 0.5", True), ("a > .4", True)],
)
def test_relations_at_the_bound(text, met):
    assert judge([text], {"a": 0.5})[0].met is met


def test_all_failures_are_told_with_what_was_measured():
    outcomes = judge(["a > 1", "b < 1", "a < 1"], {"a": 0.5, "b": 2.0})
    assert [row.met for row in outcomes] == [False, False, True]
    with pytest.raises(RequirementError, match=r"^2 of 3 requirements are not met: a > 1 \(measured 0\.5\)"):
        enforce(outcomes)
    enforce(outcomes[2:])
    assert RequirementError.exit_code == 5


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"'dpo\.winrate' was not measured; .* dpo\.win_rate"):
        judge(["dpo.winrate > 0"], {"dpo.win_rate": 0.5, "sft.length": 3.0})
