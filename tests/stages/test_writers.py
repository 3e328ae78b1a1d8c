"""Models that the local engine cannot generate from are refused before weights, rewards and data are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers as hf
import yaml
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.config import find_stage, resolve
from alignloop.errors import ModelError
from alignloop.model.tiny import tiny_model
from alignloop.stages.writers import check_writer, read_shape, writers
from tests.stages.task import run_stage

SENTENCE = r"MambaForCausalLM has layers of kind linear_attention.*; use a model of another architecture"
SHARED = {"dataset": "nowhere.jsonl"}
TRAINED = {**SHARED, "per_device_train_batch_size": 4}
REWARD = {"rewards": [{"function": "nowhere:nothing"}]}
STAGES = {
    "sample": SHARED,
    "best_of_n": {**TRAINED, "reward_model": "runs/nowhere"},
    "iterate": {**TRAINED, **REWARD},
    "grpo": {**TRAINED, **REWARD, "rollout_prompts": 4},
    "ppo": {**TRAINED, **REWARD, "rollout_prompts": 4},
    "loop": {**TRAINED, "labels": "nowhere"},
    "evaluate": SHARED,
    "refusals": {},
    "compare": {"sets": [{"kind": "prompts", "path": "nowhere.jsonl"}]},
    "constitution": SHARED,
}
"""Keys of each stage that samples; nothing that they name is there."""


@pytest.fixture
def mamba(tmp_path: Path) -> str:
    """A folder with nothing but a configuration."""
    hf.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2).save_pretrained(tmp_path / "mamba")
    return str(tmp_path / "mamba")


def keys_of(stage: str, model: str) -> dict[str, object]:
    keys: dict[str, object] = {**STAGES[stage], "output_dir": str(Path(model).parent / "run")}
    if stage in ("evaluate", "refusals"):
        return {**keys, "before": "tiny", "after": model}
    return (
        {**keys, "models": ["tiny", model]} if stage == "compare" else {**keys, "model_name_or_path": model}
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_that_samples_says_so_first(mamba: str, stage: str) -> None:
    with pytest.raises(ModelError, match=SENTENCE):
        run_stage(stage, keys_of(stage, mamba))


@pytest.mark.parametrize("stage", ["sample", "grpo"])
def test_dry_run_and_doctor_say_it_too(mamba: str, stage: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"stage": stage, **keys_of(stage, mamba)}), encoding="utf-8")
    for command in (["run", str(recipe), "--dry-run"], ["doctor", str(recipe)], ["run", str(recipe)]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.output
        assert "MambaForCausalLM has layers of kind linear_attention" in result.output
        assert "Traceback" not in result.output


def test_what_only_reads_log_probs_may_be_any_model(mamba: str) -> None:
    sets = [{"kind": "perplexity", "path": "nowhere.jsonl"}]
    keys = {"models": ["tiny", mamba], "sets": sets, "output_dir": "run"}
    assert writers(resolve("compare", keys).config) == []
    sets.append({"kind": "exact", "path": "nowhere.jsonl"})
    others = ["http://localhost:1/v1", mamba]
    assert writers(resolve("compare", {**keys, "models": others, "sets": sets}).config) == [mamba]
    assert find_stage("sft")


def test_an_adapter_is_generated_from_as_its_base(mamba: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{mamba}"}}')
    with pytest.raises(ModelError, match=SENTENCE):
        check_writer(str(adapter))
    assert read_shape("tiny") is read_shape("tiny:3") is read_shape("smollm2-135m-instruct") is None


def test_a_model_that_can_be_generated_from_passes(tmp_path: Path) -> None:
    tiny_model()[0].config.save_pretrained(tmp_path)
    check_writer(str(tmp_path))
    assert read_shape(str(tmp_path)) is not None
    with pytest.raises(ModelError, match="neither a folder nor"):
        check_writer("./nowhere")
