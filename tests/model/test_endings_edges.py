"""Ends of turns where a model, its tokenizer or its template says little, or what cannot be saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import GenerationConfig

from alignloop.data.chat import load_template
from alignloop.model.endings import (
    TurnEnd,
    end_texts,
    end_turns,
    template_end,
    turn_end,
    without_stop_strings,
)
from alignloop.model.tiny import tiny_model
from tests.helpers_scripted import DOCUMENT_END, TURN_END, TURN_START, base_tokenizer

BODY = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
CLOSE = "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


def template_of(source: str, tokenizer: Any, folder: Path) -> Any:
    (folder / "t.jinja").write_text(source, encoding="utf-8")
    return load_template(str(folder / "t.jinja"), tokenizer)


def model_with(**settings: Any) -> Any:
    model = tiny_model()[0]
    model.generation_config = GenerationConfig(**settings)
    return model


@pytest.mark.parametrize(
    ("settings", "tokens", "texts"),
    [
        ({}, (TURN_END,), ()),
        ({"eos_token_id": 7}, (7, TURN_END), ()),
        ({"eos_token_id": TURN_END}, (TURN_END,), ()),
        ({"eos_token_id": [9, TURN_END, 9]}, (9, TURN_END), ()),
        ({"eos_token_id": 0}, (0, TURN_END), ()),
        ({"stop_strings": "end"}, (TURN_END,), ("end",)),
        ({"stop_strings": ["a", "b"]}, (TURN_END,), ("a", "b")),
    ],
    ids=str,
)
def test_what_ends_a_turn_of_a_model_as_it_came(settings: Any, tokens: Any, texts: Any) -> None:
    tokenizer = tiny_model()[1]
    assert turn_end(model_with(**settings), tokenizer) == TurnEnd(tokens, texts)
    own = tuple(token for token in tokens if token != TURN_END or TURN_END in _listed(settings))
    assert turn_end(model_with(**settings), None) == TurnEnd(own, texts)


def _listed(settings: dict[str, Any]) -> list[int]:
    found = settings.get("eos_token_id", [])
    return found if isinstance(found, list) else [found]


def test_a_model_without_settings_ends_with_the_tokenizers_end() -> None:
    tokenizer = base_tokenizer()
    model = SimpleNamespace(generation_config=None)
    assert turn_end(model, tokenizer) == TurnEnd((DOCUMENT_END,))  # type: ignore[arg-type]
    assert turn_end(model, None) == TurnEnd()  # type: ignore[arg-type]
    ends = end_turns(model, tokenizer, load_template("tokenizer", tokenizer))  # type: ignore[arg-type]
    assert ends == TurnEnd((TURN_END, DOCUMENT_END))
    assert model.generation_config is None
    with without_stop_strings(model):  # type: ignore[arg-type]
        assert model.generation_config is None


def test_stop_strings_are_put_back_after_an_error() -> None:
    model = model_with(stop_strings=["x"])
    with pytest.raises(ZeroDivisionError), without_stop_strings(model):
        _ = 1 / (model.generation_config.stop_strings is not None)
    assert model.generation_config.stop_strings == ["x"]


def test_stop_strings_that_a_model_came_with_are_kept(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    template = template_of(BODY + "{{ ' [done]\n' }}" + CLOSE, tokenizer, tmp_path)
    model = model_with(eos_token_id=DOCUMENT_END, stop_strings=["own"])
    before = model.generation_config
    ends = end_turns(model, tokenizer, template)
    assert ends == TurnEnd((DOCUMENT_END,), ("[done]", "own"))
    assert model.generation_config.stop_strings == ["own", "[done]"]
    assert model.generation_config.eos_token_id == [DOCUMENT_END]
    assert before.stop_strings == ["own"]  # another object
    again = model.generation_config
    assert end_turns(model, tokenizer, template) == ends
    assert model.generation_config is again


def test_an_end_of_text_without_any_token_is_written_as_none(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(eos=None)
    template = template_of(BODY + "{{ ' [done]\n' }}" + CLOSE, tokenizer, tmp_path)
    model = model_with()
    assert end_turns(model, tokenizer, template) == TurnEnd((), ("[done]",))
    assert model.generation_config.eos_token_id is None
    assert model.generation_config.stop_strings == ["[done]"]


def test_ends_that_are_tokens_set_no_stop_strings() -> None:
    tokenizer = base_tokenizer()
    model = model_with(eos_token_id=DOCUMENT_END)
    end_turns(model, tokenizer, load_template("tokenizer", tokenizer))
    assert model.generation_config.stop_strings is None
    assert model.generation_config.eos_token_id == [DOCUMENT_END, TURN_END]


def test_a_template_for_one_question_has_the_end_that_it_writes(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    one = (
        "{% if messages|length > 2 %}{{ raise_exception('one question') }}{% endif %}"
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
        "{{ '<|im_end|>' if m.role == 'assistant' else '' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    assert template_end(tokenizer, template_of(one, tokenizer, tmp_path)) == TurnEnd((TURN_END,))


def test_what_follows_a_turn_ends_it_by_its_first_mark(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(
        added=[AddedToken("<|user|>", special=True), AddedToken("<|assistant|>", special=True)]
    )
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    template = template_of(
        BODY + "{{ '<|im_end|>' if m.role == 'assistant' else '' }}" + CLOSE, tokenizer, tmp_path
    )
    # the end of the turn is a mark; so is what comes first between two turns
    assert template_end(tokenizer, template) == TurnEnd((TURN_END,))
    template = template_of(BODY + "{{ ' #' if m.role == 'assistant' else '' }}" + CLOSE, tokenizer, tmp_path)
    assert template_end(tokenizer, template) == TurnEnd((user,), ("#",))


def test_a_single_token_that_is_no_mark_ends_a_turn_by_itself_and_as_text(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    template = template_of(BODY + "{{ '#' }}" + CLOSE, tokenizer, tmp_path)
    (token,) = tokenizer.encode("#", add_special_tokens=False)
    assert template_end(tokenizer, template) == TurnEnd((token,), ("#",))


def test_ends_as_text_are_shown_once_and_without_spaces() -> None:
    tokenizer = base_tokenizer(added=[AddedToken(" <x> ", special=True, normalized=False)])
    blank = tokenizer.encode(" ", add_special_tokens=False)
    added = tokenizer.convert_tokens_to_ids(" <x> ")
    ends = TurnEnd((TURN_END, added, TURN_END, *blank), ("<x>", "stop", "stop", ""))
    assert end_texts(tokenizer, ends) == ["<|im_end|>", "<x>", "stop"]


def test_settings_that_cannot_be_saved_are_left_out_but_for_the_ids() -> None:
    tokenizer = base_tokenizer()
    model = model_with(eos_token_id=DOCUMENT_END, bos_token_id=TURN_START, pad_token_id=4, max_new_tokens=50)
    model.generation_config.num_beams = 1
    model.generation_config.num_return_sequences = 3  # of one beam that is greedy
    end_turns(model, tokenizer, load_template("tokenizer", tokenizer))
    made = model.generation_config
    assert made.eos_token_id == [DOCUMENT_END, TURN_END]
    assert (made.bos_token_id, made.pad_token_id) == (TURN_START, 4)
    assert made.num_return_sequences in (None, 1)
    made.validate(strict=True)


@pytest.mark.parametrize("do_sample", [True, False])
def test_settings_of_sampling_are_kept_where_they_are_used(do_sample: bool) -> None:
    tokenizer = base_tokenizer()
    model = model_with(
        eos_token_id=DOCUMENT_END, do_sample=do_sample, temperature=0.6, top_p=0.9, max_new_tokens=99
    )
    end_turns(model, tokenizer, load_template("tokenizer", tokenizer))
    made = model.generation_config
    assert made.max_new_tokens == 99
    assert (made.temperature, made.top_p) == ((0.6, 0.9) if do_sample else (None, None))
    assert made.do_sample is do_sample
