"""Silent traps between a chat template and the rows that it renders."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence

from alignloop.data.chat import ChatTemplate
from alignloop.data.normal import completion_texts
from alignloop.data.template_probe import TemplateTraits
from alignloop.data.template_turn import as_text, drops_thoughts, split, without_end
from alignloop.data.tokenize import Encoder
from alignloop.errors import DataError
from alignloop.records import Demonstration, Document, Message, Prompt, Record
from alignloop.stages.lint import Finding

COMPARED_ROWS = 256
"""How many rows are rendered whole as well, to be compared with what is trained."""


def lint_template(template: ChatTemplate) -> list[Finding]:
    """AL401, AL402: what a template leaves to the model."""
    found = []
    if not template.found.prompts:
        sentence = (
            f"chat template '{template.name}' ignores add_generation_prompt: the model has to write "
            f"{template.lead!r} itself before every answer"
        )
        found.append(Finding("AL401", "warning", sentence, "add the generation prompt to the template"))
    if not template.found.ends:
        sentence = (
            f"chat template '{template.name}' has no end of the assistant's turn; completions end with "
            f"{template.end!r}"
        )
        found.append(Finding("AL402", "warning", sentence, "check that the model ends its turns with it"))
    return found


def lint_texts(records: Sequence[Record], encoder: Encoder) -> list[Finding]:
    """AL403 to AL405: rows with marks of the template, with thoughts that do not fit, rendered otherwise."""
    marks, found = encoder.marks, encoder.template.found
    marked = thoughtless = dropped = 0
    for record in records:
        marked += marks.occur_in(_foreign(record)) or marks.occur_in(_written(record, found), assistant=True)
        if isinstance(record, Document | Prompt):
            continue
        texts = _answers(record, found)
        thoughtless += bool(found.opening) and any(
            split(found, text) is None and found.thought[0] not in text for text in texts
        )
        dropped += any(drops_thoughts(found, Message("assistant", text)) for text in texts)
    found = [*_about_marks(marked, len(records), encoder), *_about_thoughts(thoughtless, dropped, encoder)]
    return [*found, *_departures(records, encoder)]


def _departures(records: Sequence[Record], encoder: Encoder) -> list[Finding]:
    """AL405: of the first rows, those whose training text is not the rendering of the whole conversation."""
    counts, rows = Counter[str](), 0
    for record in records[:COMPARED_ROWS]:
        if isinstance(record, Document | Prompt):
            continue
        rows += 1
        turns = (record.turn,) if isinstance(record, Demonstration) else completion_texts(record)
        with contextlib.suppress(DataError):  # the reader drops and counts what a template refuses
            counts.update({encoder.template.departs(turn, record.prompt) for turn in turns})
    name, found = encoder.template.name, []
    if counts["prompt"]:
        sentence = (
            f"chat template '{name}' renders a whole conversation otherwise than its own generation prompt "
            f"begins the turn ({counts['prompt']} of {rows} rows compared); training follows the prompt, "
            "which is what the model is given in use"
        )
        fix = "mind that programs which train on the whole rendering train another text (docs/templates.md)"
        found.append(Finding("AL405", "warning", sentence, fix))
    if counts["thoughts"]:
        sentence = (
            f"chat template '{name}' leaves out thoughts of {counts['thoughts']} of {rows} rows compared; "
            "they are trained in front of the answer"
        )
        fix = "remove the thoughts, or use a chat template that renders them"
        found.append(Finding("AL405", "warning", sentence, fix))
    return found


def _about_marks(marked: int, rows: int, encoder: Encoder) -> list[Finding]:
    if not marked:
        return []
    read_as, fix = "plain text", "set special_tokens_in_content: true if the rows were rendered before"
    if encoder.special_tokens:
        read_as = "special tokens"
        fix = "leave special_tokens_in_content out unless the rows were rendered before"
    sentence = (
        f"{marked} of {rows} rows hold marks of the chat template or tokenizer in their texts, which are "
        f"read as {read_as}"
    )
    return [Finding("AL403", "warning", sentence, fix)]


def _about_thoughts(thoughtless: int, dropped: int, encoder: Encoder) -> list[Finding]:
    found = []
    name, opening = encoder.template.name, encoder.template.found.opening
    if thoughtless:
        sentence = (
            f"chat template '{name}' begins thoughts ({opening!r}) which {thoughtless} rows do not have; "
            "they are trained to close them at once"
        )
        fix = "set chat_template_kwargs, such as enable_thinking: false, or add thoughts"
        found.append(Finding("AL404", "warning", sentence, fix))
    if dropped:
        sentence = (
            f"chat template '{name}' closes thoughts before the answer, and {dropped} rows have some, which "
            "are left out"
        )
        fix = "set chat_template_kwargs, such as enable_thinking: true, or remove the thoughts"
        found.append(Finding("AL404", "warning", sentence, fix))
    return found


def _answers(record: Record, found: TemplateTraits) -> Sequence[str]:
    """The answers of a record, thoughts in a field of their own between the template's marks."""
    return (as_text(found, record.turn),) if isinstance(record, Demonstration) else completion_texts(record)


def _foreign(record: Record) -> Iterable[str]:
    """Texts that the assistant does not write."""
    if isinstance(record, Document):
        return (record.text,)
    return (message.content for message in record.prompt if message.role != "assistant")


def _written(record: Record, found: TemplateTraits) -> Iterable[str]:
    """Texts that the assistant writes, less an end of turn that they have already."""
    if isinstance(record, Document):
        return ()
    earlier = [message.content for message in record.prompt if message.role == "assistant"]
    return (without_end(found, text) for text in (*earlier, *completion_texts(record)))
