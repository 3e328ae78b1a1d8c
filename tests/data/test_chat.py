import json
from datetime import UTC, datetime, timedelta

import pytest

from alignloop.data.chat import FILE, check_same, load_saved, load_template
from alignloop.data.template_choice import day_of_run
from alignloop.errors import DataError, ModelError
from alignloop.records import Message
from tests.helpers_tokenizers import make_tokenizer

LIKE_SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LIKE_LLAMA3 = (
    "{{- bos_token }}\n"
    "{%- if strftime_now is defined %}{%- set day = strftime_now('%d') %}"
    "{%- else %}{%- set day = '26' %}{%- endif %}\n"
    "{{- 'Day ' + day + '<|eot|>' }}\n"
    "{%- for message in messages %}\n"
    "    {{- '[' + message['role'] + ']\n\n' + message['content'] | trim + '<|eot|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '[assistant]\n\n' }}\n{%- endif %}\n"
)
LIKE_QWEN3 = (
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'assistant' and loop.last %}\n"
    "        {{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}\n"
    "    {%- else %}\n"
    "        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}"
)
LIKE_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
LIKE_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "smollm2": LIKE_SMOLLM2,
    "llama3": LIKE_LLAMA3,
    "qwen3": LIKE_QWEN3,
    "gemma": LIKE_GEMMA,
    "mistral": LIKE_MISTRAL,
}
HI = (Message("user", "안녕?"),)
CHAT = (Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Tea?"))


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_own_template_renders_as_transformers_does(name, adds_bos):
    tokenizer = make_tokenizer(TEMPLATES[name], adds_bos=adds_bos)
    template = load_template("tokenizer", tokenizer)
    for prompt in (HI, CHAT):
        rows = [{"role": m.role, "content": m.content} for m in prompt]
        whole = [*rows, {"role": "assistant", "content": "네, 좋아요."}]
        if name != "llama3":  # its date differs there from day to day
            expected = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
            assert template.render_prompt(prompt) == expected
            assert template.render((*prompt, Message("assistant", "네, 좋아요."))) == (
                tokenizer.apply_chat_template(whole, tokenize=False)
            )
        joined = template.render_prompt(prompt) + template.render_completion("네, 좋아요.") + template.tail
        assert joined == template.render((*prompt, Message("assistant", "네, 좋아요.")))
        ids = tokenizer(template.render_prompt(prompt), add_special_tokens=False).input_ids
        assert ids.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize(
    ("name", "lead", "end", "tail", "trims", "merges_system"),
    [
        ("smollm2", "", "<|im_end|>", "\n", False, False),
        ("llama3", "", "<|eot|>", "", True, False),
        ("qwen3", "<think>\n\n</think>\n\n", "<|im_end|>", "\n", False, False),
        ("gemma", "", "<end_of_turn>", "\n", True, True),
        ("mistral", " ", "</s>", "", False, True),
    ],
)
def test_what_is_found_out_about_a_template(name, lead, end, tail, trims, merges_system):
    template = load_template("tokenizer", make_tokenizer(TEMPLATES[name]))
    assert (template.lead, template.end, template.tail) == (lead, end, tail)
    assert (template.trims, template.merges_system) == (trims, merges_system)
    assert template.render_completion("Yes") == f"{lead}Yes{end}"
    assert template.render_completion(f"Yes{end}") == f"{lead}Yes{end}"
    assert template.render_completion(f"Yes{end}{end}\n") == f"{lead}Yes{end}"
    assert template.render_completion(" Yes ") == f"{lead}{'Yes' if trims else ' Yes '}{end}"
    assert template.parse_completion(f"{lead}Yes{end}") == "Yes"
    assert template.parse_completion("Yes") == "Yes"  # cut off before the end
    assert template.found.prompts


def test_the_date_a_template_tells_is_that_of_the_run_and_is_kept(tmp_path):
    tokenizer = make_tokenizer(LIKE_LLAMA3)
    with day_of_run("2031-05-17"), day_of_run("2040-01-01"):  # a run within a run has its day
        template = load_template("tokenizer", tokenizer)
    assert template.kwargs == {"strftime_now": "2031-05-17"}
    assert template.render_prompt(HI) == "<s>Day 17<|eot|>[user]\n\n안녕?<|eot|>[assistant]\n\n"
    template.save(tmp_path)
    assert load_saved(tmp_path).render_prompt(HI) == template.render_prompt(HI)
    fixed = load_template("tokenizer", tokenizer, {"strftime_now": "2024-07-26"})
    assert "Day 26" in fixed.render_prompt(HI)
    with pytest.raises(ModelError, match="such as 2026-01-31, not 'soon'"):
        load_template("tokenizer", tokenizer, {"strftime_now": "soon"})
    today = datetime.now(UTC).date()
    assert load_template("tokenizer", tokenizer).kwargs["strftime_now"] in (
        today.isoformat(),
        (today + timedelta(days=1)).isoformat(),  # midnight between the two lines
    )


def test_system_text_goes_into_the_first_question_where_there_is_no_system_role():
    system = Message("system", "Be brief")
    gemma = load_template("tokenizer", make_tokenizer(LIKE_GEMMA))
    assert gemma.render_prompt((system, *HI)) == (
        "<s><start_of_turn>user\nBe brief\n\n안녕?<end_of_turn>\n<start_of_turn>model\n"
    )
    mistral = load_template("tokenizer", make_tokenizer(LIKE_MISTRAL))  # would drop it silently
    assert mistral.render_prompt((system, *HI)) == "<s>[INST] Be brief\n\n안녕? [/INST]"


def test_messages_a_template_refuses_are_a_fault_of_the_row():
    gemma = load_template("tokenizer", make_tokenizer(LIKE_GEMMA))
    with pytest.raises(DataError) as caught:
        gemma.render_prompt((*HI, *HI))
    assert str(caught.value) == (
        "field 'prompt': value 'user user': chat template 'tokenizer' refuses the messages "
        "(Conversation roles must alternate)"
    )
    assert caught.value.reason == "template_refused"
    with pytest.raises(DataError, match="at least one message"):
        gemma.render_prompt(())


ASKED = (Message("user", "Add\n\nInput:\n1 2"),)
OPENING = "Below is an instruction that describes a task"
REST = "Write a response that appropriately completes the request.\n\n"


@pytest.mark.parametrize(
    ("name", "prompt", "expected", "end", "tail"),
    [
        ("chatml", HI, "<|im_start|>user\n안녕?<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "\n"),
        ("plain", HI, "안녕?\n\n", "</s>", ""),
        ("plain", CHAT, "Hi\n\nYes</s>\n\nTea?\n\n", "</s>", ""),
        ("alpaca", HI, f"{OPENING}. {REST}### Instruction:\n안녕?\n\n### Response:\n", "</s>", ""),
        (
            "alpaca",
            ASKED,
            f"{OPENING}, paired with an input that provides further context. {REST}"
            "### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n",
            "</s>",
            "",
        ),
        (
            "alpaca",
            (Message("system", "Be brief"), *CHAT),
            "Be brief\n\n### Instruction:\nHi\n\n### Response:\nYes</s>\n\n### Instruction:\nTea?\n\n"
            "### Response:\n",
            "</s>",
            "",
        ),
    ],
)
def test_built_in_templates(name, prompt, expected, end, tail):
    template = load_template(name, make_tokenizer())
    assert template.render_prompt(prompt) == expected
    assert (template.end, template.tail, template.lead) == (end, tail, "")
    assert expected + template.render_completion("ok") + tail == template.render(
        (*prompt, Message("assistant", "ok"))
    )
    with_bos = load_template(name, make_tokenizer(adds_bos=True))
    assert with_bos.render_prompt(prompt) == "<s>" + expected


def test_no_second_bos_where_chatml_begins_with_it():
    template = load_template("chatml", make_tokenizer(bos="<|im_start|>", adds_bos=True))
    assert template.render_prompt(HI).startswith("<|im_start|>user")


def test_built_in_templates_without_a_tokenizer_are_for_showing():
    assert load_template("plain").render_completion("x") == "x<eos>"
    assert load_template("chatml").render_completion("x") == "x<|im_end|>"


def test_templates_that_cannot_be_used(tmp_path):
    with pytest.raises(ModelError, match=r"'chatlm' is not known; use tokenizer, chatml, alpaca, plain"):
        load_template("chatlm")
    with pytest.raises(ModelError, match="no chat template of its own; use chatml, alpaca or plain"):
        load_template("tokenizer", make_tokenizer())
    with pytest.raises(
        ModelError, match=r"needs the tokens <\|im_end\|>, which this tokenizer does not have"
    ):
        load_template("chatml", make_tokenizer(special=["<s>", "</s>", "<|im_start|>"]))
    with pytest.raises(ModelError, match="'alpaca' needs an EOS token"):
        load_template("alpaca", make_tokenizer(eos=None))
    with pytest.raises(ModelError, match="cannot render a question and its answer"):
        load_template("tokenizer", make_tokenizer("{{ messages[5].content }}"))
    with pytest.raises(ModelError, match="cannot be read"):
        load_template("tokenizer", make_tokenizer("{% for %}"))
    with pytest.raises(ModelError, match="does not render each message once"):
        load_template("tokenizer", make_tokenizer("{{ messages[0].content }}"))
    with pytest.raises(ModelError, match="cannot be read"):
        load_template(str(tmp_path / "none.jinja"))


def test_templates_run_in_a_sandbox():
    attack = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelError, match="unsafe"):
        load_template("tokenizer", make_tokenizer(attack))


def test_saved_with_the_model_and_read_back(tmp_path):
    template = load_template("alpaca", make_tokenizer())
    template.save(tmp_path)
    assert load_saved(tmp_path) == template
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == template.source
    tokenizer = make_tokenizer(template.source)  # Hugging Face's users get the same text
    rows = [{"role": m.role, "content": m.content} for m in ASKED]
    assert tokenizer.apply_chat_template(
        rows, tokenize=False, add_generation_prompt=True
    ) == template.render_prompt(ASKED)


def test_damaged_or_edited_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no chat template was saved"):
        load_saved(tmp_path)
    load_template("plain", make_tokenizer()).save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    (tmp_path / FILE).write_text(json.dumps(content | {"end": "!"}), encoding="utf-8")
    with pytest.raises(ModelError, match="was changed after it was saved"):
        load_saved(tmp_path)
    (tmp_path / FILE).write_text('{"name": "x"', encoding="utf-8")
    with pytest.raises(ModelError, match="is damaged"):
        load_saved(tmp_path)
    (tmp_path / FILE).write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="is damaged"):
        load_saved(tmp_path)


def test_training_and_inference_must_agree(tmp_path):
    tokenizer = make_tokenizer(load_template("chatml").source)
    chatml, own = load_template("chatml", tokenizer), load_template("tokenizer", tokenizer)
    check_same(chatml, own)  # the same text under two names
    with pytest.raises(ModelError) as caught:
        check_same(chatml, load_template("plain", tokenizer))
    assert str(caught.value) == (
        f"the model was trained with chat template 'chatml' ({chatml.fingerprint[:8]}), not with 'plain' "
        f"({load_template('plain', tokenizer).fingerprint[:8]}): "
        "'<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYes<|im_end|>' against "
        "'Hi\\n\\nYes</s>'; use the one it was trained with"
    )
    other_eos = load_template("plain", make_tokenizer(eos="<|eot|>"))
    with pytest.raises(ModelError, match="trained with"):
        check_same(load_template("plain", tokenizer), other_eos)


def test_without_tools_a_template_sees_none(tmp_path):
    """As transformers has it: `tools is not none` is the question that templates ask."""
    asks = "{% if tools is not none %}{{ tools | length }} tools: {% endif %}"
    file = tmp_path / "tools.jinja"
    file.write_text(asks + LIKE_QWEN3, encoding="utf-8")
    template = load_template(str(file), make_tokenizer())
    question = (Message("user", "Hi"),)
    plain = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert template.render_prompt(question) == plain
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert template.render_prompt(question, (tool,)) == "1 tools: " + plain


def test_a_template_without_a_generation_prompt_is_found_out():
    without = LIKE_QWEN3.split("{%- if add_generation_prompt %}")[0]
    assert not load_template("tokenizer", make_tokenizer(without)).found.prompts
