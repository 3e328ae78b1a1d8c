"""Which models are served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alignloop.data.chat import load_template
from alignloop.data.template_probe import TemplateTraits
from alignloop.errors import ConfigError, ModelError
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.records import Message
from alignloop.serve.answer import CompletionChoice
from alignloop.serve.engine import EngineThread
from alignloop.serve.protocol import ChatRequest
from alignloop.serve.served import RequestLimits, ServedModel, open_policy
from alignloop.stages.reward import HEAD_FILE


def trained(folder: Path, template: str = "alpaca") -> Path:
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, folder, extra=load_template(template, tokenizer).save)
    return folder


def test_the_template_of_training_is_used(tmp_path: Path) -> None:
    policy = open_policy(trained(tmp_path / "모델"))
    text = policy.loaded.tokenizer.decode(policy.encoder.prompt([Message("user", "hi")]).tolist())
    assert "### Instruction:\nhi" in text
    assert policy.name == "모델"
    assert policy.context == 1024


def test_another_template_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "m")
    with pytest.raises(ConfigError, match="AL209"):
        open_policy(folder, chat_template="chatml")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    with pytest.raises(ModelError, match="not the one the model was trained with"):
        open_policy(folder)


def test_a_reward_model_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "m")
    (folder / HEAD_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match="scores answers and writes none"):
        open_policy(folder)


def test_a_classifier_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = trained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["LlamaForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="scores texts and writes none"):
        open_policy(folder)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor"):
        open_policy(tmp_path / "nowhere")


def test_an_answer_ends_with_the_templates_turn_whatever_the_eos_is(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    tokenizer.eos_token = "<|endoftext|>"
    assert model.generation_config is not None
    model.generation_config.eos_token_id = model.config.eos_token_id = 0
    save_model(model, tokenizer, tmp_path / "m", extra=load_template("chatml", tokenizer).save)
    policy = open_policy(tmp_path / "m")
    assert policy.loaded.model.generation_config.eos_token_id == [0, 2]  # 2 is <|im_end|>


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_what_the_template_puts_around_an_answer_is_taken_off(size: int) -> None:
    written = "<think>\n  Rain  falls. \n\n"
    pieces = [written[i : i + size] for i in range(0, len(written), size)]

    def shown(lead: str, *, trims: bool) -> str:
        choice = CompletionChoice(replace(PLAIN, lead=lead, trims=trims))
        found = [choice.take(p, final=i == len(pieces) - 1) for i, p in enumerate(pieces)]
        assert not any(thoughts for thoughts, _ in found)
        return "".join(text for _, text in found)

    assert shown("<think>\n", trims=True) == "Rain  falls."
    assert shown("<think>\n", trims=False) == "  Rain  falls. \n\n"
    assert shown("", trims=True) == written.strip()
    assert shown("<thought>", trims=False) == written


PLAIN = load_template("chatml").found
THINKS = replace(PLAIN, thought=("<think>", "</think>"))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
@pytest.mark.parametrize(
    ("found", "written", "thoughts", "text"),
    [
        (THINKS, "<think>\nIt <thinks>. \n</think>\n\nRain.\n", "It <thinks>.", "Rain.\n"),
        (THINKS, "Rain <think> no </think>", "", "Rain <think> no </think>"),
        (THINKS, "<think>\n\n</think>\n\nRain.", "", "Rain."),
        (THINKS, "<think>\nIt never ends </thin", "It never ends </thin", ""),
        (replace(THINKS, opening="<think>\n"), "So it\n falls.</think>Rain.", "So it\n falls.", "Rain."),
        (replace(THINKS, opening="<think>\n"), "cut off ", "cut off", ""),
        (None, "<think>a</think>b", "", "<think>a</think>b"),
    ],
)
def test_thoughts_come_apart_from_the_answer(
    found: TemplateTraits | None, written: str, thoughts: str, text: str, size: int
) -> None:
    pieces = [written[i : i + size] for i in range(0, len(written), size)]
    choice = CompletionChoice(found)
    told = [choice.take(p, final=i == len(pieces) - 1) for i, p in enumerate(pieces)]
    assert ("".join(t for t, _ in told), "".join(t for _, t in told)) == (thoughts, text)
    assert (choice.thinking, choice.text) == (thoughts, text)


def test_tools_and_their_answers_are_given_to_the_template(tmp_path: Path) -> None:
    source = (
        "{% if tools %}{{ 'offers ' + (tools | tojson) + ';' }}{% endif %}{% for m in messages %}"
        "{{ m.role + ':' + m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name + ' ' + (call.function.arguments | tojson) }}{% endfor %}{{ ';' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    (tmp_path / "tools.jinja").write_text(source, encoding="utf-8")
    policy = open_policy(trained(tmp_path / "m", str(tmp_path / "tools.jinja")))
    served = ServedModel(policy, EngineThread(policy.loaded.model, policy.loaded.tokenizer), RequestLimits())
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"at":"Busan"}'}}
    body = {
        "tools": [{"type": "function", "function": {"name": "tide"}}],
        "messages": [
            {"role": "user", "content": "Tide?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1.2 m", "tool_call_id": "c1"},
        ],
    }
    (request,) = served.chat_requests(ChatRequest.model_validate(body))
    assert policy.loaded.tokenizer.decode(list(request.prompt)) == (
        'offers [{"type": "function", "function": {"name": "tide"}}];user:Tide?;'
        'assistant:tide {"at": "Busan"};tool:1.2 m;assistant:'
    )
