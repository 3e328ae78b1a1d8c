"""An adapter merged into its base's weights: W + α/r · B A (Hu et al. 2021, arXiv 2106.09685, eq. 3)."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from alignloop.data.chat import ChatTemplate, load_template
from alignloop.errors import ModelError, UserError
from alignloop.model.adapter_load import base_name, load_adapter, merge_adapter
from alignloop.model.endings import end_turns
from alignloop.model.load import LoadedModel, load_model, load_skeleton
from alignloop.model.save import save_model
from alignloop.runs import RUN_FILE
from alignloop.stages.checks import saved_template
from alignloop.stages.reward import HEAD_FILE

TOLERANCE = 1e-5
"""Largest difference of a logit, as a share of the largest logit: float32 weights of a large sum give
about 1e-6 when they are rounded once."""
PROBES = ("Why does rain fall?", "비가 오면 강은 어떻게 되나요?", "x = [1, 2, 3]; print(sum(x) / 0.5)")
"""Texts on which two forms of a model are compared."""


def merge(model: str | Path, to: Path, *, device: str = "auto") -> float:
    """Write a model folder whose weights are the base's with the adapter merged into them.

    Base and adapter are read in float32 and merged in float64; the folder is read again and compared
    with the unmerged model in float64 before it takes its place.

    Args:
        model: run or adapter folder.
        to: folder to make.
        device: auto, cpu, cuda.

    Returns:
        The largest difference of a logit on probe texts, as a share of the largest logit.

    Raises:
        ModelError: no adapter there, or the merged model differs by more than `TOLERANCE`.
        UserError: `to` exists and is not empty.
    """
    folder = adapter_folder(model)
    check_free(to)
    tokenizer = load_skeleton(folder).tokenizer
    base = load_model(str(base_name(folder)), dtype="float32", device=device)
    unmerged = load_adapter(base.model, folder, name="default")
    want = probe_logits(unmerged, base)
    whole = merge_adapter(unmerged, str(folder)).float()
    loaded = LoadedModel(whole, tokenizer, str(model), folder)
    template = template_of(loaded)
    if template is not None:
        end_turns(loaded.model, tokenizer, template)
    difference = 0.0

    def compared(made: Path) -> None:
        nonlocal difference
        if template is not None:
            template.save(made)
        written = load_model(made, dtype="float32", device=device)
        difference = float((probe_logits(written.model, base) - want).abs().max() / want.abs().max())
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the merged model's logits differ from those of base and adapter by {difference:.1e} of "
                f"the largest, more than {TOLERANCE:.0e}; nothing was written"
            )

    save_model(loaded.model, loaded.tokenizer, to, extra=compared)
    return difference


def adapter_folder(model: str | Path) -> Path:
    """The folder with the adapter's files.

    Raises:
        ModelError: there is none, or it belongs to a reward model.
    """
    folder = Path(model).expanduser()
    folder = folder / "model" if (folder / RUN_FILE).exists() else folder
    if (folder / HEAD_FILE).exists():
        raise ModelError(f"'{model}' is a reward model; its head would be lost, so it is not merged")
    if not (folder / "adapter_config.json").is_file():
        whole = (folder / "config.json").is_file()
        raise ModelError(
            f"'{model}' holds no adapter (adapter_config.json)"
            + ("; its weights are whole already, see `alignloop export`" if whole else "")
        )
    return folder


def check_free(to: Path) -> None:
    """Refuse to write over something.

    Raises:
        UserError: a file, or a folder that is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists already; choose another --to")


def template_of(loaded: LoadedModel) -> ChatTemplate | None:
    """The template of training, else the tokenizer's own, else None."""
    saved = saved_template(loaded)
    if saved is None and loaded.tokenizer.chat_template:
        return load_template("tokenizer", loaded.tokenizer)
    return saved


@torch.no_grad()
def probe_logits(model: PreTrainedModel | PeftModel, tokens: LoadedModel) -> torch.Tensor:
    """Logits of every token of the probe texts, computed in float64, (tokens, V) on the CPU.

    The model is turned to float64 and stays so.
    """
    model = model.double().eval()
    rows = []
    for text in PROBES:
        ids = torch.tensor([tokens.tokenizer.encode(text)], device=model.device)
        rows.append(model(input_ids=ids).logits[0].cpu())
    return torch.cat(rows)
