"""What a token costs on this machine: two of the model's layers and its vocabulary head, run once.

Memory is counted, not derived: the storages that autograd keeps for backward are added up. Time is
measured, so it is as steady as the machine is. N tokens of the packed row, M counted tokens, h hidden
size, V vocabulary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from alignloop.config import RewardConfig, TrainConfig
from alignloop.data.packing import Batch, Group, collate
from alignloop.model.adapters import add_adapter
from alignloop.model.generate import generate
from alignloop.model.logprobs import SLICE_ELEMENTS, token_logprobs
from alignloop.model.packed import PackedModel
from alignloop.model.precision import autocast_to
from alignloop.model.sampling import SamplingParams
from alignloop.stages.common import base_precision, lora_settings
from alignloop.training.optim import OptimizerSettings, build_optimizer

_PROBE_TOKENS = 768
_PROBE_VOCABULARY = 1024
_PROBE_ROWS, _PROBE_STEPS = 64, 8
_OPTIMIZER_ELEMENTS = 2**21
_HEAD_SLICES = 4
"""Slices of the vocabulary's logits alive at once: logits, their exponentials, gradient, product."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and bytes, for the whole depth of the model.

    Attributes:
        forward_s: forward pass of the layers, per token.
        training_s: forward and backward of the layers, per token.
        head_forward_s: vocabulary head, per counted token.
        head_training_s: the same with backward.
        optimizer_s: one AdamW update, per trained parameter.
        layer_bytes: kept for backward by one layer, per token.
        other_bytes: kept for backward outside the layers, per token.
    """

    forward_s: float
    training_s: float
    head_forward_s: float
    head_training_s: float
    optimizer_s: float
    layer_bytes: float
    other_bytes: float

    def reading_s(self, tokens: float, counted: float) -> float:
        """Seconds of a pass without gradient over tokens of which so many count."""
        return tokens * self.forward_s + counted * self.head_forward_s


def measure_costs(
    config: TrainConfig, shape: PretrainedConfig, groups: Sequence[Group], device: torch.device
) -> Costs:
    """Run a few rows through two layers of the model's shape, with random weights.

    Args:
        config: the recipe, for types and adapters; the loss of reward models reads no log-probs.
        shape: the model's configuration.
        groups: rows as the training sees them; as many are used as fit into a small pass.
        device: where the training will run.

    Returns:
        Costs per token, extrapolated to all layers.
    """
    depth, lora = shape.get_text_config().num_hidden_layers, lora_settings(config)
    dtype, autocast = base_precision(config)
    batch = _small_batch(groups).to(device)
    models = []
    for layers in (1, 2):
        hf = _small_model(shape, min(layers, depth), dtype=dtype, device=device)
        if lora is not None:
            add_adapter(hf, lora)
        models.append(PackedModel(hf, autocast=autocast).train())
    kept = []
    for model in models:
        with kept_for_backward(model) as total:
            model.hidden(batch)
        kept.append(total[0] / batch.num_tokens)
    layer_bytes = kept[1] - kept[0] if depth > 1 else kept[0]
    deep = models[1]
    with torch.no_grad():
        forward = _timed(lambda: deep.hidden(batch), device)
    training = _timed(lambda: _train_hidden(deep, batch), device)
    per_token = depth / min(2, depth) / batch.num_tokens
    head = (0.0, 0.0)
    if not isinstance(config, RewardConfig):
        frozen = lora is not None
        head = _head_costs(shape, batch, dtype=dtype, autocast=autocast, device=device, frozen=frozen)
    return Costs(
        forward * per_token,
        training * per_token,
        *head,
        _optimizer_cost(device),
        layer_bytes,
        max(0.0, kept[0] - layer_bytes),
    )


def sampling_cost(
    shape: PretrainedConfig, *, rows: int, prompt_tokens: int, dtype: torch.dtype, device: torch.device
) -> float:
    """Seconds per sampled token of `rows` completions that grow together, the vocabulary head left out.

    Args:
        shape: the model's configuration.
        rows: completions in the batch; 64 are tried at most.
        prompt_tokens: length of their prompt.
        dtype: of the weights.
        device: where it will run.

    Returns:
        Extrapolated to all layers from one and two of them.
    """
    depth, rows = shape.get_text_config().num_hidden_layers, min(rows, _PROBE_ROWS)
    prompt = [1] * min(prompt_tokens, _PROBE_TOKENS)
    seconds = []
    for layers in (1, 2):
        model = _small_model(shape, min(layers, depth), dtype=dtype, device=device).eval()
        took = []
        for steps in (1, 1 + _PROBE_STEPS):
            params = SamplingParams(max_tokens=steps, eos=())
            took.append(_timed(partial(generate, model, None, [prompt], params, n=rows), device))
        seconds.append(max(0.0, took[1] - took[0]) / (_PROBE_STEPS * rows))
    return seconds[0] + (depth - 1) * max(0.0, seconds[1] - seconds[0])


def head_bytes(num_counted: int, hidden_size: int, device: torch.device) -> int:
    """Bytes alive in the vocabulary head's backward besides its gradient: slices, (M, h) twice."""
    slices = _HEAD_SLICES * SLICE_ELEMENTS.get(device.type, 2**24)
    return 4 * (slices + 2 * num_counted * hidden_size)


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[list[int]]:
    """Counts the bytes of distinct storages that autograd keeps, the model's own weights left out."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    seen: dict[int, int] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total[0] = sum(seen.values())


def _small_batch(groups: Sequence[Group]) -> Batch:
    chosen: list[Group] = []
    for group in groups:
        if chosen and sum(g.num_tokens for g in chosen) + group.num_tokens > _PROBE_TOKENS:
            break
        chosen.append(Group(group.prompt_ids, tuple(replace(c, values={}) for c in group.completions)))
    batch = collate(chosen)
    return replace(batch, input_ids=batch.input_ids.clamp(max=_PROBE_VOCABULARY - 1))


def _small_model(
    shape: PretrainedConfig, num_layers: int, *, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """A model of this shape with few layers and words, which matter for neither, and random weights."""
    text = copy.deepcopy(shape).get_text_config()
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = num_layers, _PROBE_VOCABULARY, None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:num_layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf: PreTrainedModel = AutoModelForCausalLM.from_config(text)
    return hf.to(device=device, dtype=dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _train_hidden(model: PackedModel, batch: Batch) -> None:
    model.hidden(batch).sum().backward()
    model.zero_grad(set_to_none=True)


def _head_costs(
    shape: PretrainedConfig,
    batch: Batch,
    *,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    device: torch.device,
    frozen: bool,
) -> tuple[float, float]:
    """Seconds per counted token of the head's forward, and of its forward and backward."""
    text = shape.get_text_config()
    num_counted = max(1, int(batch.mask.sum()))
    hidden = torch.randn(num_counted, text.hidden_size, device=device, dtype=dtype, requires_grad=True)
    weight = torch.zeros(
        text.vocab_size, text.hidden_size, device=device, dtype=dtype, requires_grad=not frozen
    )
    targets = torch.zeros(num_counted, dtype=torch.long, device=device)

    def run() -> Tensor:
        with autocast_to(autocast, device):
            return token_logprobs(hidden, weight, targets)[0]

    with torch.no_grad():
        forward = _timed(run, device)
    training = _timed(lambda: run().sum().backward(), device)
    return forward / num_counted, training / num_counted


def _optimizer_cost(device: torch.device) -> float:
    """Seconds per parameter of an AdamW update."""
    weight = nn.Parameter(torch.zeros(_OPTIMIZER_ELEMENTS, device=device))
    weight.grad = torch.ones_like(weight)
    optimizer = build_optimizer([weight], OptimizerSettings())
    return _timed(optimizer.step, device) / _OPTIMIZER_ELEMENTS


def _timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second of two calls; the first one warms up."""
    seconds = 0.0
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds
