"""Silent traps between a chat template and the rows that it renders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignloop.data.chat import ChatTemplate
from alignloop.data.normal import completion_texts
from alignloop.data.template_probe import Findings
from alignloop.data.template_turn import as_text, drops_thoughts, split, without_end
from alignloop.data.tokenize import Encoder
from alignloop.records import Demonstration, Document, Message, Prompt, Record
from alignloop.stages.lint import Finding


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
    """AL403, AL404: rows whose texts hold marks of the template, or thoughts that do not fit its prompt."""
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
    return [*_about_marks(marked, len(records), encoder), *_about_thoughts(thoughtless, dropped, encoder)]


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


def _answers(record: Record, found: Findings) -> Sequence[str]:
    """The answers of a record, thoughts in a field of their own between the template's marks."""
    return (as_text(found, record.turn),) if isinstance(record, Demonstration) else completion_texts(record)


def _foreign(record: Record) -> Iterable[str]:
    """Texts that the assistant does not write."""
    if isinstance(record, Document):
        return (record.text,)
    return (message.content for message in record.prompt if message.role != "assistant")


def _written(record: Record, found: Findings) -> Iterable[str]:
    """Texts that the assistant writes, less an end of turn that they have already."""
    if isinstance(record, Document):
        return ()
    earlier = [message.content for message in record.prompt if message.role == "assistant"]
    return (without_end(found, text) for text in (*earlier, *completion_texts(record)))
