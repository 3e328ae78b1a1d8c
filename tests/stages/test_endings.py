"""Every stage stops where the template's turn ends, on a base model whose EOS ends documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignloop.data.chat import load_template
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import save_model
from alignloop.records import Message
from alignloop.serve.export import export
from alignloop.serve.merge import merge
from alignloop.serve.served import open_policy
from alignloop.stages.lint_ends import lint_end, lint_untrained_end
from alignloop.stages.local import Local
from tests.helpers_scripted import DOCUMENT_END, TURN_END, base_tokenizer, scripted_model
from tests.stages.task import run_stage

QUESTION = "<|im_start|>user\nsay<|im_end|>\n<|im_start|>assistant\n"
LENGTH = 24
ANSWER = {"prompt": "say", "answer": "okay"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model that says 'okay', ends its turn and begins again for ever."""
    tokenizer = base_tokenizer()
    script = tokenizer.encode("okay<|im_end|>", add_special_tokens=False)
    save_model(scripted_model(tokenizer, QUESTION, script), tokenizer, tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ANSWER) + "\n", encoding="utf-8")
    return tmp_path / "base"


def num_tokens(folder: Path) -> int:
    """Of an answer with its end."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return len(tokenizer.encode("okay<|im_end|>", add_special_tokens=False))


def keys(base: Path, **more: object) -> dict[str, object]:
    return {
        "model_name_or_path": str(base),
        "dataset": str(base.parent / "rows.jsonl"),
        "output_dir": str(base.parent / "run"),
        "max_new_tokens": LENGTH,
        "num_threads": 1,
        **more,
    }


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_rl_from_a_base_model(base: Path, stage: str, lora_r: int) -> None:
    more = {"per_device_train_batch_size": 1, "rollout_prompts": 1, "max_steps": 1, "lora_r": lora_r}
    more |= {
        "rewards": [{"verifier": "exact"}],
        "learning_rate": 1e-6,
        "max_length": 64,
        "num_generations": 4,
    }
    more |= {"missing_eos": "penalise", "missing_eos_value": 5.0} if stage == "ppo" else {}
    more = {key: value for key, value in more.items() if key != "num_generations" or stage == "grpo"}
    run = run_stage(stage, keys(base, **more))
    row = next(run.metrics())
    assert row["completion_length"] == num_tokens(base)
    assert (row["reward_exact"], row["reward"], row["eos_rate"]) == (1.0, 1.0, 1.0)
    if not lora_r:
        again = AutoModelForCausalLM.from_pretrained(run.model)
        assert again.generation_config.eos_token_id == [DOCUMENT_END, TURN_END]
        prompt = torch.tensor([AutoTokenizer.from_pretrained(run.model).encode(QUESTION)])
        made = again.generate(prompt, max_new_tokens=LENGTH, do_sample=False)
        assert made.shape[1] - prompt.shape[1] == num_tokens(base)


def test_sampled_answers(base: Path) -> None:
    run = run_stage("sample", keys(base, num_samples=2))
    rows = [json.loads(line) for line in (run.path / "data/rows.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["responses"] == ["okay", "okay"]


def test_compared_answers(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    local = Local("base", str(base), SamplingParams(temperature=0, max_tokens=LENGTH))
    (answer,) = local.sampled([(Message("user", "say"),)])
    assert (answer.text, len(answer.ids)) == ("okay", num_tokens(base))


def test_a_served_and_an_exported_model(base: Path, tmp_path: Path) -> None:
    policy = open_policy(base)
    assert policy.loaded.model.generation_config.eos_token_id == [DOCUMENT_END, TURN_END]
    done = export(base, tmp_path / "out", gguf="f32")
    settings = json.loads((done.folder / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [DOCUMENT_END, TURN_END]
    stops = [line for line in (done.folder / "Modelfile").read_text("utf-8").splitlines() if " stop " in line]
    assert stops == ['PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|endoftext|>"']


def test_a_merged_adapter_says_what_ends_its_turns(base: Path, tmp_path: Path) -> None:
    more = {"per_device_train_batch_size": 1, "max_steps": 1, "lora_r": 2, "learning_rate": 1e-6}
    rows = json.dumps({"prompt": "say", "response": "okay"}) + "\n"
    (tmp_path / "demos.jsonl").write_text(rows, encoding="utf-8")
    made = keys(base, dataset=str(tmp_path / "demos.jsonl"), **more)
    del made["max_new_tokens"]
    merge(run_stage("sft", made).path, tmp_path / "merged")
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [DOCUMENT_END, TURN_END]


def test_an_end_that_is_text_is_told(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    loaded = LoadedModel(scripted_model(tokenizer, QUESTION, [5, 6]), tokenizer, "base")
    assert lint_end(loaded, load_template("tokenizer", tokenizer)) == []
    file = tmp_path / "text.jinja"
    file.write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + ' [done]\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        encoding="utf-8",
    )
    (finding,) = lint_end(loaded, load_template(str(file), tokenizer))
    assert (finding.code, finding.severity) == ("AL118", "warning")
    assert "'[done]'" in finding.sentence


@pytest.mark.parametrize("fault", ["all but zero", "the same as other tokens"])
def test_an_end_that_an_adapter_cannot_learn_is_told(base: Path, fault: str) -> None:
    loaded = load_model(base)
    template = load_template("tokenizer", loaded.tokenizer)
    weight = loaded.model.get_output_embeddings().weight
    with torch.no_grad():
        weight.normal_()
        assert lint_untrained_end(loaded, template, lora=True) == []
        weight[TURN_END] = 0 if fault == "all but zero" else weight[7]
    assert lint_untrained_end(loaded, template, lora=False) == []
    (finding,) = lint_untrained_end(loaded, template, lora=True)
    assert (finding.code, finding.severity) == ("AL119", "warning")
    assert "'<|im_end|>'" in finding.sentence
    assert fault in finding.sentence
