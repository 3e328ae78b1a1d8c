"""Adapters that peft made, on the model they name: peft's own logits, or a refusal by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    get_peft_model,
)
from peft import PromptTuningConfig as PromptConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignloop.data.packing import Group, collate, completion
from alignloop.errors import ModelError
from alignloop.model import adapter_load
from alignloop.model.adapter_load import load_adapter, merged
from alignloop.model.adapters import LoraSettings, adapters_off, add_adapter
from alignloop.model.load import load_model, load_skeleton
from alignloop.model.packed import PackedModel
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.serve.merge import merge

IDS = torch.tensor([[5, 17, 30, 8, 40, 41, 3]])
NEW = 3
"""Tokens that a resized adapter brings."""


def lora(**keys: object) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **{"target_modules": "all-linear", **keys})


EVERYTHING = ["embed_tokens", "lm_head"]
KINDS: dict[str, tuple[Callable[[], PeftConfig], bool, int]] = {
    # name: configuration, tied embeddings, tokens added to the base
    "plain": (lora, True, 0),
    "rslora": (lambda: lora(use_rslora=True), True, 0),
    "dora": (lambda: lora(use_dora=True), False, 0),
    "pissa": (lambda: lora(init_lora_weights="pissa"), False, 0),
    "regex and ranks": (
        lambda: lora(
            target_modules=r".*\.(q|v)_proj", rank_pattern={"q_proj": 3}, alpha_pattern={"q_proj": 9}
        ),
        True,
        0,
    ),
    "bias": (lambda: lora(bias="all"), True, 0),
    "embeddings, tied": (lambda: lora(target_modules=["q_proj", "embed_tokens"]), True, 0),
    "head, tied": (lambda: lora(target_modules=["q_proj", "lm_head"]), True, 0),
    "both, tied": (lambda: lora(target_modules=EVERYTHING), True, 0),
    "both, kept tied": (lambda: lora(target_modules=EVERYTHING, ensure_weight_tying=True), True, 0),
    "dora on the head, tied": (lambda: lora(target_modules=["lm_head"], use_dora=True), True, 0),
    "saved embeddings": (lambda: lora(modules_to_save=EVERYTHING), False, 0),
    "saved embeddings, tied": (lambda: lora(modules_to_save=EVERYTHING), True, 0),
    "saved head, tied": (lambda: lora(modules_to_save=["lm_head"]), True, 0),
    "single tokens": (lambda: lora(trainable_token_indices=[5, 6]), False, 0),
    "single tokens, tied": (lambda: lora(trainable_token_indices=[5, 6]), True, 0),
    "resized": (lambda: lora(modules_to_save=EVERYTHING), False, NEW),
    "resized, tied": (lora, True, NEW),
    "ia3": (
        lambda: IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
        True,
        0,
    ),
    "loha": (lambda: LoHaConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"]), True, 0),
}


def tokens() -> hf.PreTrainedTokenizerBase:
    return tiny_model()[1]


def save_base(folder: Path, *, tied: bool) -> Path:
    """A small Llama of its own weights, with a tokenizer."""
    torch.manual_seed(0)
    tokenizer = tokens()
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    save_model(hf.LlamaForCausalLM(config).eval(), tokenizer, folder)
    return folder


def make(folder: Path, config: PeftConfig, base: Path, *, new: int = 0) -> torch.Tensor:
    """Save an adapter with random values as peft does. Returns peft's logits on `IDS`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if new:
        tokenizer.add_tokens([f"<new{i}>" for i in range(new)])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    wrapped = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    if new:
        tokenizer.save_pretrained(folder)
    with torch.no_grad():
        return wrapped.eval()(input_ids=IDS).logits


@pytest.mark.filterwarnings("ignore")  # peft's, of tied embeddings
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_what_peft_says_it_is(kind: str, tmp_path: Path) -> None:
    config, tied, new = KINDS[kind]
    base = save_base(tmp_path / "base", tied=tied)
    want = make(tmp_path / "adapter", config(), base, new=new)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    assert (plain - want[..., : plain.shape[-1]]).abs().max() > 0.01 * want.abs().max()
    bound = 1e-5 * float(want.abs().max())
    loaded = load_model(tmp_path / "adapter", dtype="float32", device="cpu")
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved", dtype="float32", device="cpu")
    merge(tmp_path / "adapter", tmp_path / "merged", device="cpu")
    folder = load_model(tmp_path / "merged", dtype="float32", device="cpu")
    for model in (loaded.model, copy.deepcopy(loaded.model), again.model, folder.model):
        with torch.no_grad():
            assert (model(IDS).logits - want).abs().max() <= bound
    assert len(loaded.tokenizer) == len(tokens()) + new
    skeleton = load_skeleton(tmp_path / "adapter").model
    assert skeleton.get_input_embeddings().weight.shape == loaded.model.get_input_embeddings().weight.shape


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "PREFIX_TUNING"),
        (PromptConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "PROMPT_TUNING"),
        (AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1), "ADAPTION_PROMPT"),
    ],
)
def test_what_changes_no_weights_is_refused_by_name(config: PeftConfig, kind: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    make(tmp_path / "adapter", config, base)
    for door in (load_model, lambda folder: merge(folder, tmp_path / "merged")):
        with pytest.raises(ModelError, match=f"'.*adapter' is of the kind {kind}, which changes no weights"):
            door(tmp_path / "adapter")


def test_what_peft_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    make(tmp_path / "adapter", lora(), base)
    file = tmp_path / "adapter" / "adapter_config.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**rows, "peft_type": "NEWEST"}), encoding="utf-8")
    with pytest.raises(ModelError, match="of the kind NEWEST, which the installed peft does not read"):
        load_model(tmp_path / "adapter")
    file.write_text(json.dumps({**rows, "turn_around": True, "unused": None}), encoding="utf-8")
    with pytest.raises(ModelError, match="has turn_around, which the installed peft does not know"):
        load_model(tmp_path / "adapter")
    file.write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match="holds no object"):
        load_model(tmp_path / "adapter")
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "adapter")


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    make(tmp_path / "adapter", lora(), base)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:40])
    with pytest.raises(ModelError, match="is damaged"):
        load_model(tmp_path / "adapter")
    weights.write_bytes(content)
    model, tokenizer = tiny_model(hidden_size=64)
    save_model(model, tokenizer, base)
    with pytest.raises(ModelError, match="does not fit this base: size mismatch"):
        load_model(tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(ModelError, match="pickled weights are not read"):
        load_model(tmp_path / "adapter")


def test_a_merge_that_loses_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without untying the merged model would be another one, which the comparison must see."""
    base = save_base(tmp_path / "base", tied=True)
    make(tmp_path / "adapter", lora(target_modules=["embed_tokens"]), base)
    monkeypatch.setattr(adapter_load, "_untie", lambda hf: None)
    with pytest.raises(ModelError, match="merged into its base it is another model"):
        load_model(tmp_path / "adapter", dtype="float32")


def test_rows_for_one_end_of_an_untied_model_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=False)
    make(tmp_path / "adapter", lora(modules_to_save=["embed_tokens"]), base, new=NEW)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    kept = {key: value for key, value in load_file(file).items() if "lm_head" not in key}
    save_file(kept, file)
    with pytest.raises(
        ModelError, match=r"515 rows of the embeddings and the base 512|save the adapter with both"
    ):
        load_model(tmp_path / "adapter")


def test_merging_in_bfloat16_rounds_only(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    want = make(tmp_path / "adapter", lora(target_modules=["q_proj", "lm_head"]), base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    with torch.no_grad():
        got = merged(model, tmp_path / "adapter")(IDS).logits.float()
    assert (got - want).norm() < 0.03 * want.norm()  # 2⁻⁹ for each of some ten roundings


# Training an adapter: every place is trained, or refused by name.


def moe(kind: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    few = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    if kind == "qwen3_moe":
        return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**shape, **few)).eval()
    return hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(**shape, **few, shared_expert_intermediate_size=16)
    ).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("places", [("lm_head",), ("q_proj", "embed_tokens"), r".*(q_proj|lm_head)"])
def test_an_adapter_on_embeddings_or_head_is_refused(places: str | tuple[str, ...], tied: bool) -> None:
    model = (
        tiny_model()[0]
        if tied
        else hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=99,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
            )
        )
    )
    with pytest.raises(
        ModelError, match=r"'(lm_head|embed_tokens)' is the .* where no adapter is trained; leave"
    ):
        add_adapter(model, LoraSettings(target_modules=places))


def test_a_name_that_matches_no_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="lora_target_modules: 'w1' matches no layer"):
        add_adapter(tiny_model()[0], LoraSettings(target_modules=("q_proj", "w1")))


@pytest.mark.parametrize("places", ["all-linear", ("q_proj", "down_proj"), ("gate_proj",)])
def test_experts_that_would_be_left_out_are_refused(places: str | tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"experts' weights \(model.layers.0.mlp.experts.\w+ and its like\)"):
        add_adapter(moe("qwen2_moe"), LoraSettings(r=2, target_modules=places))


def test_layers_beside_the_experts_can_be_named() -> None:
    wrapped = add_adapter(
        moe("qwen2_moe"), LoraSettings(r=2, target_modules=("q_proj", "shared_expert.up_proj"))
    )
    trained = {
        name.split(".lora_")[0].split(".")[-1] for name, p in wrapped.named_parameters() if p.requires_grad
    }
    assert trained == {"q_proj", "up_proj"}


def test_fused_experts_are_trained_and_read_again(tmp_path: Path) -> None:
    model = moe("qwen3_moe")
    save_model(model, tokens(), tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    packed = PackedModel(model)
    wrapped = add_adapter(model, LoraSettings(r=2))
    batch = collate([Group(torch.arange(5, 40).int().numpy(), (completion([50, 51, 52]),))])
    before = packed(batch).logprobs
    before.sum().backward()
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert (
        sum(".experts." in name and "lora_B" in name for name in trained) == 2 * 2
    )  # both weights, each layer
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert ("lora_B" in name) == bool(parameter.grad.abs().sum() > 0), name  # A waits for B at first
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        after = packed(batch).logprobs
        assert (after - before).abs().max() > 0.01
        with adapters_off(wrapped):
            torch.testing.assert_close(packed(batch).logprobs, before, rtol=0, atol=1e-5)
        packed.restore_attention()
        want = wrapped(input_ids=IDS).logits
    save_model(wrapped, tokens(), tmp_path / "adapter")
    got = merged(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(got(IDS).logits, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_a_second_adapter_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    make(tmp_path / "adapter", lora(), base)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = add_adapter(model, LoraSettings(r=2))
    flags = {name: p.requires_grad for name, p in wrapped.named_parameters()}
    load_adapter(wrapped, tmp_path / "adapter", name="reward_1")
    now = dict(wrapped.named_parameters())
    assert {name: now[name].requires_grad for name in flags} == flags
    assert not any(p.requires_grad for name, p in now.items() if "reward_1" in name)
