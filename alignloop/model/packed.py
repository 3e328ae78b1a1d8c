"""One forward for everything: packed groups in, per-token log-probs and scalar heads out.

N tokens in the packed row, h hidden size, B completions, T tokens of the longest. R rows of hidden
states: N for a packed row, more where rows do not share their prompts.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignloop.data.packing import Batch
from alignloop.model import attention
from alignloop.model.head import head_transform, plain_attention
from alignloop.model.layouts import Layout, Reader, Rows
from alignloop.model.lean import use_lean_forms
from alignloop.model.logprobs import LogitTransform, token_logprobs
from alignloop.model.onednn import use_fast_linears
from alignloop.model.precision import autocast_to, in_precision
from alignloop.model.verify import Verification


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


_READ = frozenset(item.name for item in fields(Forward))


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
        layout: how rows run: "packed", else "padded", else "alone"; the first that gives the model's own
            log-probs.
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
        self.transform = head_transform(hf)
        verification = Verification(hf, shared_prefix, autocast)
        use_fast_linears(hf)
        use_lean_forms(hf)
        self._plain = plain_attention(hf)
        self._reader = Reader(hf)
        self.layout: Layout = verification.layout(self._probe_logprobs)
        if self.shared_prefix:
            attention.enable(hf)

    @property
    def shared_prefix(self) -> bool:
        """Whether each prompt runs once for its completions, as packed rows do."""
        return self.layout == "packed"

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
        return self._rows(batch, self.layout).hidden

    def _rows(self, batch: Batch, layout: Layout) -> Rows:
        current = self.hf.config._attn_implementation
        if layout == "packed" and current != attention.SHARED_PREFIX:
            attention.enable(self.hf)
        elif layout != "packed" and current == attention.SHARED_PREFIX:  # another role runs packed rows
            self.restore_attention()
        return self._reader.read(batch, layout)

    def _probe_logprobs(self, batch: Batch, layout: Layout) -> Tensor:
        """Log-probs in one layout, (B, T), in the type that weights have at the moment."""
        rows, counted = self._rows(batch, layout), batch.mask
        flat, _ = self._logprobs(
            rows.hidden[rows.predict[counted]], batch.target_ids[counted], self.transform
        )
        return _scatter(flat, counted)

    def _logprobs(
        self, hidden: Tensor, targets: Tensor, transform: LogitTransform, *, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        head = self.hf.get_output_embeddings()
        assert head is not None, "a causal language model has a vocabulary head"
        bias = getattr(head, "bias", None)
        if not torch.is_autocast_enabled(hidden.device.type):  # the Mambas' last norm leaves float32
            hidden = hidden.to(head.weight.dtype)
        return token_logprobs(hidden, head.weight, targets, bias=bias, transform=transform, entropy=entropy)

    @in_precision
    def forward(
        self, batch: Batch, needs: Set[str] = frozenset({"logprobs"}), *, temperature: float = 1.0
    ) -> Forward:
        """Run the decoder once and read what is asked for.

        Args:
            batch: micro-batch of packed groups; moved to the model's device if it is elsewhere.
            needs: names of the fields of `Forward` to read; entropies come with the log-probs.
            temperature: sampling temperature the logits are divided by.

        Returns:
            The tensors asked for.

        Raises:
            ValueError: no such field, or scores or values without a scalar head.
        """
        unknown = needs - _READ
        if unknown:
            raise ValueError(f"a forward pass gives no {', '.join(sorted(unknown))}")
        batch = batch.to(self.device)
        rows = self._rows(batch, self.layout)
        hidden, predict, last = rows.hidden, rows.predict, rows.last
        found: dict[str, Tensor] = {}
        counted = batch.mask
        transform = replace(self.transform, temperature=temperature)
        if needs & {"logprobs", "entropy"}:
            flat, entropy = self._logprobs(
                hidden[predict[counted]], batch.target_ids[counted], transform, entropy="entropy" in needs
            )
            found["logprobs"] = _scatter(flat, counted)
            if entropy is not None:
                found["entropy"] = _scatter(entropy, counted)
        if "prompt_logprob" in needs:
            at, number = _prompt_places(batch)
            flat, _ = self._logprobs(
                hidden[at if rows.places is None else rows.places[at]],
                batch.input_ids[0, at + 1],
                transform,
            )
            sums = torch.zeros(len(batch.indices), dtype=flat.dtype, device=flat.device)
            found["prompt_logprob"] = sums.index_add(0, number, flat)
        if needs & {"scores", "values"} and self.head is None:
            raise ValueError("this model has no scalar head; reward models and critics have one")
        if "scores" in needs and self.head is not None:
            found["scores"] = self.head(hidden[last])
        if "values" in needs and self.head is not None:
            found["values"] = _scatter(self.head(hidden[predict[counted]])[:, 0], counted)
        return Forward(**found)


def _prompt_places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Places of the row that predict a prompt token (all but the first), and their group numbers."""
    spans = [range(s.start, s.start + s.prompt_length - 1) for s in batch.segments.spans]
    at = torch.tensor([place for span in spans for place in span], dtype=torch.long)
    number = torch.tensor([g for g, span in enumerate(spans) for _ in span], dtype=torch.long)
    return at.to(batch.input_ids.device), number.to(batch.input_ids.device)


def _scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """(M,) values into the True places of a (B, T) mask, 0 elsewhere; differentiable."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
