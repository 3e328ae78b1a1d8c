"""Chat templates: from messages to the text a model reads, the same in training and in use.

    rendering of a whole conversation = render_prompt(messages) + render_completion(answer) + tail

A completion ends with the template's end of turn, exactly once; what a template puts after it (the
line break of ChatML) is neither generated nor trained, and is the `tail`. Rendered text holds all
special tokens it needs, so tokenize it with `add_special_tokens=False`: the tokenizer must not add a
second BOS.

Templates run in jinja's sandbox and without the current date (`strftime_now` stays undefined, for
which Llama-3 templates have a fixed one), so that a rendering is the same on every day.
A template without a system role (it raises, or drops the message) gets the system text in front of
the first user message, two line breaks between.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignloop.data.files import write_whole
from alignloop.data.values import INPUT_MARK
from alignloop.errors import DataError, ModelError
from alignloop.records import Conversation, Message, message_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ("tokenizer", "chatml", "alpaca", "plain")
FILE = "alignloop_template.json"
"""Written beside `chat_template.jinja` in a model folder."""

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
_BUILT_IN = {"chatml": _CHATML, "alpaca": _ALPACA, "plain": _PLAIN}
_PROBE = "q7Xz"
_ASK = (Message("user", "w3Vk"),)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with what was found out about it.

    Attributes:
        name: `tokenizer`, `chatml`, `alpaca`, `plain` or a file's name.
        source: jinja text; it sees `messages`, `add_generation_prompt` and the tokens.
        tokens: special tokens the text uses, as (name, string) pairs such as ('eos_token', '</s>').
        lead: what stands between the rendered prompt and the assistant's text, often nothing.
        end: the end of an assistant's turn, such as '<|im_end|>'.
        tail: what a whole rendering has after the end, often '\\n' or nothing.
        trims: whether the template strips white space around the assistant's text.
        merges_system: whether system text goes into the first user message.
    """

    name: str
    source: str
    tokens: tuple[tuple[str, str], ...] = ()
    lead: str = ""
    end: str = ""
    tail: str = ""
    trims: bool = False
    merges_system: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides on the rendering; equal templates under two names are equal."""
        parts = [self.source, self.tokens, self.lead, self.end, self.trims, self.merges_system]
        return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()

    def render(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """The rendering of a conversation as the template gives it.

        Raises:
            DataError: the template refuses these messages (reason `template_refused`).
        """
        if self.merges_system:
            messages = _merge_system(messages)
        try:
            return _compiled(self.source).render(
                messages=message_rows(messages),
                add_generation_prompt=add_generation_prompt,
                **dict(self.tokens),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise DataError(
                f"chat template '{self.name}' refuses the messages ({error})",
                field="prompt",
                value=" ".join(m.role for m in messages),
                reason="template_refused",
            ) from error

    def render_prompt(self, messages: Conversation) -> str:
        """Text up to where the assistant's answer begins.

        Raises:
            DataError: no message, or messages that the template refuses.
        """
        if not messages:
            raise DataError("a prompt needs at least one message", field="prompt", reason="empty_prompt")
        return self.render(messages, add_generation_prompt=True)

    def render_completion(self, text: str) -> str:
        """The assistant's text as the model is to write it, up to the end of its turn."""
        body = text.strip() if self.trims else text
        while self.end and body.rstrip().endswith(self.end.strip()):
            body = body.rstrip().removesuffix(self.end.strip())
        return self.lead + body + self.end

    def parse_completion(self, generated: str) -> str:
        """The assistant's text out of what a model wrote: the inverse of `render_completion`."""
        body = generated.removesuffix(self.tail).removesuffix(self.end).removeprefix(self.lead)
        return body.strip() if self.trims else body

    def save(self, folder: Path) -> None:
        """Write the template into a model folder, for AlignLoop and as Hugging Face's jinja file."""
        content = {name: getattr(self, name) for name in self.__slots__}
        content |= {"tokens": dict(self.tokens), "fingerprint": self.fingerprint}
        write_whole(folder / "chat_template.jinja", [self.source])
        write_whole(folder / FILE, [json.dumps(content, ensure_ascii=False, indent=2) + "\n"])


def _merge_system(messages: Conversation) -> Conversation:
    if len(messages) < 2 or messages[0].role != "system":
        return messages
    first = messages[1]
    return (Message(first.role, f"{messages[0].content}\n\n{first.content}"), *messages[2:])


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, by which some templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def load_template(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> ChatTemplate:
    """A chat template by name.

    Args:
        name: `tokenizer` (the tokenizer's own); `chatml`; `alpaca` (instruction, input and response
            headings; a system message replaces its opening sentence); `plain` (the texts alone,
            separated by an empty line); or the path of a .jinja file.
        tokenizer: whose special tokens are used. Without one, for showing texts only, the end of a
            turn is '<eos>' in alpaca and plain.

    Returns:
        The template with its lead, end and tail found out.

    Raises:
        ModelError: an unknown name, a tokenizer without the template or the tokens it needs, or a
            template that cannot render one question and answer.
    """
    tokens = _special_tokens(tokenizer)
    if name == "tokenizer":
        source = _own(tokenizer)
    elif name in _BUILT_IN:
        _check_tokens(name, tokenizer)
        begins_with_bos = name == "chatml" and tokens["bos_token"] == "<|im_start|>"
        add_bos = _adds_bos(tokenizer) and not begins_with_bos
        source = ("{{ bos_token }}" if add_bos else "") + _BUILT_IN[name]
    elif name.endswith((".jinja", ".jinja2")):
        source = _from_file(Path(name))
    else:
        raise ModelError(f"chat template '{name}' is not known; use {', '.join(NAMES)} or a .jinja file")
    used = tuple((key, token) for key, token in tokens.items() if re.search(rf"\b{key}\b", source))
    return _examined(ChatTemplate(name, source, used), tokens.get("eos_token", ""))


def _special_tokens(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    if tokenizer is None:
        return {"bos_token": "", "eos_token": "<eos>"}
    found = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return {"bos_token": "", **dict(sorted(found.items()))}


def _own(tokenizer: PreTrainedTokenizerBase | None) -> str:
    source = tokenizer.chat_template if tokenizer is not None else None
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        raise ModelError("the tokenizer has no chat template of its own; use chatml, alpaca or plain")
    return source


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
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


def _examined(template: ChatTemplate, eos_token: str) -> ChatTemplate:
    """The template with lead, end, tail, trims and merges_system found by rendering probes."""
    try:
        prompt = template.render(_ASK, add_generation_prompt=True)
        whole = template.render((*_ASK, Message("assistant", _PROBE)))
        spaced = template.render((*_ASK, Message("assistant", f" {_PROBE} ")))
    except DataError as error:
        raise ModelError(
            f"chat template '{template.name}' cannot render a question and its answer: {error.message}"
        ) from error
    if whole.count(_PROBE) != 1 or _ASK[0].content not in prompt:
        raise ModelError(f"chat template '{template.name}' does not render each message once")
    start = whole.index(_PROBE)
    after = whole[start + len(_PROBE) :]
    end = after.rstrip()
    return replace(
        template,
        lead=whole[len(prompt) : start] if whole[:start].startswith(prompt) else "",
        end=end or eos_token,
        tail=after[len(end) :] if end else "",
        trims=f" {_PROBE} " not in spaced,
        merges_system=not _renders_system(template),
    )


def _renders_system(template: ChatTemplate) -> bool:
    try:
        return _PROBE in template.render((Message("system", _PROBE), *_ASK), add_generation_prompt=True)
    except DataError:
        return False


def load_saved(folder: Path) -> ChatTemplate:
    """The template that was saved with a model.

    Raises:
        ModelError: there is none, or its file is damaged or was edited.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = content.pop("fingerprint")
        template = ChatTemplate(**content | {"tokens": tuple(content["tokens"].items())})
    except FileNotFoundError as error:
        raise ModelError(f"no chat template was saved in {folder} ({FILE} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the chat template in {path} is damaged ({error})") from error
    if template.fingerprint != written:
        raise ModelError(f"the chat template in {path} was changed after it was saved")
    return template


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
    raise ModelError(
        f"the model was trained with chat template '{training.name}' ({training.fingerprint[:8]}), not with "
        f"'{inference.name}' ({inference.fingerprint[:8]}){shown}; use the one it was trained with"
    )
