import math

import pytest

from alignloop.report.scale import duration, rounded, tick_labels, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.31, 0.72, [0.4, 0.5, 0.6, 0.7]),
        (-115, -83, [-110, -100, -90]),
        (1, 200, [50, 100, 150, 200]),
        (0, 5e-7, [0, 1e-7, 2e-7, 3e-7, 4e-7, 5e-7]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected, rel=1e-12, abs=1e-20)


def test_there_are_always_two_to_six_ticks() -> None:
    for exponent in range(-12, 13):
        for k in range(1, 60):
            low, high = -k * 10.0**exponent, (k % 7 + 0.5) * 10.0**exponent
            found = ticks(low, high)
            assert 2 <= len(found) <= 6
            assert all(low - 1e-6 * (high - low) <= t <= high + 1e-6 * (high - low) for t in found)


def test_tick_labels_tell_neighbours_apart() -> None:
    assert tick_labels([0.05, 0.1, 0.15]) == ["0.05", "0.10", "0.15"]
    assert tick_labels([-100, -50, 0]) == ["−100", "−50", "0"]
    assert tick_labels([0, 20_000, 40_000]) == ["0", "20k", "40k"]
    assert tick_labels([0, 2e-7, 4e-7]) == ["0", "2e-07", "4e-07"]
    for low in (1e-6, 0.013, 0.7, 12, 999, 9_990, 54_000, 3e6, 8e9):
        labels = tick_labels(ticks(low, 1.01 * low))
        assert len(set(labels)) == len(labels), labels


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.693147, "0.6931"), (12.5, "12.5"), (1234.5, "1,234"), (2e-5, "2e-05"), (0, "0"), (-0.41, "−0.41"),
        (100.0, "100"), (None, "–"), (math.nan, "NaN"), (-math.inf, "−∞"),
    ],
)  # fmt: skip
def test_rounded(value: float | None, expected: str) -> None:
    assert rounded(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3.21, "3.2 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h"), (None, "–")],
)
def test_duration(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected
