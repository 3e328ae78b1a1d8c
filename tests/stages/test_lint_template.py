"""Traps between a template and its rows, put in on purpose."""

import pytest

from alignloop.config import SFTConfig, resolve
from alignloop.data.chat import load_template
from alignloop.data.tokenize import Encoder
from alignloop.errors import ConfigError
from alignloop.model.load import LoadedModel
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.records import Demonstration, Document, Message, Prompt
from alignloop.stages.checks import agreed_template
from alignloop.stages.lint_template import lint_template, lint_texts
from tests.helpers_tokenizers import make_tokenizer

THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n' if thinking | default(true) else '<think></think>' }}{% endif %}"
)
ASK = (Message("user", "Hi?"),)


def encoder(source, **kwargs):
    tokenizer = make_tokenizer(source)
    return Encoder(tokenizer, load_template("tokenizer", tokenizer, kwargs))


def codes(findings):
    return [(finding.code, finding.severity) for finding in findings]


def test_what_a_template_leaves_to_the_model():
    never = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}{% endfor %}"
    assert codes(lint_template(encoder(never).template)) == [("AL401", "warning")]
    endless = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    endless += "{% if add_generation_prompt %}[assistant]{% endif %}"
    found = lint_template(encoder(endless).template)
    assert codes(found) == [("AL402", "warning")]
    assert "completions end with '</s>'" in found[0].sentence
    assert lint_template(encoder(THINKS).template) == []


def test_rows_with_marks_are_counted_however_they_are_read():
    own = encoder(THINKS)
    rows = [
        Demonstration(ASK, "Yes.<|im_end|>"),  # its own end is taken off
        Demonstration(ASK, "Yes<|im_end|>."),
        Prompt((Message("user", "<|im_start|>"),)),
        Document("plain"),
    ]
    found = [finding for finding in lint_texts(rows, own) if finding.code == "AL403"]
    assert [f.sentence.split(" of the")[0] for f in found] == ["2 of 4 rows hold marks"]
    assert "read as plain text" in found[0].sentence
    allowed = Encoder(own.tokenizer, own.template, special_tokens=True)
    (told,) = [finding for finding in lint_texts(rows, allowed) if finding.code == "AL403"]
    assert "read as special tokens" in told.sentence


def test_thoughts_that_do_not_fit_the_generation_prompt_are_counted():
    rows = [Demonstration(ASK, "Yes."), Demonstration(ASK, "<think>\nHm.\n</think>\n\nYes.")]
    begun, closed = lint_texts(rows, encoder(THINKS)), lint_texts(rows, encoder(THINKS, thinking=False))
    assert codes(begun) == codes(closed) == [("AL404", "warning"), ("AL405", "warning")]
    assert "1 rows do not have; they are trained to close them at once" in begun[0].sentence
    assert "1 rows have some, which are left out" in closed[0].sentence


def test_rows_that_are_trained_otherwise_than_a_whole_rendering_are_counted():
    plain = THINKS.partition("{% if add_generation_prompt %}")[0] + "{% if add_generation_prompt %}"
    plain += "{{ '<|im_start|>assistant\n' }}{% endif %}"
    rows = [
        Demonstration(ASK, "Yes."),
        Demonstration(ASK, "<think>\nHm.\n</think>\n\nYes."),
        Demonstration(ASK, "Yes.", thinking="Hm."),
        Document("no turn"),
    ]
    (told,) = lint_texts(rows, encoder(plain))
    assert told.code == "AL405"
    assert "leaves out thoughts of 2 of 3 rows compared" in told.sentence
    (told,) = [finding for finding in lint_texts(rows, encoder(THINKS)) if finding.code == "AL405"]
    assert "(3 of 3 rows compared)" in told.sentence  # '<think>' is in the prompt and in no rendering
    assert lint_texts(rows[:1], encoder(plain)) == []
    keeps = plain.replace("m.content.split('</think>')[-1]", "m.content")
    assert lint_texts(rows[:2], encoder(keeps)) == []


def test_arguments_of_recipes_are_those_of_training(tmp_path):
    model, tokenizer = tiny_model()
    tokenizer.chat_template = THINKS
    quiet = load_template("tokenizer", tokenizer, {"thinking": False})
    save_model(model, tokenizer, tmp_path / "m", extra=quiet.save)
    loaded = LoadedModel(model, tokenizer, "m", tmp_path / "m")
    keys = {"dataset": "x.jsonl", "output_dir": "out", "model_name_or_path": "tiny"}
    plain, _ = resolve("sft", keys)
    assert isinstance(plain, SFTConfig)
    assert agreed_template(loaded, plain.template) == quiet
    same, _ = resolve("sft", {**keys, "chat_template_kwargs": {"thinking": False}})
    assert isinstance(same, SFTConfig)
    assert agreed_template(loaded, same.template) == quiet
    other, _ = resolve("sft", {**keys, "chat_template_kwargs": {"thinking": True}})
    assert isinstance(other, SFTConfig)
    with pytest.raises(ConfigError, match=r"AL209 .*\{'thinking': False\} against \{'thinking': True\}"):
        agreed_template(loaded, other.template)


def test_a_date_in_a_recipe_is_a_date():
    import yaml

    kwargs = yaml.safe_load("{strftime_now: 2026-01-31, enable_thinking: false}")
    config, _ = resolve("sft", {"dataset": "x.jsonl", "output_dir": "out", "chat_template_kwargs": kwargs})
    assert isinstance(config, SFTConfig)
    assert config.chat_template_kwargs == {"strftime_now": "2026-01-31", "enable_thinking": False}
