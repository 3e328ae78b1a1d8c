"""Markdown of prompts, answers and guidelines as HTML that can do nothing.

Answers are hostile input: raw HTML stays text, links do not lead anywhere, images are not loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from alignloop.labels.web import maths

MAX_RENDERED = 20_000
"""Longer texts are shown as they are: rendering them would hold up the page."""


def _open_link(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<span class="link" title="{escape(str(tokens[index].attrGet("href") or ""))}">'


def _close_link(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return "</span>"


def _image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    source = escape(str(tokens[index].attrGet("src") or ""))
    return f'<span class="image" title="{source}">▣ {escape(tokens[index].content)}</span>'


def _math(self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    source = tokens[index].content
    display = " display" if source.startswith(("$$", "\\[")) else ""
    return f'<span class="math{display}">{escape(source)}</span>'


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True, "maxNesting": 20})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("link_open", _open_link)
    parser.add_render_rule("link_close", _close_link)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("math", _math)
    return parser


_PARSER = _markdown()
_ALIGNMENT = re.compile(r'style="text-align:(left|right|center)"')


_DIRECTION = re.compile("[\u061c\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Characters without a look of their own that turn text around or hide in it."""


def shown(html: str) -> str:
    """HTML in which invisible characters are seen: an answer must not read otherwise than it is stored."""
    return _DIRECTION.sub(lambda m: f'<span class="control">U+{ord(m[0]):04X}</span>', html)


@lru_cache(maxsize=1024)
def render(text: str) -> str:
    """Safe HTML of a Markdown text; a very long text comes as one preformatted block.

    Formulas are elements of class `math` that hold their LaTeX source, delimiters included: the page's
    script typesets them, and without it they are read as written.
    """
    if len(text) > MAX_RENDERED:
        return shown(f'<pre class="plain">{escape(text)}</pre>')
    marked, env = maths.mark(text), {}
    tokens = _PARSER.parse(marked.text, env)
    if marked.formulas:
        maths.put_back(tokens, marked)
    html = _PARSER.renderer.render(tokens, _PARSER.options, env)
    # The content security policy ignores style attributes; nothing else the parser writes has one.
    return shown(_ALIGNMENT.sub(r'class="align-\1"', html))


def blocks(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What is shown of a conversation, one after the other: `role` and `text` of each block.

    A message has one block for its text, before it one each for the tools on offer (`tools`) and its
    thoughts (`thinking`), after it one for each tool call (`call`).
    """
    found = []
    for row in rows:
        found += [{"role": "tools", "text": _json(tool)} for tool in row.get("tools", ())]
        if row.get("reasoning_content"):
            found.append({"role": "thinking", "text": row["reasoning_content"]})
        calls = row.get("tool_calls", ())
        if row["content"] or not calls:
            found.append({"role": row["role"], "text": row["content"]})
        found += [{"role": "call", "text": _json(call.get("function", call))} for call in calls]
    return found


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def block_html(block: Mapping[str, str]) -> str:
    """Safe HTML of a block; what programs wrote is shown as it is, not as Markdown."""
    if block["role"] in ("tools", "call", "tool"):
        return shown(f'<pre class="plain">{escape(block["text"])}</pre>')
    return render(block["text"])
