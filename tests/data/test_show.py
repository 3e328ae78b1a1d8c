"""Records as a model reads them, with what is trained."""

import pytest

from alignloop.data.chat import load_template
from alignloop.data.show import shown
from alignloop.records import Demonstration, Label, Message, Prompt, Ranking, ToolCall, with_tools

U1, A1, U2 = Message("user", "Sea?"), Message("assistant", "Blue."), Message("user", "Tide?")
THINKS = (
    "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}{{ m.content + '<end>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def thinks(tmp_path):
    (tmp_path / "thinks.jinja").write_text(THINKS, encoding="utf-8")
    return load_template(str(tmp_path / "thinks.jinja"))


def rows(record, template, **keys):
    return [
        (row.name, "".join(f"[{p.text}]" if p.trained else p.text for p in row.pieces))
        for row in shown(record, template, **keys)
    ]


def test_trained_turns_stand_out():
    plain = load_template("plain")
    record = Demonstration((U1, A1, U2), "High.")
    assert rows(record, plain) == [("", "Sea?\n\n[Blue.<eos>]\n\nTide?\n\n[High.<eos>]")]
    assert rows(record, plain, train_on="last") == [("", "Sea?\n\nBlue.<eos>\n\nTide?\n\n[High.<eos>]")]
    record = Demonstration((U1, A1, U2), "High.", train=False)
    assert rows(record, plain) == [("", "Sea?\n\n[Blue.<eos>]")]


def test_a_turn_that_is_a_row_of_its_own_is_shown_so(thinks):
    record = Demonstration((U1, Message("assistant", "Blue.", "Hm."), U2), "High.")
    asked = "user: Sea?<end>\nassistant: "
    assert rows(record, thinks) == [
        ("turn 2", f"{asked}[<think>Hm.</think>Blue.<end>]"),
        ("turn 4", f"{asked}Blue.<end>\nuser: Tide?<end>\nassistant: [<think></think>High.<end>]"),
    ]


def test_what_the_template_leaves_out_is_said(thinks):
    record = Demonstration(with_tools((U1,), ('{"name": "tide"}',)), "Blue.", thinking="Hm.")
    plain = load_template("plain")
    assert [row.remark for row in shown(record, plain)] == [
        "not rendered by chat template 'plain': tools on offer, thoughts"
    ]
    assert [row.remark.rpartition(": ")[2] for row in shown(record, thinks)] == ["tools on offer"]
    assert shown(Prompt((U1,)), plain)[0].remark == ""


def test_tools_are_shown_by_role_where_the_template_cannot_render_them():
    called = Message("assistant", "", tool_calls=(ToolCall("tide", '{"at": "Busan"}'),))
    prompt = with_tools((U2, called, Message("tool", "1.2 m", name="tide")), ('{"name": "tide"}',))
    (row,) = shown(Demonstration(prompt, "High."), load_template("plain"))
    assert "does not render tool calls" in row.remark
    text = "".join(f"[{p.text}]" if p.trained else p.text for p in row.pieces)
    assert text == (
        'tool on offer: {"name": "tide"}\n'
        "user: Tide?\n"
        'assistant: [{"name": "tide", "arguments": {"at": "Busan"}}]\n'
        "tool tide: 1.2 m\n"
        "assistant: [High.]\n"
    )
    (row,) = shown(Label(prompt, "High.", True), load_template("plain"))
    assert [p.text for p in row.pieces if p.trained] == ["High."]


def test_every_answer_of_a_ranking_is_a_row():
    found = rows(Ranking((U1,), ("Blue.", "Red."), (1, 2)), load_template("plain"))
    assert found == [("rank 1", "Sea?\n\n[Blue.<eos>]"), ("rank 2", "Sea?\n\n[Red.<eos>]")]
