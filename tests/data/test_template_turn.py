"""What is trained after a prompt, for small templates that behave as the public families do."""

import copy

import pytest

from alignloop.data.chat import check_same, load_saved, load_template
from alignloop.data.tokenize import Encoder
from alignloop.data.trained_turns import RenderedTurn, shifted
from alignloop.errors import ModelError
from alignloop.records import Message
from tests.helpers_tokenizers import make_tokenizer

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
PARSED = (
    "{% set thought = m.reasoning_content | default('', true) %}{% set text = m.content %}"
    "{% if not thought and '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
FRAME = (
    "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' }}}}"
    "{{% if m.role == 'assistant' %}}{turn}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
    "{{{{ '<|im_end|>\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{prompt}{{% endif %}}"
)
EMPTY = "{{ '<think>\n\n</think>\n\n' }}"
OPEN = "{{ '<think>\n' }}"
FULL = "{{ '<think>\n' + thought + '\n</think>\n\n' + text }}"
NO_THINKING = "{% if enable_thinking is defined and not enable_thinking %}" + EMPTY + "{% endif %}"
TEMPLATES = {
    # The last turn always has thoughts, earlier ones never: Qwen3.
    "qwen3": FRAME.format(
        turn=PARSED + "{% if loop.last %}" + FULL + "{% else %}{{ text }}{% endif %}", prompt=NO_THINKING
    ),
    # The prompt begins thoughts; a plain answer is rendered with other ones: Nemotron.
    "nemotron": FRAME.format(
        turn="{% if '</think>' in m.content %}{{ m.content }}{% else %}"
        "{{ '<think></think>' + m.content }}{% endif %}",
        prompt="{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% else %}"
        + OPEN
        + "{% endif %}",
    ),
    # The prompt begins thoughts, the rendering drops them: R1-distill.
    "r1": FRAME.format(turn="{{ m.content.split('</think>')[-1] }}", prompt=OPEN),
    # The prompt has closed thoughts, the rendering too: EXAONE 4.
    "exaone": FRAME.format(turn=EMPTY + "{{ m.content.split('</think>')[-1].strip() }}", prompt=EMPTY),
    # Thoughts are dropped, and the prompt says nothing of them: DeepSeek-V3.
    "deepseek": FRAME.format(turn="{{ m.content.split('</think>')[-1] }}", prompt=""),
}
GLM = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content }}"
    "{% else %}{{ '<|assistant|>\n' + m.content.strip() }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ALWAYS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"  # noqa: E501
NEVER = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
ASK = [{"role": "user", "content": "Hi?"}]
TALK = [
    *ASK,
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."},
    {"role": "user", "content": "Why?"},
]
THOUGHT = "<think>\nOh.\n</think>\n\nSo."


def loaded(name, **kwargs):
    tokenizer = make_tokenizer(TEMPLATES.get(name, name), special=SPECIAL)
    return load_template("tokenizer", tokenizer, kwargs), tokenizer


def messages(rows):
    return tuple(Message(row["role"], row["content"]) for row in rows)


def transformers_adds(tokenizer, rows, answer, **kwargs):
    """(prompt, whole conversation less the line break at its end) of apply_chat_template."""
    given = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True, **kwargs)
    turns = [*copy.deepcopy(rows), {"role": "assistant", "content": answer}]
    return given, tokenizer.apply_chat_template(turns, tokenize=False, **kwargs).removesuffix("\n")


@pytest.mark.parametrize("rows", [ASK, TALK])
@pytest.mark.parametrize(
    ("name", "answer", "kwargs"),
    [
        ("qwen3", "So.", {}),
        ("qwen3", THOUGHT, {}),
        ("qwen3", "So.", {"enable_thinking": False}),
        ("nemotron", THOUGHT, {}),
        ("nemotron", "So.", {"enable_thinking": False}),
        ("exaone", "So.", {}),
        ("exaone", THOUGHT, {}),
        ("deepseek", "So.", {}),
    ],
)
def test_prompt_and_completion_are_the_whole_rendering(name, answer, kwargs, rows):
    template, tokenizer = loaded(name, **kwargs)
    given, whole = transformers_adds(tokenizer, rows, answer, **kwargs)
    prompt = messages(rows)
    assert template.render_prompt(prompt) == given
    assert given + template.render_completion(answer, prompt) == whole


@pytest.mark.parametrize(
    ("name", "answer", "completion"),
    [
        ("nemotron", "So.", "</think>\n\nSo.<|im_end|>"),
        ("r1", "So.", "</think>\n\nSo.<|im_end|>"),
        ("r1", THOUGHT, "Oh.\n</think>\n\nSo.<|im_end|>"),
        ("deepseek", THOUGHT, f"{THOUGHT}<|im_end|>"),
    ],
)
def test_where_the_rendering_is_not_the_prompts_what_the_model_would_have_written_is_trained(
    name, answer, completion
):
    template, tokenizer = loaded(name)
    given, whole = transformers_adds(tokenizer, ASK, answer)
    assert not whole.startswith(given) or "Oh." not in whole  # that is the case this is about
    assert template.render_prompt(messages(ASK)) == given
    assert template.render_completion(answer, messages(ASK)) == completion


def test_thoughts_have_no_place_after_a_prompt_that_closed_them():
    template, _ = loaded("qwen3", enable_thinking=False)
    assert template.render_prompt(messages(ASK)).endswith("<think>\n\n</think>\n\n")
    assert template.render_completion(THOUGHT, messages(ASK)) == "So.<|im_end|>"


@pytest.mark.parametrize("name", ["nemotron", "r1"])
def test_a_sampled_text_goes_back_as_it_was_written(name):
    template, _ = loaded(name)
    written = "Oh.\n</think>\n\nSo."  # after a prompt that ends with <think>
    assert template.render_completion(written, messages(ASK)) == f"{written}<|im_end|>"
    whole = template.whole_text(written)
    assert whole == f"<think>\n{written}"
    assert template.render_completion(whole, messages(ASK)) == f"{written}<|im_end|>"
    cut_off = template.whole_text("Oh, let me")
    assert template.render_completion(cut_off, messages(ASK)) == "Oh, let me<|im_end|>"
    assert loaded("qwen3")[0].whole_text(written) == written


def test_thoughts_in_a_field_are_the_templates_own_or_go_into_the_text():
    turn = Message("assistant", "So.", "Oh.")
    qwen3, _ = loaded("qwen3")
    assert qwen3.found.takes_thinking
    assert qwen3.render_completion(turn, messages(ASK)) == f"{THOUGHT}<|im_end|>"
    nemotron, _ = loaded("nemotron")
    assert not nemotron.found.takes_thinking
    assert nemotron.render_completion(turn, messages(ASK)) == "Oh.\n</think>\n\nSo.<|im_end|>"
    chatml = load_template("chatml", make_tokenizer(special=SPECIAL))
    assert chatml.render_completion(turn, messages(ASK)) == f"{THOUGHT}<|im_end|>"


def test_a_template_without_an_end_of_turn_ends_with_the_next_messages_mark():
    template, _ = loaded(GLM)
    assert (template.end, template.found.ends) == ("<|user|>", False)
    assert template.render_completion("Yes.", messages(ASK)) == "\nYes.<|user|>"
    without_mark = load_template("tokenizer", make_tokenizer(GLM, special=["<s>", "</s>"]))
    assert without_mark.end == "</s>"


def test_templates_that_ignore_the_generation_prompt():
    always, _ = loaded(ALWAYS)
    assert (always.end, always.tail) == ("<|im_end|>", "\n<|im_start|>assistant\n")
    assert always.render_completion("Yes.", messages(ASK)) == "Yes.<|im_end|>"
    assert always.found.prompts
    never, _ = loaded(NEVER)
    assert never.render_completion("Yes.", messages(ASK)) == "<|assistant|>\nYes.</s>"
    assert not never.found.prompts


def test_arguments_belong_to_the_template_and_are_kept(tmp_path):
    template, tokenizer = loaded("qwen3", enable_thinking=False)
    other = load_template("tokenizer", tokenizer)
    assert template.fingerprint != other.fingerprint
    with pytest.raises(ModelError, match=r"\{'enable_thinking': False\} against \{\}"):
        check_same(template, other)
    template.save(tmp_path)
    assert load_saved(tmp_path) == template == other.with_kwargs({"enable_thinking": False})
    # Other programs render the same without being told the argument.
    exported = (tmp_path / "chat_template.jinja").read_text(encoding="utf-8")
    assert template.render_prompt(messages(ASK)) == tokenizer.apply_chat_template(
        ASK, chat_template=exported, tokenize=False, add_generation_prompt=True
    )
    with pytest.raises(ModelError, match="does not use 'enable_thinkin'; did you mean 'enable_thinking'"):
        load_template("tokenizer", tokenizer, {"enable_thinkin": False})
    with pytest.raises(ModelError, match="does not use 'messages'"):
        other.with_kwargs({"messages": []})


@pytest.mark.parametrize("name", ["chatml", "qwen3", "r1", GLM])
def test_a_conversation_has_the_ids_of_its_prompts_and_completions(name):
    if name == "chatml":
        tokenizer = make_tokenizer(special=SPECIAL)
        template = load_template("chatml", tokenizer)
    else:
        template, tokenizer = loaded(name)
    encoder = Encoder(tokenizer, template)
    talk = messages([*TALK, {"role": "assistant", "content": "So."}])
    found = encoder.conversation(talk)
    last = [*encoder.prompt(talk[:3]), *encoder.completion(talk[3], talk[:3])]
    assert found.ids.tolist() == last
    exact = [turn.exact for turn in found.turns]
    assert [turn.place for turn in found.turns] == [1, 3]
    # Qwen3 and R1 drop the first turn's thoughts, which the model would have written.
    assert exact == [name in ("chatml", GLM), True]
    ids, mask = found
    for turn in found.turns:
        if turn.exact:
            written = encoder.completion(talk[turn.place], talk[: turn.place]).tolist()
            assert ids[turn.start : turn.stop].tolist() == written
    assert int(mask.sum()) == sum(turn.stop - turn.start for turn in found.turns)


def test_turns_move_with_what_comes_before_them():
    """By a BOS in front; a turn whose tokens are not known has no place."""
    turns = (RenderedTurn(1, 2, 5, True), RenderedTurn(3, 0, 0, False), RenderedTurn(5, 6, 9, True))
    assert shifted(turns, 1) == (
        RenderedTurn(1, 3, 6, True),
        RenderedTurn(3, 0, 0, False),
        RenderedTurn(5, 7, 10, True),
    )
    assert shifted(turns, 0) == turns
