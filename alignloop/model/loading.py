"""Model files of strangers: whatever a library makes of a damaged one is one sentence, and nothing is run.

Pickled weights are not read and code that comes with a model is not executed; transformers asks about the
latter at the terminal unless it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from alignloop.errors import ModelError, first_line

FAULTS = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    SafetensorError,
)
"""What transformers, peft, tokenizers and safetensors raise for damaged or odd files."""


def no_bars() -> None:
    """Keep transformers' own bars, of reading and writing weights, off the screen."""
    hf_logging.disable_progress_bar()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say in one sentence that something cannot be loaded.

    Args:
        what: begins the sentence, such as `model 'runs/dpo'`.

    Raises:
        ModelError: for anything that a library raises in the context but a lack of memory.
    """
    try:
        yield
    except ModelError:
        raise
    except torch.OutOfMemoryError:
        raise
    except FAULTS as error:
        raise ModelError(f"{what} cannot be loaded: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    said = first_line(error)
    if "ignore_mismatched_sizes" in said:
        return "its weights have other shapes than its config.json says"
    if isinstance(error, RecursionError):
        return "a file is nested too deeply"
    if isinstance(error, SafetensorError):
        return f"its .safetensors file is damaged ({said[:200]})"
    return said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said[:200]}"


def causal_lm(source: str | Path, name: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model from a folder of safetensors, or a hub id.

    Args:
        source: the folder or id.
        name: what it is called in errors.
        dtype: of the weights.

    Returns:
        The model on the CPU.

    Raises:
        ModelError: it cannot be loaded, or has fewer tensors than its kind: the others would be drawn at
            random.
    """
    settings: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    with loading(f"model '{name}'"):
        try:
            read: Any = AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa", **settings)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            read = AutoModelForCausalLM.from_pretrained(source, **settings)
    model, found = read
    missing = sorted(found["missing_keys"])
    if missing and not _only_head(model, missing):
        raise ModelError(
            f"model '{name}' lacks {len(missing)} of its tensors, such as '{missing[0]}'; "
            "they would be drawn at random"
        )
    return model


def _only_head(model: PreTrainedModel, missing: list[str]) -> bool:
    """Whether only the head is missing of a model that was saved without one, as bases of rewards are."""
    head = model.get_output_embeddings()
    places = [name for name, module in model.named_modules() if module is head]
    own = {f"{place}.{kind}" for place in places for kind in ("weight", "bias")}
    saved = " ".join(getattr(model.config, "architectures", None) or [])
    heads = ("CausalLM", "LMHead", "ConditionalGeneration")
    return set(missing) <= own and not any(kind in saved for kind in heads)
