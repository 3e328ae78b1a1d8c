"""A model as one GGUF file, for llama.cpp, Ollama and everything built on them.

Decoders of the llama and qwen2 kind with a byte-level BPE tokenizer; anything else is refused, since a
file that loads and answers otherwise than the model is worse than none. Names and layouts are those
of the `gguf` package; llama's query and key rows are stored in the order of its rotary form, in which
the two halves of a head alternate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignloop.data.chat import ChatTemplate
from alignloop.errors import ModelError
from alignloop.foreign import loads
from alignloop.io import new_file
from alignloop.model.endings import TurnEnd, end_turns
from alignloop.model.load import LoadedModel

Storage = Literal["f32", "f16", "bf16", "q8_0"]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
}
"""By transformers' model type."""
_TYPES: Mapping[Storage, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
STORAGES = tuple(_TYPES)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_LLAMA3: "llama-bpe", _LLAMA3.replace("{1,3}", ""): "qwen2"}
"""llama.cpp's name of a way to split text into words, by its regular expression."""


def write_gguf(
    loaded: LoadedModel, template: ChatTemplate, file: Path, *, name: str, storage: Storage = "f32"
) -> None:
    """Write a model with its tokenizer and chat template; the file is complete or not there.

    Args:
        loaded: the model, without adapters.
        template: how messages become text.
        file: where.
        name: what the model is called.
        storage: of matrices; vectors are float32. q8_0 is 8 bits in blocks of 32.

    Raises:
        ModelError: an architecture, rotary scaling or tokenizer that the file cannot describe.
    """
    architecture = _architecture(loaded.model)
    described = _vocabulary(loaded)
    with new_file(file) as made:
        writer = gguf.GGUFWriter(made, gguf.MODEL_ARCH_NAMES[architecture])
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(_TYPES[storage][1])
        _add_shape(writer, loaded.model)
        ends = end_turns(loaded.model, loaded.tokenizer, template)
        _add_tokenizer(writer, loaded.tokenizer, described, template, ends, num_rows=_rows(loaded.model))
        for key, array, kind in _tensors(loaded.model, architecture, storage):
            writer.add_tensor(key, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _architecture(model: PreTrainedModel) -> gguf.MODEL_ARCH:
    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"GGUF: models of type '{config.model_type}' are not supported; "
            f"those of type {', '.join(ARCHITECTURES)} are"
        )
    rope = config.rope_parameters
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    troubles = {
        f"rotary scaling '{rope.get('rope_type')}'": rope.get("rope_type", "default") != "default",
        f"activation '{config.hidden_act}'": config.hidden_act != "silu",
        "attention biases": config.model_type != "qwen2" and getattr(config, "attention_bias", False),
        "biases in its feed-forward layers": getattr(config, "mlp_bias", False),
        "a sliding window": _slides(config),
        "heads that do not make up its hidden size": config.model_type == "qwen2"
        and head_size * config.num_attention_heads != config.hidden_size,
    }
    found = next((trouble for trouble, there in troubles.items() if there), None)
    if found is not None:
        raise ModelError(f"GGUF: this {config.model_type} model has {found}, which is not supported")
    return ARCHITECTURES[config.model_type]


def _slides(config: Any) -> bool:
    window = getattr(config, "sliding_window", None)
    return window is not None and (config.model_type != "qwen2" or config.use_sliding_window)


def _add_shape(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(_rows(model))


def _rows(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore[reportIndexIssue]


def _tensors(
    model: PreTrainedModel, architecture: gguf.MODEL_ARCH, storage: Storage
) -> Iterator[tuple[str, np.ndarray, gguf.GGMLQuantizationType]]:
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"GGUF: the weight '{key}' has no place in the file")
        array = _ordered(tensor.detach().float().cpu(), key, model, architecture).numpy()
        kind = _TYPES[storage][0] if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        if kind == gguf.GGMLQuantizationType.Q8_0 and array.shape[-1] % 32:
            kind = gguf.GGMLQuantizationType.F16
        yield name, gguf.quantize(array, kind), kind


def _ordered(tensor: torch.Tensor, key: str, model: PreTrainedModel, arch: gguf.MODEL_ARCH) -> torch.Tensor:
    """Query and key rows of llama with the halves of each head interleaved; all others as they are."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    number = heads.get(key.split(".")[-2])
    if arch != gguf.MODEL_ARCH.LLAMA or number is None:
        return tensor.contiguous()
    halves = tensor.unflatten(0, (number, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2).contiguous()


def _vocabulary(loaded: LoadedModel) -> dict[str, Any]:
    """The tokenizer's own description, checked to be one that GGUF's `gpt2` kind can hold."""
    if not loaded.tokenizer.is_fast:
        raise ModelError("GGUF: the tokenizer has no tokenizer.json, from which the file is made")
    backend: Any = loaded.tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    described = loads(backend.to_str())
    if described["model"]["type"] != "BPE" or not described["model"].get("merges"):
        raise ModelError(f"GGUF: a tokenizer of kind {described['model']['type']} is not supported; BPE is")
    described["split"] = _split(described["pre_tokenizer"] or {})
    if (described["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise ModelError(f"GGUF: the tokenizer's {described['normalizer']['type']} is not supported")
    return described


def _split(pre: Mapping[str, Any]) -> str:
    """llama.cpp's name of how the tokenizer splits text into words."""
    steps: Sequence[Mapping[str, Any]] = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    *first, last = steps
    if kinds[-1] == "ByteLevel" and not last.get("add_prefix_space"):
        if not first and last.get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and first[0].get("individual_digits") and last["use_regex"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
            found = _SPLITS.get(first[0]["pattern"].get("Regex", ""))
            if found is not None:
                return found
    raise ModelError(
        f"GGUF: the tokenizer splits text in a way ({', '.join(map(str, kinds))}) that is not supported"
    )


def _add_tokenizer(
    writer: gguf.GGUFWriter,
    tokenizer: PreTrainedTokenizerBase,
    described: Mapping[str, Any],
    template: ChatTemplate,
    ends: TurnEnd,
    *,
    num_rows: int,
) -> None:
    tokens, kinds = _token_table(described, num_rows)
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(described["split"])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if isinstance(number, int):
            add(number)
    # llama.cpp stops at each of EOS, end of turn and end of message; there are no more places than these
    places = (writer.add_eot_token_id, writer.add_eom_token_id)
    others = [token for token in ends.tokens[1:] if token != tokenizer.eos_token_id]
    for token, add in zip([*ends.tokens[:1], *others], places, strict=False):
        add(token)
    leading = tokenizer.encode("", add_special_tokens=True)[:1]
    writer.add_add_bos_token(bool(leading) and leading[0] == tokenizer.bos_token_id)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template.portable)


def _token_table(described: Mapping[str, Any], num_rows: int) -> tuple[list[str], list[int]]:
    """A token and its kind for each row of the embedding."""
    names = {number: token for token, number in described["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, gguf.TokenType.NORMAL)
    for token in described["added_tokens"]:
        names[token["id"]] = token["content"]
        special = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        kinds[token["id"]] = special
    if max(names) >= num_rows:
        raise ModelError(f"GGUF: the tokenizer has tokens beyond the model's {num_rows} embeddings")
    every = range(num_rows)
    return (
        [names.get(number, f"[PAD{number}]") for number in every],
        [int(kinds.get(number, gguf.TokenType.UNUSED)) for number in every],
    )
