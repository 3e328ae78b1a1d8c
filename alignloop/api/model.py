"""A loaded model that answers: `alignloop.load("runs/dpo").generate("What is a transistor?")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignloop.data.template_choice import TemplateChoice
from alignloop.errors import DataError
from alignloop.model.generate import generate
from alignloop.model.load import TINY, LoadedModel, load_model
from alignloop.model.sampling import SamplingParams
from alignloop.records import Conversation, Message, Prompt, conversation_of
from alignloop.stages.common import inference_encoder

_FORM = "expected a text, a list of {'role': …, 'content': …}, a Prompt, or a list of these"


class Model:
    """A language model with its tokenizer and chat template.

    Every key `model_name_or_path` takes this object. If its weights changed since it was loaded, the run
    saves them into its folder.

    Attributes:
        name: what was loaded.
        model: the transformers model, in eval mode on its device.
        tokenizer: its tokenizer.
    """

    def __init__(self, loaded: LoadedModel, chat_template: str | TemplateChoice = "tokenizer") -> None:
        """Prepare a loaded model for answers.

        Args:
            loaded: the model.
            chat_template: as in recipes.

        Raises:
            ConfigError: `chat_template` differs from the template the model was trained with.
        """
        self._loaded = loaded
        self._encoder = inference_encoder(loaded, chat_template)
        self.name, self.model, self.tokenizer = loaded.name, loaded.model, loaded.tokenizer
        self._sums = _sums(loaded.model)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> Model:
        """Wrap a transformers model and its tokenizer."""
        made = cls(LoadedModel(model.eval(), tokenizer, name or type(model).__name__))
        made._sums = ()
        return made

    @property
    def source(self) -> str:
        """Where the model can be loaded from as it is now; "" if nowhere, or if it was changed."""
        if not self._sums or self._sums != _sums(self.model):
            return ""
        return str(self.model.name_or_path) if self.name == TINY else self.name

    def save_template(self, folder: Path) -> None:
        """Write the chat template beside saved weights."""
        self._encoder.template.save(folder)

    def generate(
        self,
        prompts: Any,
        *,
        n: int = 1,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Any:
        """Answer one prompt or many.

        An answer depends on its prompt, the settings and the seed only, up to rounding.

        Args:
            prompts: a text (one turn of a user), a conversation (a list of mappings with `role` and
                `content`), a record `Prompt`, or a list of these.
            n: answers to each prompt.
            max_new_tokens: longest answer in tokens.
            temperature: 0 takes the most likely token.
            top_k: only the k most likely tokens; 0 is off.
            top_p: only the most likely tokens that sum to p; 1 is off.
            min_p: only tokens at least min_p times as likely as the best.
            repetition_penalty: above 1 makes used tokens less likely.
            stop: texts that end an answer.
            seed: of the random numbers.

        Returns:
            The answer as text, for n above 1 a list of n; a list of these for a list of prompts.

        Raises:
            ConfigError: a setting out of its range.
            DataError: something that is no prompt; one too long for the model.
        """
        params = SamplingParams(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_tokens=max_new_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=seed,
        )
        one = isinstance(prompts, str | Prompt) or _is_conversation(prompts)
        asked = [_conversation(item) for item in ([prompts] if one else _listed(prompts))]
        ids = [self._encoder.prompt(conversation).tolist() for conversation in asked]
        done = generate(self.model, self.tokenizer, ids, params, n=n)
        whole = self._encoder.template.whole_text
        texts = [[whole(sampled.text).strip() for sampled in row] for row in done]
        answers = [row[0] for row in texts] if n == 1 else texts
        return answers[0] if one else answers

    def __repr__(self) -> str:
        """Name, size, type and device."""
        size = sum(p.numel() for p in self.model.parameters())
        kind = str(self.model.dtype).removeprefix("torch.")
        return f"Model({self.name!r}, {size / 1e6:.4g} million weights, {kind}, {self.model.device})"


def load(
    name_or_path: str | PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
    chat_template: str = "tokenizer",
    seed: int = 0,
) -> Model:
    """Load a model.

    Args:
        name_or_path: a run, a run folder, a model or adapter folder, a .gguf file, a hub id,
            `smollm2-135m-instruct` or `tiny`.
        dtype: auto, float32 or bfloat16; auto is bfloat16 on a GPU and float32 on a CPU.
        device: auto, cpu or cuda.
        chat_template: tokenizer (the model's own), alpaca, chatml, plain, or a .jinja file.
        seed: initialises `tiny`.

    Returns:
        The model, ready to answer.

    Raises:
        ModelError: nothing usable at that place.
    """
    loaded = load_model(fspath(name_or_path), dtype=dtype, device=device, seed=seed)
    return Model(loaded, chat_template)


def _listed(prompts: Any) -> list[Any]:
    if isinstance(prompts, Mapping) or not hasattr(prompts, "__iter__"):
        raise DataError(_FORM, field="prompts", value=prompts)
    return list(prompts)


def _is_conversation(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(m, Message) or (isinstance(m, Mapping) and "role" in m) for m in value)


def _conversation(prompt: Any) -> Conversation:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, Prompt):
        return prompt.prompt
    if not _is_conversation(prompt):
        raise DataError(_FORM, field="prompts", value=prompt)
    rows = [m for m in prompt if isinstance(m, Mapping)]
    if any("content" not in row for row in rows):
        raise DataError("a message needs 'content'", field="prompts", value=prompt)
    return tuple(m if isinstance(m, Message) else conversation_of([m])[0] for m in prompt)


@torch.no_grad()
def _sums(model: PreTrainedModel) -> tuple[float, ...]:
    """Two sums over every tensor of weights: a training step, or one changed weight, changes some of them."""
    return tuple(
        float(total)
        for tensor in model.state_dict().values()
        for total in (tensor.sum(dtype=torch.float64), tensor.abs().sum(dtype=torch.float64))
    )
