"""What ends an assistant's turn: decided here once, carried by the model's own generation settings.

The template's end of turn, the tokenizer's EOS and the ends that the model came with all end a turn. A
base model with a ChatML template is the usual case in which they differ: its EOS ends documents, its
turns end with `<|im_end|>`. `end_turns` writes the decision into `model.generation_config`, where the
engine (`model.scheduler`), `save_pretrained` and with it transformers and vLLM find it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignloop.data.chat import ChatTemplate
from alignloop.errors import DataError
from alignloop.records import Message

T = TypeVar("T")

_ASK, _ANSWER, _NEXT = Message("user", "w3Vk"), Message("assistant", "q7Xz"), Message("user", "k5Rn")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
"""Generation settings that transformers refuses to save where `do_sample` is off, which ignores them."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What ends a turn.

    Attributes:
        tokens: ids of which each ends a turn; the template's own come first.
        texts: stop strings, for a template whose end of turn is plain text and no token.
    """

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


def template_end(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> TurnEnd:
    """The end of a turn as a chat template writes it.

    A single token ends the turn. Of several tokens the first that is a mark (a special or added token)
    does. An end without a mark is plain text, which a model may write in other tokens, and becomes a stop
    string. Where a next user's turn follows, its first mark ends the turn too (GLM writes `<|user|>` there
    and nothing before it).

    Args:
        tokenizer: the model's.
        template: its chat template.

    Returns:
        Tokens and texts; both empty for a template without an end of turn.
    """
    marks = _marks(tokenizer)
    own = tokenizer.encode(template.end, add_special_tokens=False) if template.end else []
    found = own if len(own) == 1 else _first(own, marks)
    following = tokenizer.encode(_between_turns(template), add_special_tokens=False)
    is_text = bool(own) and not marks.intersection(found)
    return TurnEnd(_distinct([*found, *_first(following, marks)]), (template.end.strip(),) if is_text else ())


def turn_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TurnEnd:
    """What ends a turn of this model: its generation settings' ends and the tokenizer's EOS."""
    settings = model.generation_config
    known = _known(settings)
    eos = None if tokenizer is None else tokenizer.eos_token_id
    texts = None if settings is None else settings.stop_strings
    stops = (texts,) if isinstance(texts, str) else tuple(texts or ())
    return TurnEnd(_distinct([*known, *([eos] if isinstance(eos, int) else [])]), stops)


def end_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> TurnEnd:
    """Let every turn of a model end with its template's end of turn, and the saved model say so.

    Adds to `model.generation_config` what is missing there: `eos_token_id` becomes a list with the ends
    that the model came with first; `stop_strings` is set where the end of turn is plain text. A warning
    tells of a model whose turns nothing ends.

    Args:
        model: changed in place.
        tokenizer: its EOS ends a turn too.
        template: the chat template that the model is used or trained with.

    Returns:
        All that ends a turn, the template's own tokens first.
    """
    own, before = template_end(tokenizer, template), turn_end(model, tokenizer)
    ends = TurnEnd(_distinct([*own.tokens, *before.tokens]), _distinct([*own.texts, *before.texts]))
    settings = model.generation_config
    if settings is None:
        return ends
    if not ends.tokens and not ends.texts:
        warnings.warn(
            f"nothing ends a turn of this model: chat template '{template.name}' has no end of turn and the "
            "tokenizer no EOS, so every completion runs to max_new_tokens; give the tokenizer an eos_token",
            stacklevel=2,
        )
    missing = [token for token in (*before.tokens, *own.tokens) if token not in _known(settings)]
    unsaid = [text for text in own.texts if text not in before.texts]
    if missing or unsaid:
        settings = _savable(settings)
        settings.eos_token_id = list(_distinct([*_known(settings), *missing])) or None
        settings.stop_strings = list(_distinct([*before.texts, *own.texts])) or None
        model.generation_config = settings
    return ends


@contextmanager
def without_stop_strings(model: PreTrainedModel) -> Iterator[None]:
    """Leave out stop strings for a while: `generate` of transformers wants a tokenizer with them."""
    settings = model.generation_config
    kept = None if settings is None else settings.stop_strings
    if settings is not None:
        settings.stop_strings = None
    try:
        yield
    finally:
        if settings is not None:
            settings.stop_strings = kept


def end_texts(tokenizer: PreTrainedTokenizerBase, ends: TurnEnd) -> list[str]:
    """Every end as text, for engines that know stop strings only."""
    shown = (str(tokenizer.decode([token], skip_special_tokens=False)).strip() for token in ends.tokens)
    return list(_distinct([text for text in (*shown, *ends.texts) if text]))


def _marks(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special and added tokens; some tokenizers have runs of spaces among the added, which mark nothing."""
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.content.strip())}


def _between_turns(template: ChatTemplate) -> str:
    """What stands between an answer and the next question."""
    try:
        whole = template.render((_ASK, _ANSWER, _NEXT))
    except DataError:  # a template for one question and its answer
        return ""
    _, answer, after = whole.partition(_ANSWER.content)
    between, question, _ = after.partition(_NEXT.content)
    return between if answer and question else ""


def _first(ids: Iterable[int], marks: set[int]) -> list[int]:
    return [token for token in ids if token in marks][:1]


def _known(settings: GenerationConfig | None) -> tuple[int, ...]:
    found = None if settings is None else settings.eos_token_id
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (found,)


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def _savable(settings: GenerationConfig) -> GenerationConfig:
    """A copy that transformers will save: once changed it refuses settings of which it only warned before."""
    # older versions of transformers make settings marked so anew from config.json, which names one end
    given = {name: value for name, value in settings.to_dict().items() if name != "_from_model_config"}
    try:
        made = GenerationConfig.from_dict(given)
        if not made.do_sample:
            for name in _SAMPLING:
                setattr(made, name, None)
        made.validate(strict=True)
    except ValueError:
        ids = {name: getattr(settings, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return GenerationConfig(**ids)
    return made
