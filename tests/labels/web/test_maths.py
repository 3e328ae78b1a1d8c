"""LaTeX in prompts, answers and guidelines: never mangled, drawn in the browser, harmless."""

from __future__ import annotations

import re
import time
from importlib.resources import files

import pytest

from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.web.maths import MAX_FORMULA
from alignloop.labels.web.render import MAX_RENDERED, render
from alignloop.records import Message
from alignloop.web.pages import static_files
from tests.labels.web.browsing import PLAIN, READY, press

KATEX = "katex-0.19.1"


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"Let \(a_1 * b_1\) and \(c_2*d\).", [r"\(a_1 * b_1\)", r"\(c_2*d\)"]),
        ("합은 $$x_1 + y_1$$이고\n$$\n+ z_1\n- w_1\n$$ 끝", ["$$x_1 + y_1$$", "$$\n+ z_1\n- w_1\n$$"]),
        ("\\[\na &= b_1 \\\\[2pt]\n\n+ c\n\\]", ["\\[\na &= b_1 \\\\[2pt]\n\n+ c\n\\]"]),
        ("> so\n> $$\n> - a\n> $$", ["$$\n- a\n$$"]),
        ("| a |\n|--|\n| $$x|y$$ |", ["$$x|y$$"]),
        ("$x$, $a_1$, $f(x) < 2$, $2^n$, $-b/2$", ["$x$", "$a_1$", "$f(x) < 2$", "$2^n$", "$-b/2$"]),
        (r"1. \(x\)", [r"\(x\)"]),
        ("\ue000 \\(x\\) \ue001", [r"\(x\)"]),
        # no formulas
        ("from $5 to $10, US$5 and $HOME/$PATH, 5$ a $ b", []),
        ("`\\(x\\)`, ``$$`x`$$``\n\n```\n$$x$$\n```\n~~~py\n\\[y\\]\n~~~", []),
        (r"\$\$x\$\$ and \\(x\\)", []),
        ("a \\( b\n\nc \\) and $$ a\n\nb $$", []),
        ("$$$$ and \\(\\)", []),
    ],
)
def test_formulas_come_through_as_they_were_written(text, formulas):
    html = render(text)
    found = re.findall(r'<span class="math(?: display)?">(.*?)</span>', html, re.DOTALL)
    plain = [f.replace("&lt;", "<").replace("&amp;", "&") for f in found]
    assert plain == formulas
    assert "\ue000" not in html or "\ue000" in text


def test_code_and_addresses_keep_their_dollars():
    assert render("    $$x$$") == "<pre><code>$$x$$\n</code></pre>\n"
    html = render("[a](https://x.org/$$b_1$$) ![c $$d$$](e)")
    assert 'title="https://x.org/$$b_1$$"' in html
    assert "▣ c $$d$$" in html
    assert "math" not in html


def test_html_and_hidden_characters_within_formulas_are_shown():
    html = render("$$<script>alert(1)</script>\u202e$$")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert '<span class="control">U+202E</span>' in html


@pytest.mark.parametrize("piece", [r"\(", r"\[ ", "$$ ", "$x", "`a", "$$$", "``` \n", r"\(\\", "$$\n\n"])
def test_openings_without_end_do_not_hold_up_the_page(piece):
    began = time.process_time()
    render(piece * (MAX_RENDERED // len(piece)))
    assert time.process_time() - began < 3.0


def test_a_formula_beyond_the_limit_stays_text():
    assert "math" in render("$$" + "x" * (MAX_FORMULA - 2) + "$$")
    assert "math" not in render("$$" + "x" * MAX_FORMULA + "$$")


def test_katex_is_complete():
    """Every font that its stylesheet names first is there, with its licence."""
    static = static_files("alignloop.labels.web")
    css = static[f"{KATEX}/katex.min.css"][0].decode()
    fonts = re.findall(r"url\((fonts/[\w-]+\.woff2)\)", css)
    assert len(fonts) == 20
    assert all(static[f"{KATEX}/{font}"][1] == "font/woff2" for font in fonts)
    folder = files("alignloop.labels.web").joinpath("static", KATEX)
    assert "MIT License" in folder.joinpath("LICENSE").read_text("utf-8")


def test_static_files_are_chosen_by_name(served):
    client = served.client()
    answer = client.get(f"/static/{KATEX}/katex.min.js")
    assert answer.headers["cache-control"].endswith("immutable")
    assert client.get("/static/label.js").headers["cache-control"] == "no-cache"
    for path in ("..%2fsite.py", f"{KATEX}/LICENSE", f"{KATEX}/", "%2e%2e/%2e%2e/site.py"):
        assert client.get(f"/static/{path}").status_code == 404


def project_with(store, *answers: str, prompt: str = "q", guidelines: str = ""):
    project = store.create_project(
        "m", task="ranking", settings=Settings(**PLAIN), guidelines_text=guidelines
    )
    rows = [NewItem((Message("user", prompt),), tuple(ItemAnswer(text) for text in answers))]
    store.add_items(project, rows)
    return store.project(project.id)


def answer_with(page, text: str):
    return page.locator("#answers .text", has_text=text)


@pytest.mark.browser
def test_formulas_are_drawn_and_wrong_ones_are_text(server, visit):
    project = project_with(
        server.store,
        r"first \(\frac{1}{2}\) and $$\begin{aligned}a&=1\\b&=2\end{aligned}$$",
        r"second $$\frac{1}{$$ and \(\nosuchthing\) and " + "$$" + "{" * 2400 + "}" * 2400 + "$$",
        guidelines=r"지침: \(x^2\)",
    )
    page = visit(project, read=False)
    page.wait_for_selector("#answers .katex")
    good, wrong = answer_with(page, "first"), answer_with(page, "second")
    assert good.locator(".katex").count() == 2
    assert good.locator(".katex-display").count() == 1
    assert page.locator("#guidelines .katex").count() == 1
    assert wrong.locator(".katex").count() == 0
    assert r"\(\nosuchthing\)" in wrong.inner_text()
    loaded = page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].map((f) => f.status))")
    assert "loaded" in loaded
    assert "error" not in loaded
    press(page, "r")
    assert r"$$\begin{aligned}" in page.inner_text("#answers")


@pytest.mark.browser
def test_katex_is_loaded_only_where_there_is_a_formula(server, visit):
    asked = []
    project = project_with(server.store, "costs $5", "costs $10", guidelines="공정하게")
    page = visit(project)
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_function(READY)
    assert not [url for url in asked if "katex" in url]
    more = NewItem((Message("user", r"\(x\)"),), (ItemAnswer("a"), ItemAnswer("b")))
    server.store.add_items(project, [more])
    press(page, "1", "2", "Enter")
    page.wait_for_selector("#prompt .katex")
    assert [url for url in asked if url.endswith("katex.min.js")]


HIDING = [
    r"\href{javascript:window.hacked=1}{x}",
    r"\htmlId{submit}{x}",
    r"\includegraphics{https://x.example/a.png}",
    r"\textcolor{white}{hidden}",
    r"\colorbox{white}{hidden}",
    r"\def\x{\x\x}\x",
    "x % hidden",
    r"x \\% hidden",
    r"\phantom{hidden}",
    r"\hspace{-50em}x",
    r"\mathrlap{hidden}x",
    r"\raisebox{9em}{x}",
    r"\text{<img src=x onerror=window.hacked=1>}\url{x",
]


@pytest.mark.browser
def test_a_formula_that_hides_or_reaches_out_stays_text(server, visit):
    hostile = "hostile\n\n" + "\n\n".join(f"$${formula}$$" for formula in HIDING)
    page = visit(project_with(server.store, hostile, r"harmless \(x^2 \% 5\), \(\rho \colon \hbar\)"))
    page.wait_for_selector("#answers .katex")
    assert answer_with(page, "harmless").locator(".katex").count() == 2
    block = answer_with(page, "hostile")
    assert block.locator(".math").count() == len(HIDING)
    assert block.locator(".katex").count() == 0
    assert all(formula in block.inner_text() for formula in HIDING)
    assert page.locator("#answers a, #answers img").count() == 0
    assert page.evaluate("() => window.hacked === undefined")
