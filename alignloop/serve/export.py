"""A finished policy as a folder for other programs: Hugging Face's form, and GGUF with a Modelfile."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from alignloop.data.template_choice import TemplateChoice
from alignloop.errors import ModelError
from alignloop.model.endings import end_texts, end_turns
from alignloop.model.generate import generate
from alignloop.model.load import load_model
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import save_model
from alignloop.records import Message
from alignloop.serve.card import ModelOrigin, model_card
from alignloop.serve.gguf_file import Storage, write_gguf
from alignloop.serve.merge import PROBES, check_free
from alignloop.serve.modelfile import modelfile
from alignloop.serve.served import Policy, open_policy

Dtype = Literal["float32", "bfloat16", "float16"]
MAX_CONTEXT = 8192
"""Tokens that a Modelfile asks for at most; the engine reserves memory for all of them."""
CHECKED_TOKENS = 24
"""Greedy tokens compared for each probe text when a GGUF file is read again."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: the folder.
        gguf: the GGUF file, or None.
        same_tokens: share of greedy tokens the GGUF file gives as the model does, or None.
    """

    folder: Path
    gguf: Path | None = None
    same_tokens: float | None = None


def export(
    model: str | Path,
    to: Path,
    *,
    name: str | None = None,
    dtype: Dtype = "float32",
    gguf: Storage | None = None,
    chat_template: str | TemplateChoice = "tokenizer",
) -> Exported:
    """Write a policy, its adapter merged, as a plain model folder with tokenizer, template and card.

    Args:
        model: run folder, model folder, adapter, .gguf file or name.
        to: folder to make; complete or not there.
        name: of the model; the run's name if None.
        dtype: of the weights in the folder.
        gguf: storage of a GGUF file to write beside them, with a Modelfile; None for none.
        chat_template: as in `open_policy`.

    Returns:
        What was written.

    Raises:
        ModelError: no policy there; GGUF of an architecture or tokenizer it cannot hold; a GGUF file
            in float32 that does not give the model's greedy tokens when it is read again.
        UserError: `to` exists and is not empty.
    """
    check_free(to)
    origin = ModelOrigin.of(model)
    policy = open_policy(
        model, name=name or _default_name(origin), chat_template=chat_template, dtype="float32", device="cpu"
    )
    loaded, template = policy.loaded, policy.template
    file_name = None if gguf is None else f"{file_stem(policy.name)}.gguf"
    same: float | None = None

    def more(folder: Path) -> None:
        nonlocal same
        template.save(folder)
        if file_name is not None and gguf is not None:
            write_gguf(loaded, template, folder / file_name, name=policy.name, storage=gguf)
            same = same_greedy_tokens(policy, folder / file_name)
            if gguf == "f32" and same < 1:
                raise ModelError(
                    f"the GGUF file gives {same:.0%} of the model's greedy tokens when it is read again; "
                    "nothing was written"
                )
            (folder / "Modelfile").write_text(_modelfile(policy, file_name), encoding="utf-8")
        size = sum(p.numel() for p in loaded.model.parameters())
        card = model_card(
            origin, name=policy.name, template=template, num_parameters=size, gguf_name=file_name
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    kind = getattr(torch, dtype)
    stored = loaded.model if kind == torch.float32 else copy.deepcopy(loaded.model).to(dtype=kind)  # pyright: ignore[reportCallIssue]
    save_model(stored, loaded.tokenizer, to, extra=more)
    return Exported(to, None if file_name is None else to / file_name, same)


def same_greedy_tokens(policy: Policy, file: Path) -> float:
    """Share of greedy tokens that a GGUF file, read again by transformers, gives as the model does."""
    again = load_model(file, dtype="float32", device="cpu")
    prompts = [policy.encoder.prompt([Message("user", text)]).tolist() for text in PROBES]
    params = SamplingParams(temperature=0, max_tokens=CHECKED_TOKENS, eos=())
    one, two = (
        [row[0].ids for row in generate(model.model, None, prompts, params)]
        for model in (policy.loaded, again)
    )
    pairs = [pair for a, b in zip(one, two, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def _modelfile(policy: Policy, file_name: str) -> str:
    tokenizer, template = policy.loaded.tokenizer, policy.template
    leading = tokenizer.encode("", add_special_tokens=True)[:1]
    adds_bos = bool(leading) and leading[0] == tokenizer.bos_token_id
    context = min(policy.context or MAX_CONTEXT, MAX_CONTEXT)
    stops = end_texts(tokenizer, end_turns(policy.loaded.model, tokenizer, template))
    bos = str(tokenizer.bos_token) if adds_bos else ""
    return modelfile(file_name, template, context=context, bos=bos, stops=stops)


def _default_name(origin: ModelOrigin) -> str:
    return origin.model if origin.run is None else str(origin.run.record.get("name") or origin.model)


def file_stem(name: str) -> str:
    """A model's name as part of a file name that every system takes."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-")
    return kept[:100] or "model"
