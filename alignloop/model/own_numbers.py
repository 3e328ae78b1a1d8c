"""Whether the generation engine gives a model's own numbers: found out before its first answer.

`check_engine` compares a short greedy and a short drawn answer with `model(ids).logits` on the model at
hand; `check_shape` compares longer ones on a small random model of the same architecture, before any
weights are read. Windows are small meanwhile, so that the probes are longer than they are, and everything
is computed in float32, whose rounding hides nothing. What differs by more is refused by name: sampling
goes from the model that is meant or not at all. P prompt tokens, T drawn tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from alignloop.errors import NonFiniteError, first_line
from alignloop.model.decode import decoding
from alignloop.model.head import FOREIGN, as_published
from alignloop.model.positions import steady_positions
from alignloop.model.probe import check_finite, in_float32, small_windows
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Request, Sampled, Scheduler
from alignloop.model.step import refused
from alignloop.model.twin import outline, small_twin

ROUNDING_NATS = 2e-3
"""Largest difference of a log-prob that passes for rounding in float32; some 1e-5 are seen."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Prompts that begin alike, P tokens each, and T tokens drawn after each: the first greedily, the others
    `rows` times at temperature 1."""

    prompt_tokens: int
    drawn_tokens: int
    rows: int


SHORT = Probe(prompt_tokens=6, drawn_tokens=3, rows=1)
LONG = Probe(prompt_tokens=21, drawn_tokens=12, rows=3)

_known: WeakKeyDictionary[nn.Module, type] = WeakKeyDictionary()
_known_shapes: set[str] = set()


def check_engine(model: PreTrainedModel | PeftModel) -> None:
    """Compare the engine with the model itself, once for each model.

    Costs two forward passes over some 10 tokens and two steps of decoding. Random numbers and the model
    are left as they were.

    Raises:
        ModelError: the numbers differ by more than rounding, the engine cannot run the model, or the model
            gives NaN.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        return  # the engine itself refuses it
    if _known.get(base) is not type(base):
        _compare(base, SHORT)
        _known[base] = type(base)


def check_shape(config: PreTrainedConfig) -> None:
    """Refuse what the engine cannot generate from, by a model's configuration alone; once for each.

    A small random model of the architecture is made and compared; where none can be made, its outline
    shows what the engine cannot run, and `check_engine` has to find out the rest.

    Raises:
        ModelError: as `check_engine`.
    """
    text = config.get_text_config(decoder=True)
    name = text.to_json_string()
    if name in _known_shapes:
        return
    with torch.autocast("cpu", enabled=False):
        twin = small_twin(config)
    if twin is not None:
        _compare(twin, LONG)
    else:
        with suppress(*FOREIGN), decoding(outline(text)):
            pass
    _known_shapes.add(name)


def _compare(model: PreTrainedModel, probe: Probe) -> None:
    """Raise ModelError where the engine's log-probs are not the model's."""
    name = type(model).__name__
    prompts = _prompts(model, probe)
    if not prompts:
        return
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False), in_float32(model):
        with small_windows(model) as changed:
            try:
                gap = _largest_gap(model, prompts, probe)
            except torch.OutOfMemoryError:
                raise
            except FOREIGN as error:
                if not changed or _runs(model, prompts[0]):
                    raise refused(f"{name} does not run in the local engine ({first_line(error)})") from error
                gap = None  # the model's sizes depend on its window
        if gap is None:
            gap = _largest_gap(model, prompts, probe)
    if not gap <= ROUNDING_NATS:
        raise refused(
            f"the local engine does not give {name}'s own log-probs, they differ by up to {gap:.2g} nats "
            f"where rounding explains {ROUNDING_NATS}"
        )


def _prompts(model: PreTrainedModel, probe: Probe) -> list[list[int]]:
    """Two prompts of P random tokens, alike but for the last; none for a model without room for them."""
    limit, vocabulary = steady_positions(model.config), model.config.get_text_config(decoder=True).vocab_size
    length = probe.prompt_tokens if limit is None else min(probe.prompt_tokens, limit - probe.drawn_tokens)
    if length < 1 or vocabulary < 2:
        return []
    generator = np.random.default_rng(0)
    first = min(10, vocabulary - 2)  # special tokens come first as a rule
    ids = generator.integers(first, min(vocabulary, 1000), size=length + 1).tolist()
    return [ids[:-1], [*ids[:-2], ids[-1]]]


def _largest_gap(model: PreTrainedModel, prompts: Sequence[list[int]], probe: Probe) -> float:
    """Largest difference in nats between what the engine says of its tokens and what the model says; of the
    first answer, which is greedy, also how much less probable its tokens are than the model's choice.

    Raises:
        ModelError: the model's own log-probs are not finite, or the engine's where the model's are.
    """
    try:
        drawn = _drawn(model, prompts, probe)
    except NonFiniteError as error:
        with as_published(model):
            ids = torch.tensor(prompts, device=model.device)
            check_finite(
                model, [torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), -1)]
            )
        raise refused(f"the local engine gives log-probs of {type(model).__name__} that are NaN") from error
    rows = [(prompt, row) for prompt, some in zip(prompts, drawn, strict=True) for row in some]
    ids = torch.tensor([[*prompt, *row.ids] for prompt, row in rows], device=model.device)
    length = len(prompts[0])
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    with as_published(model), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        logits = model(input_ids=ids, use_cache=False).logits[:, length - 1 : -1]
    logprobs = torch.log_softmax(logits.double(), -1)
    check_finite(model, [logprobs])
    own = logprobs.gather(2, ids[:, length:, None])[..., 0]
    engine = torch.tensor([row.logprobs for _, row in rows], dtype=own.dtype, device=own.device)
    return float(torch.maximum((own - engine).abs().max(), (logprobs[0].amax(-1) - own[0]).max()))


def _drawn(model: PreTrainedModel, prompts: Sequence[list[int]], probe: Probe) -> list[list[Sampled]]:
    """The engine's answers: to the first prompt greedy, to the second drawn."""
    found: dict[int, list[Sampled]] = {}
    with Scheduler(model, None) as scheduler:
        for temperature, prompt in enumerate(prompts):
            params = SamplingParams(temperature=temperature, max_tokens=probe.drawn_tokens, eos=())
            rows = probe.rows if temperature else 1
            found[scheduler.add(Request(tuple(prompt), params, tuple(range(rows))))] = []
        while not scheduler.idle:
            for event in scheduler.step():
                if event.sampled is not None:
                    found[event.request].append(event.sampled)
    return list(found.values())


def _runs(model: PreTrainedModel, prompt: list[int]) -> bool:
    """Whether the model itself runs a row of tokens."""
    with suppress(*FOREIGN), as_published(model):
        model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False)
        return True
    return False
