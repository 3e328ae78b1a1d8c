"""What ends a turn: one decision, which the engine follows and the saved model tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from alignloop.data.chat import ChatTemplate, load_template
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.endings import end_texts, end_turns, template_end, turn_end, without_stop_strings
from alignloop.model.generate import generate, stream
from alignloop.model.load import load_model
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import save_model
from alignloop.model.scheduler import Sampled
from tests.helpers_scripted import (
    DOCUMENT_END,
    TURN_END,
    TURN_START,
    base_tokenizer,
    scripted_model,
)

QUESTION = "<|im_start|>user\nsay<|im_end|>\n<|im_start|>assistant\n"
GREEDY = SamplingParams(temperature=0, max_tokens=24)
BODY = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
CLOSE = "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


def written(source: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> ChatTemplate:
    file = folder / "t.jinja"
    file.write_text(source, encoding="utf-8")
    return load_template(str(file), tokenizer)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def said(model, tokenizer: PreTrainedTokenizerFast, params: SamplingParams = GREEDY) -> Sampled:
    return generate(model, tokenizer, [ids(tokenizer, QUESTION)], params)[0][0]


def script(tokenizer: PreTrainedTokenizerFast, end: str = "<|im_end|>") -> list[int]:
    return ids(tokenizer, f"okay{end}")


def test_a_base_model_with_chatml_ends_with_the_turn(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    model = scripted_model(tokenizer, QUESTION, script(tokenizer))
    assert said(model, tokenizer).finish == "length"  # its EOS ends documents
    ends = end_turns(model, tokenizer, load_template("tokenizer", tokenizer))
    assert ends.tokens == (TURN_END, DOCUMENT_END)
    one = said(model, tokenizer)
    assert (one.text, one.finish, one.ids) == ("okay", "eos", script(tokenizer))
    assert said(model, tokenizer, SamplingParams(temperature=0, max_tokens=24, eos=())).finish == "length"


def test_the_saved_model_ends_in_transformers_too(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    model = scripted_model(tokenizer, QUESTION, script(tokenizer))
    template = load_template("tokenizer", tokenizer)
    end_turns(model, tokenizer, template)
    save_model(model, tokenizer, tmp_path / "model", extra=template.save)
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [DOCUMENT_END, TURN_END]
    assert not settings.get("_from_model_config")  # older versions would make it anew, with one end
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    prompt = AutoTokenizer.from_pretrained(tmp_path / "model").encode(QUESTION, return_tensors="pt")
    out = again.generate(prompt, max_new_tokens=24, do_sample=False)
    assert out[0, prompt.shape[1] :].tolist() == script(tokenizer)


def test_an_adapter_folder_says_what_ends_its_turns(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    save_model(scripted_model(tokenizer, QUESTION, script(tokenizer)), tokenizer, tmp_path / "base")
    loaded = load_model(tmp_path / "base")
    end_turns(loaded.model, loaded.tokenizer, load_template("tokenizer", loaded.tokenizer))
    save_model(add_adapter(loaded.model, LoraSettings(r=2)), loaded.tokenizer, tmp_path / "adapter")
    again = load_model(tmp_path / "adapter")
    assert turn_end(again.model, again.tokenizer).tokens == (DOCUMENT_END, TURN_END)
    assert GenerationConfig.from_pretrained(tmp_path / "adapter").eos_token_id == [DOCUMENT_END, TURN_END]


def test_nothing_changes_where_the_turn_ends_with_eos() -> None:
    tokenizer = base_tokenizer(eos="<|im_end|>")
    model = scripted_model(tokenizer, QUESTION, script(tokenizer), eos=TURN_END)
    before = model.generation_config
    assert end_turns(model, tokenizer, load_template("tokenizer", tokenizer)).tokens == (TURN_END,)
    assert model.generation_config is before
    assert before.eos_token_id == TURN_END


@pytest.mark.parametrize("name", ["alpaca", "plain"])
def test_alpaca_and_plain_end_with_eos(name: str) -> None:
    tokenizer = base_tokenizer()
    model = scripted_model(tokenizer, QUESTION, [*script(tokenizer, ""), DOCUMENT_END])
    assert end_turns(model, tokenizer, load_template(name, tokenizer)).tokens == (DOCUMENT_END,)
    assert said(model, tokenizer).finish == "eos"


def test_all_ends_that_a_model_came_with_are_kept() -> None:
    tokenizer = base_tokenizer(added=[AddedToken("<|call|>", special=True)])
    call = len(tokenizer) - 1
    model = scripted_model(tokenizer, QUESTION, script(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=[call, DOCUMENT_END])
    ends = end_turns(model, tokenizer, load_template("tokenizer", tokenizer))
    assert ends.tokens == (TURN_END, call, DOCUMENT_END)
    assert model.generation_config.eos_token_id == [call, DOCUMENT_END, TURN_END]
    assert end_texts(tokenizer, ends) == ["<|im_end|>", "<|call|>", "<|endoftext|>"]


def test_an_end_that_is_text_becomes_a_stop_string(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    template = written(BODY + "{{ ' [done]\n' }}" + CLOSE, tokenizer, tmp_path)
    assert template_end(tokenizer, template).tokens == ()
    model = scripted_model(tokenizer, QUESTION, script(tokenizer, "[done]"))
    end_turns(model, tokenizer, template)
    one = said(model, tokenizer)
    assert (one.text.strip(), one.finish, one.ids) == ("okay", "stop", script(tokenizer, "[done]"))
    streamed = list(stream(model, tokenizer, ids(tokenizer, QUESTION), GREEDY))
    assert "".join(event.text for event in streamed).strip() == "okay"
    both = SamplingParams(temperature=0, max_tokens=24, stop=("k",))
    assert said(model, tokenizer, both).text == "o"
    # transformers has stop strings too, and says what it needs for them
    save_model(model, tokenizer, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    prompt = torch.tensor([ids(tokenizer, QUESTION)])
    with pytest.raises(ValueError, match="tokenizer"):
        again.generate(prompt, max_new_tokens=24, do_sample=False)
    out = again.generate(prompt, max_new_tokens=24, do_sample=False, tokenizer=tokenizer)
    assert out[0, prompt.shape[1] :].tolist() == script(tokenizer, "[done]")
    with without_stop_strings(again):
        assert again.generate(prompt, max_new_tokens=24, do_sample=False).shape[1] == prompt.shape[1] + 24
    assert again.generation_config.stop_strings == ["[done]"]


def test_a_mark_that_shows_in_the_text_is_cut_off(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(added=[AddedToken("<end>", special=False, normalized=False)])
    template = written(BODY + "{{ '<end>' }}" + CLOSE, tokenizer, tmp_path)
    model = scripted_model(tokenizer, QUESTION, script(tokenizer, "<end>"))
    end_turns(model, tokenizer, template)
    one = said(model, tokenizer)
    assert (one.text, one.finish, one.ids[-1]) == ("okay", "eos", len(tokenizer) - 1)
    streamed = list(stream(model, tokenizer, ids(tokenizer, QUESTION), GREEDY))
    assert "".join(event.text for event in streamed) == "okay"
    assert streamed[-1].sampled is not None
    assert streamed[-1].sampled.text == "okay"


def test_of_several_tokens_the_first_mark_ends_the_turn(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    template = written(BODY + "{{ ' <|im_end|><|endoftext|>' }}" + CLOSE, tokenizer, tmp_path)
    assert len(ids(tokenizer, template.end)) > 1
    ends = template_end(tokenizer, template)
    assert (ends.tokens, ends.texts) == ((TURN_END,), ())


def test_the_next_roles_mark_ends_a_turn_that_has_no_end(tmp_path: Path) -> None:
    roles = [AddedToken(f"<|{role}|>", special=True) for role in ("user", "assistant")]
    tokenizer = base_tokenizer(added=roles)
    template = written(BODY + CLOSE, tokenizer, tmp_path)  # as GLM-4 writes its turns
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert user in template_end(tokenizer, template).tokens
    model = scripted_model(tokenizer, QUESTION, script(tokenizer, "<|user|>"))
    end_turns(model, tokenizer, template)
    one = said(model, tokenizer)
    assert (one.text, one.finish, one.ids[-1]) == ("okay", "eos", user)


def test_runs_of_spaces_among_added_tokens_are_no_marks(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(added=[AddedToken("   ", special=False, normalized=False)])
    template = written(BODY + "{{ '   #\n' }}" + CLOSE, tokenizer, tmp_path)
    assert template_end(tokenizer, template).texts == ("#",)


def test_published_settings_that_transformers_only_warns_about_can_be_saved(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    model = scripted_model(tokenizer, QUESTION, script(tokenizer))
    save_model(model, tokenizer, tmp_path / "base")
    published = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 0, "max_new_tokens": 99}  # no do_sample
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(published), encoding="utf-8")
    loaded = load_model(tmp_path / "base")
    end_turns(loaded.model, loaded.tokenizer, load_template("tokenizer", tokenizer))
    save_model(loaded.model, loaded.tokenizer, tmp_path / "made")
    made = GenerationConfig.from_pretrained(tmp_path / "made")
    assert (made.eos_token_id, made.max_new_tokens) == ([DOCUMENT_END, TURN_END], 99)


def test_a_model_whose_turns_nothing_ends_is_told(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(eos=None)
    template = written("{% for m in messages %}{{ m.content }}\n{% endfor %}", tokenizer, tmp_path)
    model = scripted_model(tokenizer, QUESTION, [TURN_START], eos=None)
    with pytest.warns(UserWarning, match=r"nothing ends a turn.*max_new_tokens; give the tokenizer"):
        assert end_turns(model, tokenizer, template).tokens == ()
