"""The report in a real browser: silent, fast, and its comforts work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignloop.report import write_report
from tests.report.fake_runs import comparisons, curve, make_pipeline, make_run

pytestmark = pytest.mark.browser


@dataclass
class Opened:
    """A page with everything it said and asked for."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show(self, file: Path) -> Any:
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        return self.page


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield Opened(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten stages of 3 000 steps and 400 long completions: more than the report shows."""
    folder = tmp_path_factory.mktemp("reports") / "full-loop"
    return write_report(make_pipeline(folder, num_steps=3000, num_samples=400))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = {
        "prompt": "hostile",
        "completion": "<img src='http://127.0.0.1:9/x' onerror='document.title=1'>",
    }
    folder = tmp_path_factory.mktemp("reports") / "dpo"
    return write_report(
        make_run(folder, stage="dpo", metrics=curve(120), samples=[*comparisons(20), hostile])
    )


def test_ten_stages_open_within_a_second_from_five_megabytes(opened: Opened, pipeline: Path) -> None:
    assert pipeline.stat().st_size <= 5_000_000
    page = opened.show(pipeline)
    assert page.locator("#stages tbody tr").count() == 10
    loads = []
    for _ in range(3):  # the fastest of three, since tests run beside one another
        page.reload()
        loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert 0 < min(loads) <= 1000
    assert opened.messages == []
    assert set(opened.requests) == {pipeline.as_uri()}


def test_hostile_completions_do_nothing(opened: Opened, run: Path) -> None:
    page = opened.show(run)
    page.get_by_role("button", name="Open all").click()
    assert page.get_by_text("<img src='http://127.0.0.1:9/x'").is_visible()
    assert page.title() == "dpo · AlignLoop"
    assert opened.messages == []
    assert opened.requests == [run.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window_and_is_readable(chromium: Any, run: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(run.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
    )
    assert abs(ink - paper) > 400  # of 765
    assert (paper > ink) is (scheme == "light")
    context.close()


def test_search_finds_korean_and_counts(opened: Opened, run: Path) -> None:
    page = opened.show(run)
    assert page.locator(".sample:visible").count() == 8
    page.get_by_role("searchbox").fill("가을을 단풍이")
    assert page.locator(".sample:visible").count() == 4  # every fifth of 20
    assert page.locator(".count").inner_text() == "4"
    page.get_by_role("searchbox").fill("no such words")
    assert page.locator(".sample:visible").count() == 0


def test_tables_sort_by_number_both_ways(opened: Opened, pipeline: Path) -> None:
    page = opened.show(pipeline)
    table = page.locator("#stages table")
    head = table.get_by_role("button", name="Tokens/s")

    def column() -> list[float]:
        texts = table.locator("tbody tr td:nth-child(7)").all_inner_texts()
        return [float(text.replace(",", "")) for text in texts if text != "–"]

    head.click()
    assert column() == sorted(column())
    head.press("Enter")
    assert column() == sorted(column(), reverse=True)
    assert len(set(column())) > 1
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_a_link_opens_its_stage(opened: Opened, pipeline: Path) -> None:
    page = opened.show(pipeline)
    page.locator("#stages").get_by_role("link", name="kto").click()
    assert page.locator("#stage-7 figure").first.is_visible()


def test_the_pointer_reads_a_curve(opened: Opened, run: Path) -> None:
    page = opened.show(run)
    figure = page.locator("figure").first
    figure.locator("svg.area").hover(position={"x": 150, "y": 60})
    assert figure.locator(".readout").inner_text().startswith("step ")
    assert opened.messages == []


def test_without_script_everything_is_there(chromium: Any, run: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(run.as_uri())
    assert page.get_by_role("searchbox").count() == 0  # hidden, not dead
    page.locator(".rest > summary").click()
    assert page.locator(".sample:visible").count() == 21
    assert page.locator("figure svg").count() >= 10
    context.close()
