"""A model that says one thing: after each token the next one of a script, whatever came before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignloop.model.tiny import CHATML, train_tokenizer

DOCUMENT_END, TURN_START, TURN_END = 0, 1, 2
"""Ids of `<|endoftext|>`, `<|im_start|>` and `<|im_end|>`."""


def base_tokenizer(
    *, eos: str | None = "<|endoftext|>", template: str | None = CHATML, added: Sequence[AddedToken] = ()
) -> PreTrainedTokenizerFast:
    """A base model's tokenizer: turns of ChatML, and an EOS that ends documents."""
    tokenizer = train_tokenizer(["say okay then and stop", "the sun warms the sea"], vocab_size=320)
    tokenizer.bos_token = None
    tokenizer.add_tokens(list(added))
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


def scripted_model(
    tokenizer: PreTrainedTokenizerFast, prompt: str, script: Sequence[int], *, eos: int | None = DOCUMENT_END
) -> LlamaForCausalLM:
    """A small Llama that follows `prompt` with the script, and the script with itself, for ever.

    Args:
        tokenizer: gives the size of the vocabulary.
        prompt: its last token begins the script.
        script: distinct token ids.
        eos: in the model's settings.
    """
    last = tokenizer.encode(prompt, add_special_tokens=False)[-1]
    follows: Mapping[int, int] = {last: script[0], **dict(pairwise(script)), script[-1]: script[0]}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=DOCUMENT_END,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:  # the layers add nothing, so the last token alone decides
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = torch.nn.functional.normalize(torch.randn(len(tokenizer), 64), dim=1)
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.zero_()
        for token, following in follows.items():
            model.lm_head.weight[following] += 10 * embeddings[token]
    return model
