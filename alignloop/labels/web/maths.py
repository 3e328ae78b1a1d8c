r"""LaTeX formulas in a Markdown text: taken out before Markdown is read, put back as they were written.

Markdown would read `\(` as an escaped bracket and `_` as emphasis. Formulas are `\(…\)`, `\[…\]` and
`$$…$$`, and `$…$` where its content can only be a formula, so that prices and variables of a shell stay
text. Code keeps its dollars and backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markdown_it.token import Token

MAX_FORMULA = 5_000
"""Longest formula, in characters; longer ones stay text."""

_START = re.compile(
    r"^(?P<quote>(?:[ \t]*>)*)(?:[ \t]*(?:[-*+]|\d+[.)])[ \t])*[ \t]*"
    r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*\n?"
    r"|(?P<ticks>`+)|(?P<open>\\\(|\\\[|\$\$?)|\\[\s\S]",
    re.MULTILINE,
)
_BODIES = {
    r"\(": re.compile(r"((?:[^\\]|\\[^()\[\]])+)\\\)"),
    r"\[": re.compile(r"((?:[^\\]|\\[^()\[\]])+)\\\]"),
    "$$": re.compile(r"((?:[^\\$]|\\[\s\S]|\$(?!\$))+)\$\$"),
    "$": re.compile(r"(?![\s$])((?:[^\\$\n]|\\.)+)(?<!\s)\$(?![\w$])"),
}
_BLANK_LINE = re.compile(r"\n[ \t>]*\n")
_ATOM = r"(?:[A-Za-z]{1,2}'*|[0-9]+(?:\.[0-9]+)?)"
_TERM = rf"[(\[|-]*{_ATOM}[)\]|!]*"
_FORMULA = re.compile(rf"[^\\^_{{}}=]*[\\^_{{}}=][\s\S]*|{_TERM}(?:\s*[-+*/,|<>:(]\s*{_TERM})*")


@dataclass(frozen=True, slots=True)
class Marked:
    """A text whose formulas are replaced by marks.

    Attributes:
        text: with `{sign}{number}{sign}` for each formula.
        sign: a character of the private use area that the text itself does not hold.
        formulas: as written, delimiters included, in the order of their numbers.
    """

    text: str
    sign: str
    formulas: Sequence[str]

    def restored(self, text: str) -> str:
        """A part of the marked text, with the formulas written out again."""
        for sign in (self.sign, quote(self.sign)):
            text = re.sub(f"{sign}([0-9]+){sign}", lambda m: self.formulas[int(m[1])], text)
        return text

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """A part of the marked text as (piece, whether it is a formula)."""
        parts = re.split(f"{self.sign}([0-9]+){self.sign}", text)
        found = [(self.formulas[int(part)], True) if k % 2 else (part, False) for k, part in enumerate(parts)]
        return [piece for piece in found if piece[0]]


def mark(text: str) -> Marked:
    """Replace the formulas of a Markdown text by marks that Markdown leaves alone."""
    sign = next((c for c in map(chr, range(0xE000, 0xF8FF)) if c not in text), "")
    formulas: list[str] = []
    made: list[str] = []
    position = copied = 0
    while sign and (found := _START.search(text, position)):
        position = found.end()
        if found["fence"]:
            position = _end_of_fence(text, position, found["fence"], bool(found["quote"]))
        elif found["ticks"]:
            position = _end_of_code(text, position, len(found["ticks"]))
        elif found["open"]:
            end = _end_of_formula(text, found.start(), found["open"])
            if end is not None:
                made += [text[copied : found.start()], f"{sign}{len(formulas)}{sign}"]
                formulas.append(_unquoted(text, found.start(), end))
                position = copied = end
    return Marked("".join([*made, text[copied:]]), sign, formulas)


def _end_of_fence(text: str, position: int, fence: str, quoted: bool) -> int:
    """End of a fenced block of code that begins before `position`."""
    closing = re.compile(rf"[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    while position < len(text):
        end = text.find("\n", position)
        line, after = (text[position:], len(text)) if end < 0 else (text[position:end], end + 1)
        if quoted and not line.lstrip().startswith(">"):
            return position
        position = after
        if closing.match(line):
            break
    return position


def _end_of_code(text: str, position: int, ticks: int) -> int:
    """End of inline code opened by so many backticks; `position` itself where nothing closes it."""
    blank = _BLANK_LINE.search(text, position)
    closing = re.compile(f"(?<!`)`{{{ticks}}}(?!`)")
    found = closing.search(text, position, blank.start() if blank else len(text))
    return found.end() if found else position


def _end_of_formula(text: str, start: int, opening: str) -> int | None:
    body = start + len(opening)
    found = _BODIES[opening].match(text, body, body + MAX_FORMULA)
    if found is None or not found[1].strip():
        return None
    if opening == "$":
        joined = start > 0 and (text[start - 1].isalnum() or text[start - 1] in "$\\")
        return None if joined or not _FORMULA.fullmatch(found[1]) else found.end()
    # On a line of its own the opening is no chance; elsewhere a formula ends with its paragraph.
    own_line = opening != r"\(" and text[body : body + 1] in ("\n", "\r")
    if not own_line and _BLANK_LINE.search(found[1]):
        return None
    return found.end()


def _unquoted(text: str, start: int, end: int) -> str:
    """A formula without the `>` that a block quote puts before each of its lines."""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    source = text[start:end]
    return re.sub(r"\n[ \t]*(?:>[ \t]?)+", "\n", source) if line.lstrip().startswith(">") else source


def put_back(tokens: Sequence[Token], marked: Marked) -> None:
    """Give parsed Markdown its formulas again: as tokens `math` within text, as written everywhere else."""
    restored: Callable[[str], str] = marked.restored
    for token in tokens:
        token.info = restored(token.info)
        token.attrs = {k: restored(v) if isinstance(v, str) else v for k, v in token.attrs.items()}
        if token.type == "inline":
            put_back(token.children or (), marked)
            token.children = [piece for child in token.children or () for piece in _split(child, marked)]
        elif token.type != "text":
            token.content = restored(token.content)


def _split(child: Token, marked: Marked) -> list[Token]:
    if child.type != "text" or marked.sign not in child.content:
        return [child]
    return [
        Token("math" if formula else "text", "", 0, content=piece)
        for piece, formula in marked.pieces(child.content)
    ]
