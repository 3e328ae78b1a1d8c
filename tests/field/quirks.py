"""Small models with the quirks of public ones: ends of turns, thoughts, dates, tokenizers, vocabularies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = ["the sun warms the sea", "a good answer is short", "비가 오면 강이 불어나고", "say okay then"] * 4
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ANSWER_MARK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + ANSWER_MARK
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}" + ANSWER_MARK
)
ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '</turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
DATED = (
    "{{ bos_token + '[SYS]' + strftime_now('%Y-%m-%d') + '[/SYS]' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ANSWER_MARK
)


def byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def sentencepiece_like(special: list[str]) -> Tokenizer:
    """Metaspace, a BOS in front, and characters that were not seen as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    bytes_ = [AddedToken(f"<0x{i:02X}>", special=False, normalized=False) for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *special, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    bos = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=bos
    )
    return tokenizer


@dataclass(frozen=True)
class Quirk:
    """A model folder to make."""

    template: str | None
    special: tuple[str, ...] = ("<s>", "</s>")
    make: Callable[[list[str]], Tokenizer] = byte_level
    bos: str | None = "<s>"
    eos: str | None = "</s>"
    pad: str | None = None
    ends: tuple[str, ...] = ()
    more_rows: int = 0
    more_tokens: tuple[str, ...] = ()
    tie: bool = True


IM_CHAT = {"special": tuple(IM), "bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>"}
QUIRKS = {
    "thinking": Quirk(THINKING, **{**IM_CHAT, "special": (*IM, "<think>", "</think>")}, ends=tuple(IM[::2])),
    "alternating": Quirk(ALTERNATING, ("<s>", "</s>", "<turn>", "</turn>"), ends=("</s>", "</turn>")),
    "dated": Quirk(DATED, ("<s>", "</s>", "[INST]", "[/INST]")),
    "generation tags": Quirk(GENERATION, **IM_CHAT),
    "no pad": Quirk(ZEPHYR, ("<s>", "</s>", "<|user|>")),
    "pad is eos": Quirk(ZEPHYR, pad="</s>"),
    "always a generation prompt": Quirk(
        CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"), **IM_CHAT
    ),
    "no template": Quirk(None, ("<|endoftext|>",), bos="<|endoftext|>", eos="<|endoftext|>"),
    "no eos": Quirk(ZEPHYR, ("<s>",), eos=None),
    "eos is not the turn's end": Quirk(CHATML, **{**IM_CHAT, "eos": "<|endoftext|>"}),
    "byte fallback": Quirk(ZEPHYR, make=sentencepiece_like, pad="<unk>"),
    "byte fallback, bos in the template": Quirk(
        "{{ bos_token }}" + ZEPHYR, make=sentencepiece_like, pad="<unk>"
    ),
    "tokens beyond the embeddings": Quirk(CHATML, **IM_CHAT, more_tokens=("<tool>", "<more>")),
    "more embeddings than tokens": Quirk(CHATML, **IM_CHAT, more_rows=300),
    "untied": Quirk(CHATML, **IM_CHAT, tie=False),
}


def save_quirk(name: str, folder: Path) -> PreTrainedTokenizerFast:
    """Write the model folder; returns its tokenizer."""
    quirk = QUIRKS[name]
    made = quirk.make(list(quirk.special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=quirk.bos,
        eos_token=quirk.eos,
        pad_token=quirk.pad,
        chat_template=quirk.template,
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer) + quirk.more_rows,
        max_position_embeddings=256,
        tie_word_embeddings=quirk.tie,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    model = LlamaForCausalLM(config)
    if quirk.ends:
        ends = [tokenizer.convert_tokens_to_ids(token) for token in quirk.ends]
        model.generation_config = GenerationConfig(
            eos_token_id=ends, do_sample=True, temperature=0.6, top_p=0.9
        )
    tokenizer.add_tokens(list(quirk.more_tokens))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
