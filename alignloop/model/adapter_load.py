"""Adapters that others made: put on the base they name, or merged into it, right or refused by name.

Every door (chat, server, evaluation, training, `merge`) reads adapters here. A merged model is compared
with peft's own unmerged one before it is used, so that what merging does not carry over is refused:
W + α/r · B A (Hu et al. 2021, arXiv 2106.09685, eq. 3) is the whole effect of LoRA, not of every adapter.
"""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignloop.errors import ModelError, first_line
from alignloop.foreign import loads, read_text
from alignloop.model.loading import FAULTS
from alignloop.model.tokenizer_load import embedding_rows, resize

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROBED_TOKENS = 64
"""Tokens, spread over the vocabulary, on which merged and unmerged model are compared."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest relative difference (Frobenius norm) of their logits. Other types round each merged weight, about
0.004 of it in bfloat16, so only another model shows there: see `ROUNDED`."""
ROUNDED = 0.1


def base_name(folder: Path) -> str | None:
    """Name or path of the model an adapter was trained on; None where there is no adapter, or no such name.

    Raises:
        ModelError: its configuration is no JSON object.
    """
    if not (folder / CONFIG).is_file():
        return None
    name = _config_rows(folder).get("base_model_name_or_path")
    return name if isinstance(name, str) else None


def load_adapter(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Put a saved adapter on a model. The adapters that were there stay as they are; the new one is frozen.

    Where the adapter was made on a base with more or fewer tokens, a plain base gets as many first.

    Args:
        model: the base, or one that has adapters.
        folder: the adapter's.
        name: of the adapter on this model.

    Returns:
        The model with its adapters, changed in place.

    Raises:
        ModelError: no adapter weights in the folder, weights of another shape, or a kind of adapter that is
            no change of a layer's output (prompt and prefix tuning) or unknown to the installed peft.
    """
    _check_kind(folder)
    if not isinstance(model, PeftModel):
        fit_vocabulary(model, folder)
    flags, training = [], model.training
    try:
        with warnings.catch_warnings():
            # peft warns of tied embeddings; `merge_adapter` unties them where they would matter
            warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|is_gradient_checkpointing).*")
            if isinstance(model, PeftModel):
                flags = [(p, p.requires_grad) for key, p in model.named_parameters() if "lora_" in key]
                model.load_adapter(str(folder), name, torch_device=str(model.device))
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except FAULTS as error:
        raise ModelError(f"adapter '{folder}' does not fit this base: {_reason(error)}") from error
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return model.train(training)


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A base with a saved adapter merged into its weights, compared with the unmerged model.

    Args:
        base: changed in place.
        folder: the adapter's.

    Returns:
        A plain model in eval mode; its embeddings are untied where the adapter parts them.

    Raises:
        ModelError: as `load_adapter`, or merged it would be another model.
    """
    unmerged = load_adapter(base.eval(), folder, name="default")
    want = probe(unmerged)
    whole = merge_adapter(unmerged, str(folder))
    got = probe(whole)
    limit = TOLERANCE.get(whole.dtype, ROUNDED)
    error = float((got - want).norm() / want.norm())
    if not error <= limit:
        raise ModelError(
            f"adapter '{folder}': merged into its base it is another model (logits differ by {error:.1e} of "
            f"their size, {limit:.0e} is allowed), so it cannot be used here"
        )
    return whole


def merge_adapter(model: PeftModel, name: str) -> PreTrainedModel:
    """The base with its active adapter merged into the weights and all adapters taken off.

    An adapter on one of two tied embeddings changes that one alone, so they are untied first.

    Args:
        model: changed in place.
        name: of the adapter, for messages.

    Returns:
        The plain model in eval mode.

    Raises:
        ModelError: peft cannot merge this kind.
    """
    _untie(model.get_base_model())  # pyright: ignore[reportArgumentType]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|no longer tied).*")
            whole: PreTrainedModel = model.merge_and_unload()  # pyright: ignore[reportCallIssue, reportAssignmentType]
    except FAULTS as error:
        raise ModelError(f"adapter '{name}' cannot be merged into its base: {_reason(error)}") from error
    _follow_tie(whole)
    return whole.eval()


@torch.no_grad()
def probe(model: PreTrainedModel | PeftModel) -> Tensor:
    """Logits of tokens spread over the vocabulary, float32 or float64 (PROBED_TOKENS, V)."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ids = torch.linspace(0, embedding_rows(base) - 1, PROBED_TOKENS).long()  # pyright: ignore[reportArgumentType]
    logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    return logits if logits.dtype == torch.float64 else logits.float()


def fit_vocabulary(base: PreTrainedModel, folder: Path) -> None:
    """Give a base as many embeddings as the adapter's own, where it holds some.

    Raises:
        ModelError: it holds rows of embeddings or head alone, though the two are not tied.
    """
    places = {
        "embeddings": _name_of(base, base.get_input_embeddings()),
        "vocabulary head": _name_of(base, base.get_output_embeddings()),
    }
    rows = {kind: _rows_in(folder, place) for kind, place in places.items() if place}
    found = {kind: count for kind, count in rows.items() if count is not None}
    if not found or set(found.values()) == {embedding_rows(base)}:
        return
    tied = bool(base.config.get_text_config(decoder=True).tie_word_embeddings)
    if len(set(found.values())) > 1 or (len(found) < len(rows) and not tied):
        raise ModelError(
            f"adapter '{folder}' holds {_words(found)} and the base {embedding_rows(base)} of each; save the "
            "adapter with both (save_embedding_layers=True)"
        )
    resize(base, next(iter(found.values())))


def _words(found: dict[str, int]) -> str:
    return " and ".join(f"{count} rows of the {kind}" for kind, count in found.items())


def _name_of(model: nn.Module, layer: nn.Module | None) -> str:
    return next((name for name, module in model.named_modules() if layer is not None and module is layer), "")


def _rows_in(folder: Path, place: str) -> int | None:
    """Rows of a layer's own weight in the adapter's file; None if it is not there."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                before, found, after = key.partition(f"{place}.")
                if found and before in ("base_model.model.", "") and after in ("weight", "base_layer.weight"):
                    return int(file.get_slice(key).get_shape()[0])
    except (SafetensorError, OSError) as error:
        raise ModelError(f"adapter '{folder}': {WEIGHTS} is damaged ({first_line(error)})") from error
    return None


def _check_kind(folder: Path) -> None:
    """Refuse what is no adapter on layers, before the base changes."""
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"adapter '{folder}' has no {WEIGHTS} (pickled weights are not read)")
    rows = _config_rows(folder)
    kind = rows.get("peft_type")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown keys, which are refused below
            config = PeftConfig.from_pretrained(str(folder))
    except FAULTS as error:
        raise ModelError(
            f"adapter '{folder}' is of the kind {kind}, which the installed peft does not read "
            f"({first_line(error)})"
        ) from error
    if config.is_prompt_learning or not _changes_layers(config):
        raise ModelError(
            f"adapter '{folder}' is of the kind {kind}, which changes no weights and cannot be merged into "
            "the base; LoRA and other adapters on layers are read"
        )
    known = {field.name for field in fields(config)}
    unknown = sorted(key for key, value in rows.items() if key not in known and value)
    if unknown:
        raise ModelError(
            f"adapter '{folder}': {CONFIG} has {', '.join(unknown)}, which the installed peft does not know; "
            "pip install --upgrade peft"
        )


def _changes_layers(config: PeftConfig) -> bool:
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)  # pyright: ignore[reportArgumentType]
    return isinstance(tuner, type) and issubclass(tuner, BaseTuner)


def _config_rows(folder: Path) -> dict[str, object]:
    try:
        found = loads(read_text(folder / CONFIG))
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter '{folder}': {CONFIG} cannot be read ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise ModelError(f"adapter '{folder}': {CONFIG} holds no object")
    return found


def _untie(hf: PreTrainedModel) -> None:
    """Give the head weights of its own, if it shares the embeddings' and an adapter lies on one of them."""
    layers = [hf.get_input_embeddings(), hf.get_output_embeddings()]
    adapted = [isinstance(layer, BaseTunerLayer) for layer in layers]
    one, two = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    if not any(adapted) or one is None or two is None or not isinstance(two.weight, nn.Parameter):
        return
    if two.weight is one.weight:
        two.weight = nn.Parameter(two.weight.detach().clone(), requires_grad=False)


def _follow_tie(hf: PreTrainedModel) -> None:
    """Let the configuration say whether embeddings and head are one tensor, as saving and loading read it."""
    one, two = hf.get_input_embeddings(), hf.get_output_embeddings()
    if two is None or two.weight is one.weight:  # pyright: ignore[reportAttributeAccessIssue]
        return
    hf.config.tie_word_embeddings = False
    hf.config.get_text_config(decoder=True).tie_word_embeddings = False
    hf.all_tied_weights_keys = hf.get_expanded_tied_weights_keys(all_submodels=True)


def _reason(error: BaseException) -> str:
    """Why peft refused: of a state dict that does not fit the first differing weight, else the first line."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return next((line for line in lines if line.startswith("size mismatch")), first_line(error))
