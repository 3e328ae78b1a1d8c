"""Which tokens of a conversation are trained, derived by hand from texts of one token per character."""

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignloop.data.chat import load_template
from alignloop.data.overlength import fit_turns
from alignloop.data.packing import collate
from alignloop.data.tokenize import Encoder, tokenize
from alignloop.data.tool_use import check, left_out, rendered
from alignloop.data.trained_turns import demonstration_groups
from alignloop.errors import DataError
from alignloop.records import Demonstration, Label, Message, Preference, ToolCall, with_tools
from alignloop.stages.held_out import hold_out

MARKS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<call>", "</call>", "<tools>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ '<tools>' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<call>' + call.function.name"
    " + (call.function.arguments | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As the Qwen3 family does: thoughts of turns before the last question are dropped, later ones always there.
THINKS = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
U1, A1, U2, A2 = (
    Message("user", "Sea?"),
    Message("assistant", "Blue."),
    Message("user", "Tide?"),
    Message("assistant", "High."),
)
CALL = Message("assistant", "", tool_calls=(ToolCall("tide", '{"at": "Busan"}'),))
ANSWER = Message("tool", "1.2 m")
TWO = Demonstration((U1, A1, U2), "High.")


def tokenizer_of(template):
    signs = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {sign: place for place, sign in enumerate(signs)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(MARKS)
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    found.chat_template = template
    return found


def encoder_of(template, **settings):
    tokenizer = tokenizer_of(template)
    return Encoder(tokenizer, load_template("tokenizer", tokenizer), **settings)


def text(encoder, ids):
    return encoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def seen(encoder, group):
    """Prompt, and the completion with what counts in brackets."""
    (item,) = group.completions
    parts, inside = [], False
    for token, counts in zip(item.ids, item.mask, strict=True):
        counts = bool(counts)
        parts += ["["] * (counts and not inside) + ["]"] * (inside and not counts)
        parts.append(text(encoder, [token]))
        inside = counts
    return text(encoder, group.prompt_ids), "".join(parts) + "]" * inside


ASKED = "<|im_start|>user\nSea?<|im_end|>\n<|im_start|>assistant\n"
BETWEEN = "\n<|im_start|>user\nTide?<|im_end|>\n<|im_start|>assistant\n"


def test_both_answers_of_a_conversation_count():
    encoder = encoder_of(CHATML)
    made = demonstration_groups(encoder, TWO, 7)
    (group,) = made.groups
    assert seen(encoder, group) == (ASKED, f"[Blue.<|im_end|>]{BETWEEN}[High.<|im_end|>]")
    assert (group.index, made.turns, made.truncated) == (7, 2, 0)


def test_the_tokens_are_those_of_the_rendered_conversation():
    encoder = encoder_of(CHATML)
    (group,) = demonstration_groups(encoder, TWO).groups
    rows = [{"role": m.role, "content": m.content} for m in (U1, A1, U2, A2)]
    whole = encoder.tokenizer.apply_chat_template(rows, tokenize=False).removesuffix("\n")
    assert [*group.prompt_ids, *group.completions[0].ids] == encoder.tokenizer.encode(whole)


def test_the_last_turn_alone():
    encoder = encoder_of(CHATML)
    (group,) = demonstration_groups(encoder, TWO, train_on="last").groups
    assert seen(encoder, group) == (ASKED + "Blue.<|im_end|>" + BETWEEN, "[High.<|im_end|>]")
    assert np.array_equal(group.prompt_ids, encoder.prompt((U1, A1, U2)))


def test_a_single_answer_has_the_tokens_of_prompt_and_completion():
    encoder = encoder_of(CHATML)
    groups = [
        *demonstration_groups(encoder, Demonstration((U1,), "Blue.")).groups,
        encoder.group(Demonstration((U1,), "Blue.")),
    ]
    for group in groups:
        assert np.array_equal(group.prompt_ids, encoder.prompt((U1,)))
        assert np.array_equal(group.completions[0].ids, encoder.completion("Blue.", (U1,)))
        assert group.completions[0].mask.all()
        assert group.key == b""


@pytest.mark.parametrize(
    ("first", "last", "completion"),
    [
        (False, None, (ASKED + "Blue.<|im_end|>" + BETWEEN, "[High.<|im_end|>]")),
        (None, False, (ASKED, "[Blue.<|im_end|>]")),
        (True, True, (ASKED, f"[Blue.<|im_end|>]{BETWEEN}[High.<|im_end|>]")),
    ],
)
def test_a_turn_of_weight_0_is_not_trained(first, last, completion):
    encoder = encoder_of(CHATML)
    record = Demonstration((U1, Message("assistant", "Blue.", train=first), U2), "High.", train=last)
    (group,) = demonstration_groups(encoder, record).groups
    assert seen(encoder, group) == completion


def test_a_turn_of_weight_0_between_trained_ones_is_context():
    encoder = encoder_of(CHATML)
    record = Demonstration((U1, A1, U2, Message("assistant", "Mid.", train=False), U2), "High.")
    (group,) = demonstration_groups(encoder, record).groups
    assert seen(encoder, group) == (
        ASKED,
        f"[Blue.<|im_end|>]{BETWEEN}Mid.<|im_end|>{BETWEEN}[High.<|im_end|>]",
    )


def test_a_last_turn_of_weight_0_and_train_on_last_leave_nothing():
    encoder = encoder_of(CHATML)
    record = Demonstration((U1, A1, U2), "High.", train=False)
    made = tokenize([record, TWO], encoder, train_on="last")
    assert made.reasons == {"nothing_to_train": 1}
    assert (len(made.groups), made.turns) == (1, 1)
    assert tokenize([record, TWO], encoder).turns == 3


def test_a_call_counts_and_what_the_tool_answers_does_not():
    encoder = encoder_of(TOOLS)
    offered = with_tools((U2, CALL, ANSWER), ('{"type": "function", "function": {"name": "tide"}}',))
    (group,) = demonstration_groups(encoder, Demonstration(offered, "High.")).groups
    start = '<tools>[{"type": "function", "function": {"name": "tide"}}]\n'
    assert seen(encoder, group) == (
        start + "<|im_start|>user\nTide?<|im_end|>\n<|im_start|>assistant\n",
        '[<call>tide{"at": "Busan"}</call><|im_end|>]\n<|im_start|>tool\n1.2 m<|im_end|>\n'
        "<|im_start|>assistant\n[High.<|im_end|>]",
    )


def test_the_call_at_the_end_of_a_row_is_trained():
    encoder = encoder_of(TOOLS)
    record = Demonstration((U2,), "", tool_calls=CALL.tool_calls)
    (group,) = tokenize([record], encoder).groups
    assert seen(encoder, group)[1] == '[<call>tide{"at": "Busan"}</call><|im_end|>]'


@pytest.mark.parametrize(
    "record", [Demonstration((U2, CALL, ANSWER), "High."), Label((U2, CALL, ANSWER), "a", True)]
)
def test_a_template_that_drops_calls_is_refused_by_name(record):
    made = tokenize([record, TWO], encoder_of(CHATML))
    (fault,) = made.dropped
    assert fault.reason == "tools_not_rendered"
    assert "chat template 'tokenizer' does not render tool calls" in str(fault)


def test_a_template_that_renders_tools_as_the_assistant_is_refused():
    alpaca = load_template("alpaca")
    assert not rendered(alpaca).answers
    with pytest.raises(DataError, match="does not render a tool's answer"):
        check(alpaca, (U2, Message("assistant", "Wait."), ANSWER))
    assert rendered(load_template("chatml")).answers
    check(load_template("chatml"), (U2, Message("assistant", "Wait."), ANSWER))


def test_tools_on_offer_and_thoughts_that_a_template_drops_are_counted():
    encoder = encoder_of(CHATML)
    offered = with_tools((U1,), ('{"name": "tide"}',))
    records = [Demonstration(offered, "Blue."), Demonstration((U1,), "Blue.", thinking="Hm."), TWO]
    made = tokenize(records, encoder)
    assert made.left_out == {"tools on offer": 1, "thoughts": 1}
    assert all("Hm." not in text(encoder, g.completions[0].ids) for g in made.groups)
    assert left_out(encoder_of(TOOLS).template, offered, ()) == ()


def test_thoughts_are_trained_where_the_template_renders_them():
    encoder = encoder_of(THINKS)
    made = tokenize([Demonstration((U1,), "Blue.", thinking="Hm.")], encoder)
    assert seen(encoder, made.groups[0]) == (ASKED, "[<think>\nHm.\n</think>\n\nBlue.<|im_end|>]")
    assert made.left_out == {}


def test_a_turn_whose_thoughts_the_whole_drops_is_a_row_of_its_own():
    encoder = encoder_of(THINKS)
    record = Demonstration((U1, Message("assistant", "Blue.", "Hm."), U2), "High.", thinking="So.")
    made = demonstration_groups(encoder, record, 3)
    assert [seen(encoder, group) for group in made.groups] == [
        (ASKED, "[<think>\nHm.\n</think>\n\nBlue.<|im_end|>]"),
        (ASKED + "Blue.<|im_end|>" + BETWEEN, "[<think>\nSo.\n</think>\n\nHigh.<|im_end|>]"),
    ]
    assert made.turns == 2
    assert {group.index for group in made.groups} == {3}
    assert len({group.question for group in made.groups}) == 1
    tokens = encoder.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Sea?"},
            {"role": "assistant", "content": "Blue.", "reasoning_content": "Hm."},
        ],
        tokenize=False,
    )
    own = made.groups[0]
    whole = [*own.prompt_ids, *own.completions[0].ids]
    assert text(encoder, whole) == tokens.removesuffix("\n")


def test_everything_counts_but_turns_of_weight_0():
    encoder = encoder_of(CHATML)
    (group,) = demonstration_groups(encoder, TWO, train_on_prompt=True).groups
    assert seen(encoder, group) == ("", f"[{ASKED}Blue.<|im_end|>{BETWEEN}High.<|im_end|>]")
    record = Demonstration((U1, Message("assistant", "Blue.", train=False), U2), "High.")
    (group,) = demonstration_groups(encoder, record, train_on_prompt=True).groups
    assert seen(encoder, group) == ("", f"[{ASKED}]Blue.<|im_end|>[{BETWEEN}High.<|im_end|>]")


def test_the_packed_row_counts_what_the_mask_counts():
    encoder = encoder_of(CHATML)
    (group,) = demonstration_groups(encoder, TWO).groups
    batch = collate([group, encoder.group(Demonstration((U1,), "Grey."))])
    counted = batch.target_ids[0][batch.mask[0]]
    assert text(encoder, counted.tolist()) == "Blue.<|im_end|>High.<|im_end|>"
    before = batch.input_ids[0][batch.predict_index[0][batch.mask[0]]]
    assert text(encoder, before.tolist()) == "\nBlue.\nHigh."


def test_a_long_conversation_loses_its_end():
    ids = list(range(10))
    found = fit_turns(ids[:4], ids[4:], 2, 8, "truncate")
    assert (found.prompt_ids, found.completions) == ([0, 1, 2, 3], ([4, 5, 6, 7],))
    assert found.truncated == (True,)
    # prompt and first turn alone are too long: they are cut as a single answer is
    found = fit_turns(ids[:4], ids[4:], 2, 5, "truncate")
    assert (found.prompt_ids, found.completions) == ([1, 2, 3], ([4, 5],))
    assert fit_turns(ids[:4], ids[4:], 2, 10, "drop").completions == (ids[4:],)
    with pytest.raises(DataError, match="4 \\+ 6 tokens, max_length is 9"):
        fit_turns(ids[:4], ids[4:], 2, 9, "drop")


# The prompt has 23 characters and marks, the first answer 6, what lies between 25, the last answer 6.
@pytest.mark.parametrize(
    ("max_length", "answers"),
    [
        (60, f"[Blue.<|im_end|>]{BETWEEN}[High.<|im_end|>]"),
        (59, f"[Blue.<|im_end|>]{BETWEEN}[High.]"),
        (56, f"[Blue.<|im_end|>]{BETWEEN}[Hi]"),
        (50, "[Blue.<|im_end|>]"),
        (20, "[Blue.<|im_end|>]"),
        (4, "[Blu]"),
    ],
)
def test_masks_survive_truncation(max_length, answers):
    encoder = encoder_of(CHATML, max_length=max_length)
    made = tokenize([TWO], encoder)
    (group,) = made.groups
    prompt, found = seen(encoder, group)
    assert found == answers
    assert ASKED.endswith(prompt) if max_length < 29 else prompt == ASKED
    assert made.truncated == (max_length < 60)
    assert group.num_tokens <= max_length


def test_conversations_that_begin_alike_are_held_out_together():
    encoder = encoder_of(CHATML, max_length=60)
    context = (U1, Message("assistant", "Blue.", train=False), U2)
    records = [Demonstration((U1,), f"{k}") for k in range(2)]
    records += [Demonstration(context, "Low."), TWO, Demonstration((U1,), "x" * 40)]
    records += [Demonstration((Message("user", f"{k}?"),), "Yes.") for k in range(5)]
    groups = tokenize(records, encoder).groups
    assert len({group.question for group in groups[:5]}) == 1
    assert len({group.prompt_ids.tobytes() for group in groups[:5]}) > 1
    for seed in range(4):
        train, held = hold_out(groups, 0.3, seed)
        assert len({any(g.index == k for g in held) for k in range(5)}) == 1
        assert len({g.question for g in held}) == 2
        assert train
    whole = tokenize(records, encoder, train_on_prompt=True).groups
    assert {len(part) > 0 for part in hold_out(whole, 0.3, 0)} == {True}


def test_compared_answers_are_the_last_turn_alone():
    encoder = encoder_of(CHATML)
    (group,) = tokenize([Preference((U1, A1, U2), "High.", "Low.")], encoder).groups
    assert text(encoder, group.prompt_ids) == ASKED + "Blue.<|im_end|>" + BETWEEN
    assert [text(encoder, c.ids) for c in group.completions] == ["High.<|im_end|>", "Low.<|im_end|>"]
    assert all(c.mask.all() for c in group.completions)
