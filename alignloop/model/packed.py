"""One forward for everything: packed groups in, per-token log-probs and scalar heads out.

N tokens in the packed row, h hidden size, B completions, T tokens of the longest. R rows of hidden
states: N for a packed row, more where the fallback runs padded rows.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.model import attention
from alignloop.model.lean import use_lean_forms
from alignloop.model.logprobs import LogitTransform, token_logprobs, transform_of
from alignloop.model.onednn import use_fast_linears
from alignloop.model.precision import autocast_to, in_precision


@dataclass(frozen=True, slots=True)
class Forward:
    """What a forward pass yields; fields that were not asked for are None.

    Attributes:
        logprobs: float32 (B, T), nats, 0 where masked.
        entropy: float32 (B, T), nats, 0 where masked.
        scores: float32 (B, A), scalar head at each completion's last token.
        values: float32 (B, T), scalar head at the places that predict the tokens, 0 where masked.
        prompt_logprob: float32 (P,), Σ log-probs of each prompt's tokens but the first, nats.
    """

    logprobs: Tensor | None = None
    entropy: Tensor | None = None
    scores: Tensor | None = None
    values: Tensor | None = None
    prompt_logprob: Tensor | None = None


class ScalarHead(nn.Module):
    """A linear head h → A with an output gain and bias that are set after training, not learned.

    Weights start from N(0, 1/(h+1)) (Stiennon et al. 2020) drawn from a seed, the bias from 0. The head
    computes in float32 (float64 for float64 weights) whatever the model around it computes in: bfloat16
    keeps 8 bits, so it would round a reward or value of 66 to a multiple of 0.5.
    """

    def __init__(self, hidden_size: int, num_outputs: int = 1, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(num_outputs, hidden_size, generator=generator) / (hidden_size + 1) ** 0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", torch.ones(num_outputs))
        self.register_buffer("shift", torch.zeros(num_outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, h) → float32 (R, A)."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            raw = torch.nn.functional.linear(hidden.to(dtype), weight, bias)
            return raw * self.gain + self.shift


class PackedModel(nn.Module):
    """A transformers decoder that runs packed groups, with an optional scalar head.

    Attributes:
        hf: the transformers model (LoRA layers injected in place, if any).
        head: scalar head for reward models and critics, or None.
        shared_prefix: True if packed rows are used; False if the padded fallback is.
        autocast: type of the matrix products, None where it is the weights'; `hidden` and `forward` enter it.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        *,
        head: ScalarHead | None = None,
        shared_prefix: bool | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hf = hf
        self.head = head
        self.autocast = autocast
        self.transform = transform_of(hf.config.get_text_config())
        use_fast_linears(hf)
        use_lean_forms(hf)
        self._plain = _plain_attention(hf)
        self.shared_prefix = verify(hf) if shared_prefix is None else shared_prefix
        if self.shared_prefix:
            attention.enable(hf)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.hf.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the matrix products."""
        return self.autocast or self.hf.dtype

    def precision(self) -> AbstractContextManager[None]:
        """The context this model computes in, for what runs `hf` itself: the sampler of an online stage."""
        return autocast_to(self.autocast, self.device)

    def restore_attention(self) -> None:
        """Give the transformers model its own attention back, for generation or saving."""
        self.hf.set_attn_implementation(self._plain)

    @in_precision
    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, (R, h), after the model's final norm."""
        decoder = self.hf.get_decoder()
        if self.shared_prefix:
            if self.hf.config._attn_implementation != attention.SHARED_PREFIX:
                attention.enable(self.hf)
            out = decoder(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                segments=batch.segments,
                use_cache=False,
            )
            return out.last_hidden_state[0]
        if self.hf.config._attn_implementation == attention.SHARED_PREFIX:  # another role runs packed rows
            self.restore_attention()
        ids, mask, positions, _ = _padded(batch)
        out = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return out.last_hidden_state.flatten(0, 1)

    def _logprobs(
        self, hidden: Tensor, targets: Tensor, transform: LogitTransform, *, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        head = self.hf.get_output_embeddings()
        assert head is not None, "a causal language model has a vocabulary head"
        bias = getattr(head, "bias", None)
        return token_logprobs(hidden, head.weight, targets, bias=bias, transform=transform, entropy=entropy)

    @in_precision
    def forward(
        self,
        batch: Batch,
        *,
        logprobs: bool = True,
        entropy: bool = False,
        scores: bool = False,
        values: bool = False,
        prompt_logprob: bool = False,
        temperature: float = 1.0,
    ) -> Forward:
        """Run the decoder once and read what is asked for.

        Args:
            batch: micro-batch of packed groups; moved to the model's device if it is elsewhere.
            logprobs: per-token log-probs of the counted completion tokens.
            entropy: per-token entropies of the policy (with `logprobs`).
            scores: scalar head at the last token of each completion.
            values: first output of the scalar head at each place that predicts a token.
            prompt_logprob: sum of the log-probs of each prompt's own tokens.
            temperature: sampling temperature the logits are divided by.

        Returns:
            The tensors asked for.

        Raises:
            ValueError: scores or values without a scalar head.
        """
        batch = batch.to(self.device)
        hidden = self.hidden(batch)
        predict, last = batch.predict_index, batch.last_index
        places = None if self.shared_prefix else _padded(batch)[3]
        if places is not None:
            predict, last = torch.where(batch.mask, _padded_predict(batch), 0), places[last]
        result = Forward()
        counted = batch.mask
        transform = replace(self.transform, temperature=temperature)
        if logprobs or entropy:
            flat, ent = self._logprobs(
                hidden[predict[counted]], batch.target_ids[counted], transform, entropy=entropy
            )
            result = replace(
                result,
                logprobs=_scatter(flat, counted),
                entropy=None if ent is None else _scatter(ent, counted),
            )
        if prompt_logprob:
            at, number = _prompt_places(batch)
            flat, _ = self._logprobs(
                hidden[at if places is None else places[at]], batch.input_ids[0, at + 1], transform
            )
            sums = torch.zeros(len(batch.indices), dtype=flat.dtype, device=flat.device)
            result = replace(result, prompt_logprob=sums.index_add(0, number, flat))
        if (scores or values) and self.head is None:
            raise ValueError("this model has no scalar head; reward models and critics have one")
        if scores and self.head is not None:
            result = replace(result, scores=self.head(hidden[last]))
        if values and self.head is not None:
            result = replace(result, values=_scatter(self.head(hidden[predict[counted]])[:, 0], counted))
        return result


def _plain_attention(hf: PreTrainedModel) -> str:
    """The attention a model has by itself, also where another role on it has switched to packed rows."""
    current = str(hf.config._attn_implementation)
    if current != attention.SHARED_PREFIX:
        return current
    return "sdpa" if hf._supports_sdpa else "eager"


def _prompt_places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Places of the row that predict a prompt token (all but the first), and their group numbers."""
    spans = [range(s.start, s.start + s.prompt_length - 1) for s in batch.segments.spans]
    at = torch.tensor([place for span in spans for place in span], dtype=torch.long)
    number = torch.tensor([g for g, span in enumerate(spans) for _ in span], dtype=torch.long)
    return at.to(batch.input_ids.device), number.to(batch.input_ids.device)


def _scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """(M,) values into the True places of a (B, T) mask, 0 elsewhere; differentiable."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def _padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded rows of a packed batch, one for each completion with its whole prompt.

    Returns:
        input_ids, attention mask and position ids, (B, L) each, and for every place of the packed
        row its place among the B·L padded ones (prompt tokens: those of the first completion).
    """
    rows: list[tuple[int, int, int, int]] = []
    for span in batch.segments.spans:
        start = span.start + span.prompt_length
        for length in span.lengths:
            rows.append((span.start, span.prompt_length, start, length))
            start += length
    longest = max(prompt + length for _, prompt, _, length in rows)
    device = batch.input_ids.device
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    places = torch.zeros(batch.num_tokens, dtype=torch.long, device=device)
    for row, (first, prompt, start, length) in reversed(list(enumerate(rows))):
        total = prompt + length
        ids[row, :prompt] = batch.input_ids[0, first : first + prompt]
        ids[row, prompt:total] = batch.input_ids[0, start : start + length]
        mask[row, :total] = 1
        base = row * longest
        places[first : first + prompt] = torch.arange(base, base + prompt, device=device)
        places[start : start + length] = torch.arange(base + prompt, base + total, device=device)
    positions = torch.arange(longest, device=device).expand(len(rows), -1)
    return ids, mask, positions, places


def _padded_predict(batch: Batch) -> Tensor:
    """`Batch.predict_index` for padded rows: a row's own copy of the prompt predicts its first token."""
    last = _padded(batch)[3][batch.last_index]
    steps = torch.arange(batch.mask.shape[1], device=last.device)
    return (last - batch.lengths)[:, None] + steps


def verify(hf: PreTrainedModel, *, tolerance: float = 2e-3) -> bool:
    """Whether a packed row gives this model's own numbers; a warning says so if not.

    Compares the hidden states of a short random group with K = 2 in both layouts, relative to their
    size. Costs two forward passes of about twenty tokens.
    """
    attention.register()
    generator = np.random.default_rng(0)
    high = min(hf.config.get_text_config().vocab_size, 1000)
    ids = generator.integers(3, high, size=19)
    group = Group(ids[:9].astype(np.int32), (completion(ids[9:15]), completion(ids[15:])), 0)
    batch = collate([group]).to(hf.device)
    current = str(hf.config._attn_implementation)
    was_training = hf.training
    hf.eval()
    try:
        with torch.no_grad():
            padded = PackedModel(hf, shared_prefix=False)
            places = _padded(batch)[3]
            expected = padded.hidden(batch)[places].float()
            try:
                packed = PackedModel(hf, shared_prefix=True)
                got = packed.hidden(batch).float()
            except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
                warnings.warn(
                    f"{type(hf).__name__} cannot run packed rows ({error}); padded rows are used instead",
                    stacklevel=2,
                )
                return False
    finally:
        hf.set_attn_implementation(current)
        hf.train(was_training)
    limit = tolerance if expected.dtype == torch.float32 and hf.dtype == torch.float32 else 0.1
    error = float((got - expected).norm() / expected.norm())
    if not error <= limit:
        warnings.warn(
            f"{type(hf).__name__} gives other numbers on packed rows (relative error {error:.1e}); "
            "padded rows are used instead, which is slower but exact",
            stacklevel=2,
        )
        return False
    return True
