"""Ollama's Modelfile for a GGUF file, with the chat template in Ollama's (Go's) template language.

A jinja template cannot be translated in general. Nearly all of them only put fixed texts around each
message; these texts are found by rendering probes, and the translation is used if it renders every
probe conversation as the original does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignloop.data.chat import ChatTemplate
from alignloop.errors import DataError
from alignloop.records import Conversation, Message

_SYSTEM, _ASK, _ANSWER, _NEXT = (
    Message("system", "s4Wk"),
    Message("user", "u9Xm"),
    Message("assistant", "a2Yn"),
    Message("user", "v7Zp"),
)
_PROBES: tuple[Conversation, ...] = (
    (_ASK,),
    (_SYSTEM, _ASK),
    (_ASK, _ANSWER, _NEXT),
    (_SYSTEM, _ASK, _ANSWER, _NEXT),
    (_ASK, _ANSWER, _NEXT, _ANSWER, _ASK),
)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A template as fixed texts: before and after each role's messages, at the start of a conversation
    without system message, and before the answer to come."""

    around: Mapping[str, tuple[str, str]]
    opening: str
    prompt: str

    def render(self, messages: Conversation) -> str:
        """Text up to where the assistant's answer begins."""
        parts = ["" if messages[0].role == "system" else self.opening]
        for message in messages:
            before, after = self.around[message.role]
            parts += [before, message.content, after]
        return "".join([*parts, self.prompt])

    def go(self) -> str:
        """In Ollama's template language."""
        system, user, assistant = (
            "{{ .Content }}".join(self.around[role]) for role in ("system", "user", "assistant")
        )
        return (
            ("{{ if not .System }}" + self.opening + "{{ end }}" if self.opening else "")
            + '{{ range .Messages }}{{ if eq .Role "system" }}'
            + system
            + '{{ else if eq .Role "user" }}'
            + user
            + "{{ else }}"
            + assistant
            + "{{ end }}{{ end }}"
            + self.prompt
        )


def find_pieces(template: ChatTemplate) -> Pieces | None:
    """The template taken apart; None if it is more than fixed texts around messages."""
    try:
        whole = template.render((_ASK, _ANSWER, _NEXT))
        with_system = template.render((_SYSTEM, _ASK))
        prompt = template.render((_ASK, _ANSWER, _NEXT), add_generation_prompt=True)
        wanted = [template.render_prompt(probe) for probe in _PROBES]
    except DataError:
        return None
    start, ask, answer, end = _split(whole, _ASK, _ANSWER, _NEXT)
    system, first, _ = _split(with_system, _SYSTEM, _ASK)
    *_, last = _split(template.render((_ASK, _ANSWER)), _ASK, _ANSWER)
    user = (answer.removeprefix(last), end)
    found = Pieces(
        {
            "system": (system, first.removesuffix(user[0])),
            "user": user,
            "assistant": (ask.removeprefix(end), last),
        },
        start.removesuffix(user[0]),
        prompt.removeprefix(whole),
    )
    same = [found.render(probe) for probe in _PROBES] == wanted
    return found if same else None


def _split(text: str, *messages: Message) -> list[str]:
    """The texts before, between and after the messages' contents."""
    parts = []
    for message in messages:
        before, _, text = text.partition(message.content)
        parts.append(before)
    return [*parts, text]


def modelfile(
    gguf_name: str, template: ChatTemplate, *, context: int, bos: str = "", stops: Sequence[str] = ()
) -> str:
    """Text of a Modelfile.

    Args:
        gguf_name: file name of the model, beside the Modelfile.
        template: the chat template.
        context: tokens of prompt and answer together.
        bos: text of the token that the engine puts in front by itself, or "".
        stops: all that ends a turn, as text; the template's end of turn if empty.

    Returns:
        The file's text; without TEMPLATE where the template is more than texts around messages, in
        which case Ollama takes the one in the GGUF file if it knows it.
    """
    lines = [f"FROM ./{gguf_name}", f"PARAMETER num_ctx {context}"]
    ends = stops or (template.end,)
    lines += [f'PARAMETER stop "{end}"' for end in ends if end and not {'"', "\n"}.intersection(end)]
    pieces = find_pieces(template)
    if pieces is not None and bos:
        around = {**pieces.around}
        around["system"] = (around["system"][0].removeprefix(bos), around["system"][1])
        pieces = Pieces(around, pieces.opening.removeprefix(bos), pieces.prompt)
    texts = [] if pieces is None else [pieces.opening, pieces.prompt, *sum(pieces.around.values(), ())]
    if pieces is None or any('"""' in text or "{{" in text for text in texts):
        lines.append("# The chat template has conditions that Ollama's language was not given here;")
        lines.append("# compare `ollama show --template` with chat_template.jinja before use.")
    else:
        lines.append(f'TEMPLATE """{pieces.go()}"""')
    return "\n".join(lines) + "\n"
