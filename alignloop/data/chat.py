"""Chat templates by name, as saved with a model, and the check that use and training agree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignloop.data.template import FILE, ChatTemplate, checked, examined
from alignloop.data.template_probe import TemplateTraits
from alignloop.data.values import INPUT_MARK
from alignloop.errors import ModelError
from alignloop.foreign import loads, read_text
from alignloop.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ("tokenizer", "chatml", "alpaca", "plain")
__all__ = ["FILE", "NAMES", "ChatTemplate", "check_same", "load_saved", "load_template"]


def load_template(
    name: str, tokenizer: PreTrainedTokenizerBase | None = None, kwargs: Mapping[str, Any] | None = None
) -> ChatTemplate:
    """A chat template by name.

    Args:
        name: `tokenizer` (the tokenizer's own); `chatml`; `alpaca` (instruction, input and response
            headings; a system message replaces its opening sentence); `plain` (the texts alone,
            separated by an empty line); or the path of a .jinja file.
        tokenizer: whose special tokens are used. Without one, for showing texts only, the end of a
            turn is '<eos>' in alpaca and plain.
        kwargs: arguments for the template, such as `enable_thinking`. A template that tells the date
            tells `strftime_now`, by default the day of the run, else today.

    Returns:
        The template, examined.

    Raises:
        ModelError: an unknown name, a tokenizer without the template or the tokens it needs, arguments
            that the template does not use, or a template that cannot render one question and answer.
    """
    tokens = _special_tokens(tokenizer)
    if name == "tokenizer":
        source = _own(tokenizer)
    elif name in BUILT_IN:
        _check_tokens(name, tokenizer)
        begins_with_bos = name == "chatml" and tokens["bos_token"] == "<|im_start|>"
        add_bos = _adds_bos(tokenizer) and not begins_with_bos
        source = ("{{ bos_token }}" if add_bos else "") + BUILT_IN[name]
    elif name.endswith((".jinja", ".jinja2")):
        source = _from_file(Path(name))
    else:
        raise ModelError(f"chat template '{name}' is not known; use {', '.join(NAMES)} or a .jinja file")
    used = tuple((key, token) for key, token in tokens.items() if re.search(rf"\b{key}\b", source))
    settings = checked(name, source, kwargs or {})
    found = examined(name, source, used, settings, tokens, _added(tokenizer))
    return ChatTemplate(name, source, found, used, settings)


def _special_tokens(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    if tokenizer is None:
        return {"bos_token": "", "eos_token": "<eos>"}
    found = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return {"bos_token": "", **dict(sorted(found.items()))}


def _added(tokenizer: PreTrainedTokenizerBase | None) -> Container[str]:
    return frozenset() if tokenizer is None else frozenset(map(str, tokenizer.added_tokens_decoder.values()))


def _own(tokenizer: PreTrainedTokenizerBase | None) -> str:
    source = tokenizer.chat_template if tokenizer is not None else None
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        raise ModelError("the tokenizer has no chat template of its own; use chatml, alpaca or plain")
    return source


def _from_file(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"chat template '{path}' cannot be read ({error})") from error


def _adds_bos(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether the model is used to a BOS before text, going by what its tokenizer does."""
    if tokenizer is None or tokenizer.bos_token_id is None:
        return False
    return list(tokenizer("a").input_ids)[:1] == [tokenizer.bos_token_id]


def _check_tokens(name: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if tokenizer is None:
        return
    if name == "chatml":
        missing = [token for token in ("<|im_start|>", "<|im_end|>") if token not in tokenizer.get_vocab()]
        if missing:
            raise ModelError(
                f"chat template 'chatml' needs the tokens {' and '.join(missing)}, which this tokenizer "
                "does not have; use alpaca or plain"
            )
    elif tokenizer.eos_token is None:
        raise ModelError(f"chat template '{name}' needs an EOS token, which this tokenizer does not have")


def load_saved(folder: Path) -> ChatTemplate:
    """The template that was saved with a model.

    Raises:
        ModelError: there is none, or its file is damaged or was edited.
    """
    path = folder / FILE
    try:
        content = loads(read_text(path))
        written = content.pop("fingerprint")
        template, fingerprint = _restored(content)
    except FileNotFoundError as error:
        raise ModelError(f"no chat template was saved in {folder} ({FILE} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the chat template in {path} is damaged ({error})") from error
    if fingerprint != written:
        raise ModelError(f"the chat template in {path} was changed after it was saved")
    return template


def _restored(content: dict[str, Any]) -> tuple[ChatTemplate, str]:
    """A template out of its file, and the fingerprint that the file must have."""
    name, source, tokens = content["name"], content["source"], tuple(content["tokens"].items())
    if "kwargs" in content:
        values: dict[str, Any] = {item.name: content[item.name] for item in fields(TemplateTraits)}
        values |= {key: tuple(values[key]) for key in ("thought", "tool_marks")}
        found = TemplateTraits(**values)
        template = ChatTemplate(name, source, found, tokens, content["kwargs"])
        return template, template.fingerprint
    # A file of a version that knew no arguments and told no date.
    parts = [source, tokens, *(content[key] for key in ("lead", "end", "trims", "merges_system"))]
    known = {"bos_token": "", "eos_token": content["end"], **content["tokens"]}
    found = examined(name, source, tokens, {}, known, frozenset())
    found = replace(found, end=content["end"], tail=content["tail"])
    written = hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
    return ChatTemplate(name, source, found, tokens), written


def check_same(training: ChatTemplate, inference: ChatTemplate) -> None:
    """Refuse to use a model with another template than it was trained with.

    Raises:
        ModelError: the templates render differently; the sentence shows where.
    """
    if training.fingerprint == inference.fingerprint:
        return
    one, two = (
        template.render_prompt((Message("user", "Hi"),)) + template.render_completion("Yes")
        for template in (training, inference)
    )
    shown = f": {one!r} against {two!r}" if one != two else ""
    if training.kwargs != inference.kwargs:
        shown = f": {dict(training.kwargs)} against {dict(inference.kwargs)}{shown}"
    raise ModelError(
        f"the model was trained with chat template '{training.name}' ({training.fingerprint[:8]}), not with "
        f"'{inference.name}' ({inference.fingerprint[:8]}){shown}; use the one it was trained with"
    )


_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ALPACA = (
    "{% set mark = " + json.dumps(INPUT_MARK) + " %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{{ messages[0]['content'] + '\n\n' }}"
    "{% elif mark in messages[0]['content'] %}"
    "{{ 'Below is an instruction that describes a task, paired with an input that provides further context. '"
    " + 'Write a response that appropriately completes the request.\n\n' }}"
    "{% else %}"
    "{{ 'Below is an instruction that describes a task. '"
    " + 'Write a response that appropriately completes the request.\n\n' }}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'].replace(mark, '\n\n### Input:\n', 1) + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
BUILT_IN = {"chatml": _CHATML, "alpaca": _ALPACA, "plain": _PLAIN}
