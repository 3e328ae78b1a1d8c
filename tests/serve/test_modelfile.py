"""Ollama's Modelfile: the chat template taken apart and put into Ollama's language."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignloop.data.chat import ChatTemplate, load_template
from alignloop.model.tiny import tiny_model
from alignloop.records import Message
from alignloop.serve.modelfile import find_pieces, modelfile


def template(source: str, folder: Path) -> ChatTemplate:
    file = folder / "t.jinja"
    file.write_text(source, encoding="utf-8")
    return load_template(str(file), tiny_model()[1])


def test_chatml() -> None:
    text = modelfile("a.gguf", load_template("chatml", tiny_model()[1]), context=2048)
    assert text == (
        "FROM ./a.gguf\n"
        "PARAMETER num_ctx 2048\n"
        'PARAMETER stop "<|im_end|>"\n'
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n'
        '{{ .Content }}<|im_end|>\n{{ else if eq .Role "user" }}<|im_start|>user\n'
        "{{ .Content }}<|im_end|>\n{{ else }}<|im_start|>assistant\n"
        "{{ .Content }}<|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n"
        '"""\n'
    )


def test_a_default_system_message_stands_where_there_is_none(tmp_path: Path) -> None:
    chatml = load_template("chatml", tiny_model()[1]).source
    default = "{% if messages[0]['role'] != 'system' %}{{ '[Be kind.]' }}{% endif %}"
    made = template(default + chatml, tmp_path)
    pieces = find_pieces(made)
    assert pieces is not None
    assert pieces.opening == "[Be kind.]"
    assert pieces.go().startswith("{{ if not .System }}[Be kind.]{{ end }}{{ range .Messages }}")
    talk = (Message("user", "비"), Message("assistant", "물"), Message("user", "왜?"))
    assert pieces.render(talk) == made.render_prompt(talk)


def test_a_token_that_the_engine_puts_in_front_is_not_written_twice(tmp_path: Path) -> None:
    chatml = load_template("chatml", tiny_model()[1]).source
    made = template("{{ '<s>' }}" + chatml, tmp_path)
    assert "<s>{{ end }}" in modelfile("a.gguf", made, context=8)
    assert "<s>" not in modelfile("a.gguf", made, context=8, bos="<s>")


CONDITIONS = {
    "numbered": "{% for m in messages %}{{ loop.index }}:{{ m['content'] }}\n{% endfor %}",
    "plain": None,
    "system in the first question": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_are_not_translated(name: str, tmp_path: Path) -> None:
    source = CONDITIONS[name]
    made = load_template("plain", tiny_model()[1]) if source is None else template(source, tmp_path)
    assert find_pieces(made) is None
    text = modelfile("a.gguf", made, context=8)
    assert "TEMPLATE" not in text
    assert "ollama show --template" in text
