"""What is found out about a template, for renderers of a few lines, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from alignloop.data import template_limits, template_render
from alignloop.data.template_probe import ASK, PROBE, Render, Row, TemplateTraits, examine
from alignloop.errors import DataError


def rendering(
    turn: str = "[bot] {text}</e>\n",
    *,
    prompt: str = "[bot] ",
    user: str = "[user] {text}\n",
    system: str = "[sys] {text}\n",
    calls: str = "",
    thoughts: str = "",
    always: bool = False,
) -> Render:
    """Renders each message by the form of its role; `thoughts` stands before a turn that has some."""

    def render(rows: Sequence[Row], add_generation_prompt: bool) -> str:
        text = ""
        for row in rows:
            if row["role"] == "assistant":
                thought = thoughts.format(thought=row.get("reasoning_content")) if "thinking" in row else ""
                content = row["content"] + (calls if row.get("tool_calls") else "")
                text += turn.format(text=thought + content)
            else:
                form = user if row["role"] == "user" else system
                text += form.format(text=row["content"])
        return text + (prompt if add_generation_prompt or always else "")

    return render


def findings(source: str = "", added: Sequence[str] = ("[user]",), **forms: Any) -> TemplateTraits:
    return examine(source, rendering(**forms), "<eos>", "<bos>", added)


def test_a_plain_template() -> None:
    assert findings() == TemplateTraits(
        **{"lead": "", "end": "</e>", "tail": "\n", "ends": True, "gap": "", "trims": False},
        **{"merges_system": False, "prompts": True, "thought": ("", ""), "opening": "", "closes": False},
        **{"after_thought": "\n\n", "takes_thinking": False, "tool_marks": ()},
    )  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("forms", [{"turn": "{text}{text}"}, {"turn": "nothing"}, {"user": "nothing\n"}])
def test_each_message_is_rendered_once(forms: dict[str, str]) -> None:
    with pytest.raises(DataError, match="does not render each message once") as caught:
        findings(**forms)
    assert caught.value.reason == "template_incomplete"


@pytest.mark.parametrize(
    ("forms", "added", "end"),
    [
        ({}, ["[user]"], ("[user]", "", False, "\n")),
        ({}, [], ("<eos>", "", False, "\n")),
        ({"user": "{text}\n"}, ["[user]"], ("<eos>", "", False, "\n")),
        ({"user": "so [user] {text}\n"}, ["[user]"], ("<eos>", "", False, "\n")),
    ],
)
def test_a_turn_that_the_template_does_not_end(forms: Any, added: list[str], end: Any) -> None:
    found = findings(turn="[bot] {text}\n", added=added, **forms)
    assert (found.end, found.tail, found.ends, found.gap) == end


@pytest.mark.parametrize(
    ("forms", "end", "tail"),
    [
        ({"turn": "[bot] {text}</e>\n"}, "</e>", "\n[bot] "),
        ({"turn": "[bot] {text} ok </e>\n"}, " ok </e>", "\n[bot] "),
        # a turn ends with the mark with which each message begins, too
        (
            {"turn": "<e>bot {text}<e>\n", "user": "<e>user {text}<e>\n", "prompt": "<e>bot "},
            "<e>",
            "\n<e>bot ",
        ),
        ({"user": "{text}\n"}, "</e>\n[bot]", " "),  # no mark in front: all of it is the end
        ({"user": "<bos>[bot] {text}\n"}, "</e>", "\n[bot] "),
    ],
)
def test_a_generation_prompt_that_comes_unasked(forms: dict[str, str], end: str, tail: str) -> None:
    forms = {"user": "[bot] {text}\n", **forms}
    found = findings(always=True, **forms)
    assert (found.end, found.tail, found.ends, found.prompts) == (end, tail, True, True)


def test_what_stands_before_an_answer() -> None:
    assert findings(turn="[bot] > {text}</e>").lead == "> "
    assert findings(turn="[BOT] {text}</e>").lead == ""  # the whole does not begin with the prompt
    without = findings(prompt="")
    assert (without.lead, without.prompts) == ("[bot] ", False)
    assert findings(prompt="", turn=" {text}</e>").prompts  # nothing is to be said before an answer


def test_white_space_and_system() -> None:
    assert not findings().merges_system
    assert findings(system="").merges_system
    assert not findings().trims

    def trimmed(rows: Sequence[Row], add_generation_prompt: bool) -> str:
        bare = [{**row, "content": row["content"].strip()} for row in rows]
        return rendering()(bare, add_generation_prompt)

    assert examine("", trimmed, "", "", ()).trims

    def without_system(rows: Sequence[Row], add_generation_prompt: bool) -> str:
        if rows[0]["role"] == "system":
            raise DataError("no system")
        return rendering()(rows, add_generation_prompt)

    assert examine("", without_system, "", "", ()).merges_system


@pytest.mark.parametrize(
    ("thoughts", "source", "found"),
    [
        ("<t>{thought}</t>\n", "", (("<t>", "</t>"), "\n", True)),
        ("[T]\n{thought}\n[/T]", "", (("[T]", "[/T]"), "", True)),
        ("<t>so {thought}</t>", "", (("<t>so", "</t>"), "", True)),
        ("<t>so: {thought}</t>", "", (("", ""), "\n\n", True)),
        ("hm {thought}</t>", "<think>", (("", ""), "\n\n", True)),
        ("<t>{thought} so ", "</think>", (("<think>", "</think>"), "\n\n", True)),
        ("<t>{thought}</t> so", "[/THINK]", (("[THINK]", "[/THINK]"), "\n\n", True)),
        ("", "split('</thinking>')", (("<thinking>", "</thinking>"), "\n\n", False)),
        ("", "</think> and </seed:think>", (("<think>", "</think>"), "\n\n", False)),
        ("", "", (("", ""), "\n\n", False)),
    ],
)
def test_marks_of_thoughts(thoughts: str, source: str, found: Any) -> None:
    seen = findings(source, thoughts=thoughts, turn="bot: {text}</e>\n", prompt="bot: ")
    assert (seen.thought, seen.after_thought, seen.takes_thinking) == found


@pytest.mark.parametrize(
    ("prompt", "opening", "closes"),
    [
        ("[bot] ", "", False),
        ("[bot] <think>\n", "<think>\n", False),
        ("[bot] <think></think>\n", "", True),
        ("[bot] <think></think><think>", "<think>", False),
        ("[bot] </think>", "", False),  # closed, but never begun
    ],
)
def test_thoughts_in_the_generation_prompt(prompt: str, opening: str, closes: bool) -> None:
    found = findings("</think>", prompt=prompt)
    assert (found.opening, found.closes) == (opening, closes)
    assert (findings("", prompt=prompt).opening, findings("", prompt=prompt).closes) == ("", False)


@pytest.mark.parametrize(
    ("calls", "marks"),
    [
        ("<call>f</call>", ("<call>", "</call>")),
        ("<call>f</call><call>g</call>", ("<call>", "</call>")),
        ("[CALL]f", ("[CALL]",)),
        ("[CALL]f[STOP]", ("[CALL]",)),  # what ends the turn is no mark of a call
        ("f[STOP]", ()),
        ("[CALL]f[/CALL]", ("[CALL]", "[/CALL]")),
        ("f", ()),
    ],
)
def test_marks_of_tool_calls(calls: str, marks: tuple[str, ...]) -> None:
    assert findings(turn="[bot] {text}\n", calls=calls).tool_marks == marks


def test_a_template_that_refuses_probes_beyond_the_first_has_none_of_it() -> None:
    def plain(rows: Sequence[Row], add_generation_prompt: bool) -> str:
        if len(rows) > 2 or any(set(row) - {"role", "content"} for row in rows) or rows[0] != ASK:
            raise DataError("only a question and an answer")
        return rendering("{text}\n", prompt="")(rows, add_generation_prompt)

    found = examine("", plain, "<eos>", "", ["[user]"])
    assert (found.end, found.thought, found.tool_marks, found.merges_system) == ("<eos>", ("", ""), (), True)
    assert PROBE not in found.lead


def render(source: str, day: str = "", **values: Any) -> str:
    return template_render.render(source, 0, values, day)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ {'b': '가', 'a': [1, 2]} | tojson }}", '{"b": "가", "a": [1, 2]}'),
        ("{{ {'b': '가'} | tojson(ensure_ascii=true) }}", '{"b": "\\uac00"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{{ '<a>&' | tojson }}", '"<a>&"'),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% generation %}a{% set b = 'c' %}{{ b }}{% endgeneration %}", "ac"),
        ("{{ ', '.join(['a', 'b'] | map('upper')) }}", "A, B"),
        ("{{ '-'.join(('a', 'b')) }}{{ '-'.join(['c', 'd']) }}", "a-bc-d"),
        ("{{ 'abcdef'[1:] }} {{ 'abcdef'[:2] }} {{ 'abcdef'[::2] }} {{ 'abc'[1] }}", "bcdef ab ace b"),
        ("{{ strftime_now is defined }} {{ tools is none }} {{ documents is none }}", "False True True"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
    ],
)
def test_what_a_template_renders(source: str, text: str) -> None:
    assert render(source) == text


def test_a_template_tells_the_day_that_it_is_given() -> None:
    source = "{{ strftime_now('%d %b %Y %H:%M') }}"
    assert render(source, "2024-07-26") == "26 Jul 2024 00:00"
    with pytest.raises(template_render.FAULTS, match="undefined"):
        render(source)
    assert template_render.variables(source + "{{ tools }}") == {"strftime_now", "tools"}
    assert render("{{ tools }}", tools=5) == "5"


def test_names_of_a_namespace_and_reasons_of_a_template() -> None:
    with pytest.raises(template_render.FAULTS, match="names with an underscore in front are not allowed"):
        render("{% set n = namespace() %}{% set n._a = 2 %}")
    with pytest.raises(template_render.FAULTS, match=r"^only users$"):
        render("{{ raise_exception('only users') }}")


def test_results_of_calls_add_up() -> None:
    """16 777 216 characters may be made in all; each call here makes a million."""
    source = "{% for k in range(ROUNDS) %}{% set x = 'a'.ljust(1000000) %}{% endfor %}"
    assert render(source.replace("ROUNDS", "16")) == ""
    with pytest.raises(template_limits.TemplateLimit, match="it makes a text or list of more than"):
        render(source.replace("ROUNDS", "17"))


def test_a_templates_own_text_may_have_so_many_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SOURCE", 10)
    assert render("1234567890") == "1234567890"
    with pytest.raises(template_limits.TemplateLimit, match="its text has 11 characters, more than 10"):
        render("12345678901")
