"""Texts of records, and the normal form in which texts are compared."""

from __future__ import annotations

import re
import unicodedata

from alignloop.errors import DataError
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Preference,
    Prompt,
    Ranking,
    Rating,
    Record,
    canonical,
    plain_rows,
    written,
)

# Chinese and Japanese are written without spaces, so each sign is a word; Korean has spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")


def prompt_text(record: Record, *roles: str) -> str:
    """The prompt's messages, one after the other, of all roles or those named; a document has none."""
    if isinstance(record, Document):
        return ""
    return "\n\n".join(written(m) for m in record.prompt if not roles or m.role in roles)


def prompt_key(record: Record) -> str:
    """What makes two prompts the same: roles, normalised texts and tools (a document's text)."""
    if isinstance(record, Document):
        return normalise(record.text)
    return "\x1e".join(
        "\x1f".join((role, normalise(content), *map(canonical, more)))
        for role, content, *more in plain_rows(record.prompt)
    )


def completion_texts(record: Record) -> tuple[str, ...]:
    """The completions of a record in order; a document's text is one, a prompt has none."""
    match record:
        case Document():
            return (record.text,)
        case Prompt():
            return ()
        case Preference():
            return (record.chosen, record.rejected)
        case Ranking():
            return record.completions
        case Demonstration():
            return (record.text,)
        case Label() | Rating():
            return (record.completion,)


def normalise(text: str) -> str:
    """Compatibility-composed, case-folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fault_of(record: Record, reason: str, message: str) -> DataError:
    """What is wrong with a record, at the place that it comes from."""
    return DataError(message, file=record.provenance.file, line=record.provenance.line, reason=reason)


def words(text: str) -> list[str]:
    """Words of the normalised text, without punctuation; single signs in Chinese and Japanese."""
    return _WORD.findall(normalise(text))
