"""Hostile answers as harmless HTML."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest

from alignloop.labels.web.render import MAX_RENDERED, block_html, blocks, render

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "[click](https://evil.example 'x\" onmouseover=\"alert(1)')",
    "![x](https://evil.example/pixel.png)",
    "<https://evil.example>",
    '<a href="https://evil.example">x</a>',
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>`",
    "| a | b |\n|:-|-:|\n| <svg onload=alert(1)> | x |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!-- --><style>*{display:none}</style>",
    "[x]: javascript:alert(1)\n[x]",
    '<iframe srcdoc="<script>alert(1)</script>">',
]
ALLOWED = {"p", "br", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "span"}
ALLOWED |= {"table", "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = {"class", "title", "start"}


class Walk(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError("a comment came through")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_comes_through(text):
    walk = Walk()
    walk.feed(render(text))
    assert walk.tags <= ALLOWED
    assert walk.names <= ATTRIBUTES
    assert "javascript:" not in render(text).split(">")[0]


def test_links_are_text_with_their_address_as_title():
    html = render("[문서](https://example.org/a?b=1&c=2)")
    assert html == '<p><span class="link" title="https://example.org/a?b=1&amp;c=2">문서</span></p>\n'
    assert "href" not in html


def test_markdown_and_code_are_shown():
    html = render("# 제목\n\n- *하나*\n\n```python\nx < 1\n```\n\n|a|b|\n|:-|-:|\n|1|2|")
    assert "<h1>제목</h1>" in html
    assert "<em>하나</em>" in html
    assert "x &lt; 1" in html
    assert '<td class="align-right">2</td>' in html
    assert "style=" not in html


def test_a_very_long_text_is_shown_as_it_is():
    text = "*" * MAX_RENDERED + "<b>"
    assert render(text) == f'<pre class="plain">{"*" * MAX_RENDERED}&lt;b&gt;</pre>'


@pytest.mark.parametrize("piece", ["[", "![[", "*a ", "_a_", "`a`", "> ", "- ", "<", "&", "|", "a*"])
def test_deep_nesting_does_not_hold_up_the_page(piece):
    began = time.process_time()
    render(piece * (MAX_RENDERED // len(piece)))
    assert time.process_time() - began < 3.0


def test_a_conversation_as_blocks():
    rows = [
        {"role": "user", "content": "Tide?", "tools": [{"name": "tide"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "*Hm.*",
            "tool_calls": [{"type": "function", "function": {"name": "tide", "arguments": {"at": "<b>"}}}],
        },
        {"role": "tool", "content": "<script>alert(1)</script> *1.2*", "name": "tide"},
        {"role": "assistant", "content": "", "tool_calls": []},
    ]
    found = blocks(rows)
    assert [block["role"] for block in found] == [
        "tools",
        "user",
        "thinking",
        "call",
        "tool",
        "assistant",
    ]
    html = [block_html(block) for block in found]
    assert html[2] == "<p><em>Hm.</em></p>\n"
    assert html[3].startswith('<pre class="plain">{')
    assert "&lt;b&gt;" in html[3]
    assert html[4] == '<pre class="plain">&lt;script&gt;alert(1)&lt;/script&gt; *1.2*</pre>'
    assert blocks([{"role": "user", "content": "Hi"}]) == [{"role": "user", "text": "Hi"}]
