import math
import re
from xml.etree import ElementTree

import pytest

from alignloop.report.plot import Series, interval_plot, line_plot, smoothed, sparkline, text_width, thinned


def test_smoothed_weighs_both_sides() -> None:
    # half-life 1 is w = 1/2; middle of (0, 1, 4): (0/2 + 1 + 4/2) / (1/2 + 1 + 1/2) = 3/2
    # first: (0 + 1/2 + 4/4) / (1 + 1/2 + 1/4) = 1.5 / 1.75; last: (0/4 + 1/2 + 4) / 1.75
    points = [(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)]
    expected = [(0, 1.5 / 1.75), (1, 1.5), (2, 4.5 / 1.75)]
    assert smoothed(points, half_life=1) == [pytest.approx(p) for p in expected]


def test_smoothed_leaves_out_what_is_not_finite() -> None:
    assert smoothed([(0, 2.0), (1, math.nan), (2, 2.0)], half_life=3) == [
        (0, pytest.approx(2.0)),
        (2, pytest.approx(2.0)),
    ]


def test_thinned_keeps_extremes_and_ends() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(5000)]
    points[1234] = (1234.0, 99.0)
    thin = thinned(points, at_most=200)
    assert len(thin) <= 202
    assert (1234.0, 99.0) in thin
    assert thin[-1] == points[-1]
    assert thin == sorted(thin)
    assert thinned(points[:200], at_most=200) == points[:200]


def test_a_line_goes_where_its_points_are() -> None:
    # plotting area: 392 × 170; y from −0.06 to 1.06, so y = 0 lies at 170 · 1.06/1.12 = 160.9
    svg = line_plot([Series("loss", ((0.0, 0.0), (10.0, 1.0)))], title="Loss")
    area = ElementTree.fromstring(svg).find("svg")
    assert area is not None
    assert (area.get("width"), area.get("height")) == ("392", "170")
    line = area.find("path")
    assert line is not None
    assert line.get("d") == "M0.0 160.9L392.0 9.1"


def test_a_value_that_is_not_finite_interrupts_the_line() -> None:
    points = tuple((float(i), math.nan if i == 2 else float(i)) for i in range(5))
    svg = line_plot([Series("loss", points)], title="Loss")
    drawn = re.findall(r'class="line s0" data-name="loss" d="([^"]*)"', svg)
    assert [len(re.findall(letter, drawn[0])) for letter in "ML"] == [2, 2]


@pytest.mark.parametrize(
    "values",
    [[5.0], [5.0, 5.0, 5.0], [0.0, 0.0], [1e-300, 2e-300], [-1e299, 1e299], [1.0, 1.0 + 1e-15], [0.3] * 500],
)
def test_flat_tiny_and_huge_values_are_drawn(values: list[float]) -> None:
    svg = line_plot([Series("x", tuple((float(i), v) for i, v in enumerate(values)))], title="x")
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_nothing_to_draw_is_nothing() -> None:
    assert line_plot([], title="x") == ""
    assert line_plot([Series("x", ((0.0, math.nan),))], title="x") == ""
    assert interval_plot(None, None, title="x") == ""


def test_a_rare_spike_is_cut_and_said() -> None:
    points = [(float(i), 1.0 + i % 2) for i in range(300)]
    assert "beyond the axis" not in line_plot([Series("x", tuple(points))], title="x")
    points[100] = (100.0, 1000.0)
    assert "1 point beyond the axis" in line_plot([Series("x", tuple(points))], title="x")


def test_names_are_escaped_and_shown_for_several_lines() -> None:
    evil = '<script>"&'
    svg = line_plot([Series(evil, ((0.0, 1.0),)), Series("한국어", ((0.0, 2.0),))], title=evil, x_label=evil)
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert root.get("aria-label") == f"{evil}: {evil}, 한국어"
    labels = [text for text in root.findall("text") if text.get("class") == "label"]
    assert ["".join(text.itertext()) for text in labels] == [evil * 2, "한국어" * 2]  # its tooltip, and it


def test_a_legend_that_is_too_long_goes_on_in_another_row_and_loses_nothing() -> None:
    names = [f"model number {n} with a long name" for n in range(5)] + ["x" * 200]
    svg = line_plot([Series(name, ((0.0, 1.0),)) for name in names], title="t")
    root = ElementTree.fromstring(svg)
    labels = [text for text in root.findall("text") if text.get("class") == "label"]
    assert [text[0].text for text in labels] == names
    places = {(text.get("x"), text.get("y")) for text in labels}
    assert len(places) == 6
    for text in labels:
        shown = text[0].tail or ""
        assert float(text.get("x", 0)) + text_width(shown, size=12) <= 460 - 16
    lowest = max(float(text.get("y", 0)) for text in labels)
    area = root.find("svg")
    assert area is not None
    assert float(area.get("y", 0)) > lowest
    assert float(root.get("viewBox", "").split()[3]) == 230 + 16 * 5


def test_korean_letters_are_wider() -> None:
    assert text_width("한국", size=10) == pytest.approx(20)
    assert text_width("ab", size=10) == pytest.approx(11.2)


def test_intervals_share_one_scale() -> None:
    # scale 0 … 4 on 6 … 114 pixels: 27 pixels a unit
    svg = interval_plot((0.0, 1.0, 2.0), (2.0, 3.0, 4.0), title="kl: before 1, after 3")
    assert 'aria-label="kl: before 1, after 3"' in svg
    assert 'class="whisker before" d="M6.0 7H60.0"' in svg
    assert 'class="point after" cx="87.0" cy="17"' in svg


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 1, 1], width=2) == "▁█"
    assert sparkline([math.nan]) == ""
