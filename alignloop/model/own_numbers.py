"""Whether the generation engine gives a model's own numbers: found out before its first answer.

`check_engine` compares a short greedy and a short drawn answer with `model(ids).logits` on the model at
hand; `check_shape` compares longer ones on a small random model of the same architecture, before any
weights are read. Windows are small meanwhile, so that the probes are longer than they are. What differs
by more than rounding is refused by name: sampling goes from the model that is meant or not at all.
P prompt tokens, T drawn tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from alignloop.errors import NonFiniteError
from alignloop.model.attention import SHARED_PREFIX
from alignloop.model.decode import decoding
from alignloop.model.positions import steady_positions
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Request, Sampled, Scheduler
from alignloop.model.step import refused
from alignloop.model.twin import FOREIGN, outline, small_twin
from alignloop.model.windows import small_windows

FLOAT32_NATS = 2e-3
"""Largest difference of a log-prob that passes for rounding in float32; some 1e-5 are seen."""
ROUGH_NATS = 1.0
"""The same in types of 8 or 11 bits, where 0.1 to 0.3 nats are seen; `check_shape` is strict for them."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Prompts that begin alike, P tokens each, and T tokens drawn after each: the first greedily, the others
    `rows` times at temperature 1."""

    prompt_tokens: int
    drawn_tokens: int
    rows: int


SHORT = Probe(prompt_tokens=10, drawn_tokens=3, rows=1)
LONG = Probe(prompt_tokens=21, drawn_tokens=12, rows=3)

_EXACT = (torch.float32, torch.float64)

_known: WeakKeyDictionary[nn.Module, set[tuple[type, torch.dtype]]] = WeakKeyDictionary()
_known_shapes: set[str] = set()


def check_engine(model: PreTrainedModel | PeftModel) -> None:
    """Compare the engine with the model itself, once for each model and type it computes in.

    Costs two forward passes and two steps of decoding. Random numbers and the model are left as they were.

    Raises:
        ModelError: the numbers differ by more than rounding, or the engine cannot run the model.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        return  # the engine itself refuses it
    key = type(base), _computes_in(base)
    known = _known.setdefault(base, set())
    if key not in known:
        if key[1] not in _EXACT:
            check_shape(base.config)
        _compare(base, SHORT)
        known.add(key)


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
    with torch.no_grad(), small_windows(model):
        try:
            drawn = _drawn(model, prompts, probe)
        except NonFiniteError:
            return  # told with the row at fault where it is generated from
        except torch.OutOfMemoryError:
            raise
        except FOREIGN as error:
            raise refused(f"{name} does not run in the local engine ({error})") from error
        pairs = zip(prompts, drawn, strict=True)
        gap = max(_gap(model, prompt, rows, greedy=k == 0) for k, (prompt, rows) in enumerate(pairs))
    dtype = _computes_in(model)
    allowed = FLOAT32_NATS if dtype in _EXACT else ROUGH_NATS
    if gap > allowed:
        raise refused(
            f"the local engine does not give {name}'s own log-probs, they differ by up to {gap:.2g} nats where "
            f"rounding in {str(dtype).removeprefix('torch.')} explains {allowed:g}"
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


def _gap(model: PreTrainedModel, prompt: list[int], rows: Sequence[Sampled], *, greedy: bool) -> float:
    """Largest difference in nats between what the engine says of its tokens and what the model says; of
    greedy tokens also how much less probable they are than the model's own choice."""
    ids = torch.tensor([[*prompt, *row.ids] for row in rows], device=model.device)
    with _by_itself(model):
        logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits.double(), -1)
    if not bool(logprobs.isfinite().all()):
        return 0.0
    own = logprobs.gather(2, ids[:, len(prompt) :, None])[..., 0]
    engine = torch.tensor([row.logprobs for row in rows], dtype=own.dtype, device=own.device)
    gap = (own - engine).abs().max()
    return float(torch.maximum(gap, (logprobs.amax(-1) - own).max()) if greedy else gap)


@contextmanager
def _by_itself(model: PreTrainedModel) -> Iterator[None]:
    """The model with attention of its own and without dropout, as transformers would run it."""
    current = model.config._attn_implementation
    training = [module for module in model.modules() if module.training]
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    model.eval()
    if current == SHARED_PREFIX:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for module in training:
            module.training = True
        if current == SHARED_PREFIX:
            model.set_attn_implementation(SHARED_PREFIX)


def _computes_in(model: PreTrainedModel) -> torch.dtype:
    """The type of the model's matrix products."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
