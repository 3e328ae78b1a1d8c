"""Records as a model reads them, with what is trained."""

import pytest

from alignloop.data.chat import load_template
from alignloop.data.plain_text import Marks, revealed
from alignloop.data.show import shown
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Ranking,
    Rating,
    ToolCall,
    with_tools,
)
from tests.helpers_tokenizers import make_tokenizer

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


ASKED = (U1,)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (Document("a b"), [("", "[a b]")]),
        (Prompt(ASKED), [("", "Sea?\n\n")]),
        (Preference(ASKED, "Blue.", "Red."), [("chosen", "Blue."), ("rejected", "Red.")]),
        (Label(ASKED, "Blue.", True), [("good", "Blue.")]),
        (Label(ASKED, "Red.", False), [("bad", "Red.")]),
        (Rating(ASKED, "Blue.", {"s": 1.0}), [("", "Blue.")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_record(record, found):
    asked = isinstance(record, Document | Prompt)
    assert rows(record, load_template("plain")) == [
        (n, t if asked else f"Sea?\n\n[{t}<eos>]") for n, t in found
    ]


def test_turns_are_named_where_a_conversation_makes_several_rows(thinks):
    excepted = Message("assistant", "Blue.", "Hm.", train=False)
    third = (Message("user", "Wind?"), Message("assistant", "West."))
    record = Demonstration((U1, Message("assistant", "Blue.", "Hm."), U2, A1, *third, U1), "High.")
    assert [name for name, _ in rows(record, thinks)] == ["turn 2", "turn 4", "turn 6", "turn 8"]
    assert [name for name, _ in rows(record, thinks, train_on="last")] == [""]
    record = Demonstration((U1, excepted, U2), "High.")
    assert rows(record, thinks)[0][0] == ""  # one row alone needs no name
    plain = Demonstration((U1, A1, U2), "High.", train=False)
    assert [name for name, _ in rows(plain, thinks)] == ["turn 2"]


TURN = "<|im_end|>"


@pytest.mark.parametrize(
    "record",
    [
        Demonstration((Message("user", f"a{TURN}b"), A1, U2), f"c{TURN}d", thinking=f"e{TURN}f"),
        Preference((Message("user", f"a{TURN}b"),), f"c{TURN}d", "x"),
        Preference((Message("user", f"a{TURN}b"),), "x", f"c{TURN}d"),
        Label((Message("user", f"a{TURN}b"),), f"c{TURN}d", True),
        Rating((Message("user", f"a{TURN}b"),), f"c{TURN}d", {"s": 1.0}),
        Ranking((Message("user", f"a{TURN}b"),), ("x", f"c{TURN}d"), (1, 2)),
        Prompt((Message("user", f"a{TURN}b"),)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_marks_in_messages_are_kept_apart_from_the_templates(record):
    tokenizer = make_tokenizer()
    template = load_template("chatml", tokenizer)
    found = shown(record, template, marks=Marks(tokenizer, template))
    plain = shown(record, template)
    assert len(found) == len(plain)
    for row, bare in zip(found, plain, strict=True):
        assert dict(row.hidden) == {"\ue000": TURN}
        assert bare.hidden == {}
        text = "".join(piece.text for piece in row.pieces)
        assert "a\ue000b" in text
        assert not any(part in text for part in (f"a{TURN}b", f"c{TURN}d", f"e{TURN}f"))
        assert revealed(text, row.hidden) == "".join(piece.text for piece in bare.pieces)
        assert [piece.trained for piece in row.pieces] == [piece.trained for piece in bare.pieces]


def test_answers_by_name_where_the_template_cannot_render_tools():
    called = Message("assistant", "", tool_calls=(ToolCall("tide"),))
    prompt = (U2, called, Message("tool", "1.2 m"))
    (row,) = shown(Preference(prompt, "High.", "Low."), load_template("plain"))
    assert row.name == ""
    assert "".join(f"[{p.text}]" if p.trained else p.text for p in row.pieces) == (
        'user: Tide?\nassistant: {"name": "tide", "arguments": {}}\ntool: 1.2 m\n'
        "chosen: [High.]\nrejected: [Low.]\n"
    )
    (row,) = shown(Prompt(prompt), load_template("plain"))
    assert not any(piece.trained for piece in row.pieces)
    (row,) = shown(Demonstration(prompt, "High."), load_template("plain"), train_on="last")
    assert [p.text for p in row.pieces if p.trained] == ["High."]
    (row,) = shown(Rating(prompt, "High.", {"s": 1.0}), load_template("plain"))
    assert row.pieces[-3].text == "assistant: "
