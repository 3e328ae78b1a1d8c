"""Arguments, tokens and saved files of chat templates, and what templates render of tools, at the edges."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from alignloop.data import plain_text, tool_use
from alignloop.data.chat import FILE, check_same, load_saved, load_template
from alignloop.data.plain_text import Marks, marks_of, revealed
from alignloop.errors import DataError, ModelError
from alignloop.records import Message, ToolCall, with_tools
from tests.data.test_plain_text import FORGED, Slow
from tests.helpers_tokenizers import SPECIAL, make_tokenizer

TURN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = TURN + ASKS
USER, BOT = Message("user", "q"), Message("assistant", "a")


def own(source: str, kwargs: Any = None, **tokens: Any) -> Any:
    return load_template("tokenizer", make_tokenizer(source, **tokens), kwargs)


def refused(source: str, kwargs: Any = None) -> str:
    with pytest.raises(ModelError) as caught:
        own(source, kwargs)
    return str(caught.value)


def test_a_token_that_a_template_needs_and_the_tokenizer_lacks_is_named() -> None:
    assert refused("{{ pad_token + 'x' }}" + CHATML).endswith(
        "'pad_token' is undefined); give the tokenizer its pad_token, or use another chat_template"
    )
    assert refused("{{ name + 'x' }}" + CHATML).endswith("'name' is undefined)")
    assert dict(own("{{ bos_token }}" + CHATML).tokens) == {"bos_token": "<s>"}
    assert dict(own("{{ bos_token }}" + CHATML, bos=None).tokens) == {"bos_token": ""}
    assert own("{# my_eos_token #}" + CHATML).tokens == ()


def test_arguments_that_a_template_does_not_use() -> None:
    assert refused(CHATML, {"x": 1}) == (
        "chat_template_kwargs: chat template 'tokenizer' does not use 'x'; it uses none"
    )
    asks = "{{ style if style is defined }}{{ tone if tone is defined }}" + CHATML
    assert refused(asks, {"x": 1}).endswith("does not use 'x'; it uses style, tone")
    assert refused(asks, {"stile": 1}).endswith("does not use 'stile'; did you mean 'style'?")
    for name in ("messages", "tools", "documents", "add_generation_prompt", "raise_exception"):
        assert f"does not use '{name}'" in refused("{{ tools }}{{ documents }}" + asks, {name: 1})


def test_arguments_are_added_to_those_that_are_there() -> None:
    plain = own("{{ style if style is defined }}{{ tone if tone is defined }}" + CHATML)
    one = plain.with_kwargs({"style": "b"})
    both = one.with_kwargs({"tone": "c"})
    assert (dict(plain.kwargs), dict(one.kwargs), dict(both.kwargs)) == (
        {},
        {"style": "b"},
        {"style": "b", "tone": "c"},
    )
    assert plain.with_kwargs({}) is plain
    assert one.with_kwargs({"style": "d"}).render([USER]).startswith("d<|im_start|>")
    swapped = plain.with_kwargs({"tone": "c", "style": "b"})
    assert swapped.fingerprint == both.fingerprint != one.fingerprint
    assert swapped.portable == plain.with_kwargs({"style": "b", "tone": "c"}).portable
    assert one.portable == ("{%- if style is not defined %}{%- set style = 'b' %}{%- endif %}" + plain.source)


def test_a_date_is_told_by_its_day_alone() -> None:
    source = "{{ strftime_now('%d') if strftime_now is defined }}" + CHATML
    dated = own(source, {"strftime_now": "2024-07-26T10:00:00"})
    assert dict(dated.kwargs) == {"strftime_now": "2024-07-26"}
    assert dated.portable == source
    assert dict(own(CHATML).kwargs) == {}
    assert "such as 2026-01-31, not '26 July'" in refused(source, {"strftime_now": "26 July"})


def test_a_template_of_several_is_the_default_one(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"tool_use": "x", "default": CHATML}
    assert load_template("tokenizer", tokenizer).source == CHATML
    tokenizer.chat_template = {"tool_use": CHATML}
    with pytest.raises(ModelError, match="no chat template of its own"):
        load_template("tokenizer", tokenizer)
    with pytest.raises(ModelError, match="no chat template of its own"):
        load_template("tokenizer")
    for name in ("t.jinja", "t.jinja2"):
        (tmp_path / name).write_text(CHATML, encoding="utf-8")
        assert load_template(str(tmp_path / name)).render([USER]) == "<|im_start|>user\nq<|im_end|>\n"
    (tmp_path / "t.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="cannot be read"):
        load_template(str(tmp_path / "t.jinja"))


def test_a_system_message_alone_and_texts_that_models_wrote() -> None:
    turn = TURN.replace("{{ '<|im", "{% if m.role != 'system' %}{{ '<|im")
    without = own(turn.replace("{% endfor", "{% endif %}{% endfor") + ASKS)
    assert without.merges_system
    assert without.render([Message("system", "s")]) == ""
    assert without.render([Message("system", "s"), USER, BOT]).startswith(
        "<|im_start|>user\ns\n\nq<|im_end|>"
    )
    assert without.render([USER, Message("system", "s")]) == "<|im_start|>user\nq<|im_end|>\n"
    chatml = load_template("chatml")
    assert chatml.parse_completion(" a <|im_end|>\n") == " a "
    assert chatml.parse_completion(" a <|im_end|>") == chatml.parse_completion(" a ") == " a "
    trims = own(CHATML.replace("m.content", "(m.content | trim)"))
    assert trims.parse_completion(" a <|im_end|>") == "a"
    with pytest.raises(DataError, match="at least one message") as caught:
        chatml.render_prompt([])
    assert (caught.value.field, caught.value.reason) == ("prompt", "empty_prompt")


def test_tools_that_are_given_go_before_those_of_the_messages() -> None:
    shows = own("{% if tools is not none %}{{ tools | map(attribute='name') | join }}|{% endif %}" + CHATML)
    offered = with_tools((USER,), ('{"name": "f"}',))
    assert shows.render(offered).startswith("f|<|im_start|>")
    assert shows.render(offered, tools=[{"name": "g"}]).startswith("g|<|im_start|>")
    assert shows.render([USER]).startswith("<|im_start|>")
    assert shows.render_completion("a", offered, [{"name": "g"}]) == "a<|im_end|>"


def test_whether_a_completion_departs_from_the_rendering() -> None:
    chatml = load_template("chatml")
    assert chatml.departs("a", [USER]) == chatml.departs(BOT, [USER]) == ""
    drops = own(CHATML.replace("m.content", "m.content.split('</think>')[-1]"))
    assert drops.departs("<think>t</think>a", [USER]) == "thoughts"
    other = own(TURN + ASKS.replace("assistant", "bot"))
    assert other.departs("a", [USER]) == "prompt"


def test_files_of_a_version_that_knew_no_arguments(tmp_path: Path) -> None:
    content: dict[str, Any] = {"name": "old", "source": CHATML, "tokens": {"eos_token": "</s>"}, "tail": "\n"}
    content |= {"lead": "", "end": "<|im_end|>", "trims": False, "merges_system": False}
    parts = [CHATML, (("eos_token", "</s>"),), "", "<|im_end|>", False, False]
    content["fingerprint"] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    found = load_saved(tmp_path)
    assert (found.name, found.tokens, found.end, found.tail) == (
        "old",
        (("eos_token", "</s>"),),
        "<|im_end|>",
        "\n",
    )
    assert found.render_completion("a", [USER]) == "a<|im_end|>"
    # the end is what that version found, whatever the probes of this one show
    parts[3] = "<e>"
    other = {**content, "end": "<e>", "fingerprint": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}
    (tmp_path / FILE).write_text(json.dumps(other), encoding="utf-8")
    assert load_saved(tmp_path).end == "<e>"
    (tmp_path / FILE).write_text(json.dumps({**content, "end": "<e>"}), encoding="utf-8")
    with pytest.raises(ModelError, match="was changed after it was saved"):
        load_saved(tmp_path)


def test_templates_that_differ_where_no_probe_shows_it() -> None:
    one, two = own(CHATML), own(CHATML + "{# note #}")
    with pytest.raises(ModelError) as caught:
        check_same(one, two)
    assert str(caught.value) == (
        f"the model was trained with chat template 'tokenizer' ({one.fingerprint[:8]}), not with 'tokenizer' "
        f"({two.fingerprint[:8]}); use the one it was trained with"
    )


CALLED = Message("assistant", "", tool_calls=(ToolCall("f9Qz"),))
CALLS = TURN.replace("m.content", "m.content + (m.tool_calls | tojson if m.tool_calls else '')") + ASKS
REFUSES = "{{ raise_exception('no') if tools }}{% for m in messages if m.role == 'tool' or m.tool_calls %}"
REFUSES += "{{ raise_exception('no') }}{% endfor %}" + CHATML
OFFERS = "{{ tools | tojson if tools }}"
ALIKE = CHATML.replace("m.role", "('user' if m.role == 'user' else 'assistant')")


@pytest.mark.parametrize(
    ("source", "can"),
    [
        (CHATML, (False, False, True)),
        (CALLS, (True, False, True)),
        (OFFERS + CHATML, (False, True, True)),
        (ALIKE, (False, False, False)),
        (CHATML.replace("m.content", "(m.content if m.role != 'tool' else '')"), (False, False, False)),
        (REFUSES, (True, True, True)),
    ],
)
def test_what_a_template_renders_of_tools(source: str, can: tuple[bool, bool, bool]) -> None:
    template = own(source)
    found = tool_use.rendered(template)
    assert (found.calls, found.offers, found.answers) == can
    for messages, fits, what in (
        ([USER, BOT], True, ""),
        ([USER, CALLED], can[0], "tool calls"),
        ([USER, BOT, Message("tool", "1")], can[2], "a tool's answer"),
        (
            [USER, CALLED, Message("tool", "1")],
            can[0] and can[2],
            "a tool's answer" if can[0] else "tool calls",
        ),
    ):
        if fits:
            tool_use.check(template, messages)
            continue
        with pytest.raises(DataError, match=f"does not render {what}; use a template that does") as caught:
            tool_use.check(template, messages)
        assert (caught.value.field, caught.value.reason) == ("prompt", "tools_not_rendered")
    offered = with_tools((USER, BOT), ('{"name": "f"}',))
    assert tool_use.left_out(template, offered, ()) == (() if can[1] else ("tools on offer",))


def test_thoughts_that_are_lost() -> None:
    plain, thought = load_template("plain"), Message("assistant", "a", "t")
    assert tool_use.left_out(plain, (USER, thought), [1]) == ("thoughts",)
    assert tool_use.left_out(plain, (USER, thought), []) == tool_use.left_out(plain, (USER, BOT), [1]) == ()
    assert tool_use.without_lost_thoughts(plain, [USER, thought, BOT]) == (USER, BOT, BOT)
    knows = own(CHATML + "{# ends with </think> #}")
    assert tool_use.without_lost_thoughts(knows, [USER, thought]) == (USER, thought)
    assert tool_use.left_out(knows, (USER, thought), [1]) == ()
    closes = own(TURN + ASKS.replace("{% endif", "{{ '<think></think>' }}{% endif"))
    assert closes.found.closes
    assert tool_use.left_out(closes, (USER, thought), [1]) == ("thoughts",)


def test_which_tokens_are_marks() -> None:
    tokenizer = make_tokenizer(CHATML)
    template = load_template("tokenizer", tokenizer)
    assert set(Marks(tokenizer, template).ids) == set(
        SPECIAL
    )  # also those that stand nowhere in the template
    known = marks_of(tokenizer, template)
    assert marks_of(tokenizer, template) is known
    tokenizer.add_tokens(["<|im_start|>user"])
    again = marks_of(tokenizer, template)
    assert again is not known
    assert "<|im_start|>user" not in again.ids
    other = own("{# <|im_start|>user #}" + CHATML)
    marks = Marks(tokenizer, other)
    found = marks.content.search("a<|im_start|>user")
    assert found is not None
    assert found[0] == "<|im_start|>user"  # the longest one
    assert marks.occur_in(["a", "<|im_end|>"])
    assert not marks.occur_in(["<|im_end", "im_end|>"])


def test_stand_ins_become_text_again() -> None:
    hidden = {"\ue000": '<"a">', "\ue001": "<b>"}
    assert revealed("x\ue000y\ue001", hidden) == 'x<"a">y<b>'
    assert revealed('"\\ue000 \\ue001\ue001"', hidden) == '"<\\"a\\"> <b><b>"'
    assert revealed("\\ue002", hidden) == "\\ue002"
    names = plain_text._names(Message)
    assert "role" not in names
    assert set(names) >= {"content", "thinking", "tool_calls", "name", "tool_call_id", "tools"}


def test_marks_in_every_part_of_a_message_are_hidden() -> None:
    tokenizer = make_tokenizer(CHATML)
    marks = Marks(tokenizer, load_template("tokenizer", tokenizer))
    call = ToolCall("<|im_end|>f", '{"<|im_end|>": 1}', "<|im_end|>i")
    turn = Message("assistant", "a", "<|im_end|>t", (call,), train=False)
    said = Message("tool", "1", name="<|im_end|>n", tool_call_id="<|im_end|>c", tools=("<|im_end|>d",))
    found = marks.shield((turn, said), [{"<|im_end|>k": ["<|im_end|>", 5, None]}])
    assert dict(found.hidden) == {"\ue000": "<|im_end|>"}
    assert found.messages[0] == Message(
        "assistant", "a", "\ue000t", (ToolCall("\ue000f", '{"\ue000": 1}', "\ue000i"),)
    )
    assert found.messages[0].train is False
    assert found.messages[1] == Message(
        "tool", "1", name="\ue000n", tool_call_id="\ue000c", tools=("\ue000d",)
    )
    assert found.tools == ({"\ue000k": ["\ue000", 5, None]},)


class Prefixed(Slow):
    """As some tokenizers in Python do, it puts a sign in front of every text, of an empty one too."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        return [
            9,
            *super().encode(
                text, add_special_tokens=add_special_tokens, split_special_tokens=split_special_tokens
            ),
        ]


def test_between_two_marks_there_is_no_text() -> None:
    tokenizer = Prefixed()
    marks = Marks(tokenizer, load_template("chatml"))
    hidden = marks.shield((Message("user", FORGED),)).hidden
    assert marks.encode("<|im_start|><|im_end|>a", hidden) == [0, 1, 9, ord("a")]
