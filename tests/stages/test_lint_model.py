"""Traps in a loaded model, put in on purpose."""

import json

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.tiny import tiny_model
from alignloop.runs import Run
from alignloop.stages.lint_model import lint_head, lint_reference_values, lint_weights
from alignloop.training.reference import adapter_reference, with_reference_logprobs
from tests.stages.task import recipe, run_stage
from tests.training.helpers import make_trainer, pair_groups


def codes(findings):
    return [(finding.code, finding.severity) for finding in findings]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(value):
    model = make_trainer().model
    assert lint_weights(model) == []
    with torch.no_grad():
        model.hf.model.layers[0].mlp.up_proj.weight[3, 5] = value
    (finding,) = lint_weights(model)
    assert (finding.code, finding.severity) == ("AL303", "error")
    assert "'hf.model.layers.0.mlp.up_proj.weight'" in finding.sentence


def test_an_unseeded_head():
    assert lint_head(ScalarHead(32, 2, seed=7), 7) == []
    assert codes(lint_head(ScalarHead(32, 2, seed=8), 7)) == [("AL302", "error")]
    forgotten = ScalarHead(32, 2, seed=7)
    nn.init.normal_(forgotten.weight)
    assert codes(lint_head(forgotten, 7)) == [("AL302", "error")]


def test_stored_log_probs_of_other_weights():
    model, groups = make_trainer().model, pair_groups(3)
    own, _ = with_reference_logprobs(groups, model, token_budget=99)
    assert lint_reference_values(model, own, None) == []
    other, _ = with_reference_logprobs(groups, make_trainer(seed=3).model, token_budget=99)
    assert codes(lint_reference_values(model, other, None)) == [("AL301", "error")]


def test_stored_log_probs_in_bfloat16_are_read_in_bfloat16():
    model, groups = make_trainer().model, pair_groups(3)
    with torch.no_grad():
        model.hf.model.norm.weight.fill_(100.0)  # pyright: ignore[reportArgumentType]
    model.autocast = torch.bfloat16
    own, _ = with_reference_logprobs(groups, model, token_budget=99)
    assert lint_reference_values(model, own, None) == []
    other, _ = with_reference_logprobs(groups, make_trainer(seed=3).model, token_budget=99)
    assert codes(lint_reference_values(model, other, None)) == [("AL301", "error")]
    model.autocast = None  # a reading in another type is no small thing
    (finding,) = lint_reference_values(model, own, None)
    assert finding.code == "AL301"


def lora_model():
    hf, _ = tiny_model(hidden_size=32, num_layers=2)
    peft = add_adapter(hf, LoraSettings(r=4))
    return PackedModel(hf), peft


def test_an_adapter_left_on():
    model, peft = lora_model()
    reference = adapter_reference(model, peft)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert lint_reference_values(model, pair_groups(3), reference) == []
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())

    def left_on(batch):
        with torch.no_grad():
            return model(batch).logprobs

    assert codes(lint_reference_values(model, pair_groups(3), left_on)) == [("AL301", "error")]


def test_one_layer_whose_adapter_cannot_be_switched_off():
    model, peft = lora_model()
    layer = next(m for m in model.hf.modules() if isinstance(m, LoraLayer))
    layer.enable_adapters = lambda enabled: None  # pyright: ignore[reportAttributeAccessIssue]
    found = lint_reference_values(model, pair_groups(3), adapter_reference(model, peft))
    assert codes(found) == [("AL301", "error")]


def test_a_damaged_model_stops_a_stage_before_its_first_step(tmp_path):
    keys = recipe(tmp_path)
    file = tmp_path / "start" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    rows = [json.dumps({"prompt": letter, "chosen": "a", "rejected": "b"}) for letter in "abc"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    wanted = ("model_name_or_path", "output_dir", "max_length", "num_threads")
    keys = {name: keys[name] for name in wanted} | {"dataset": str(tmp_path / "pairs.jsonl")}
    with pytest.raises(ModelError, match=r"AL303: weight 'model.norm.weight' holds NaN or infinity"):
        run_stage("orpo", keys)
    assert list(Run.open(tmp_path / "run").metrics()) == []
