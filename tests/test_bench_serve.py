"""The serving benchmarks' own arithmetic, and a short run of each against a real server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import serve, serve_soak
from bench.serve_client import question


def test_summary_compares_medians() -> None:
    chosen = serve.options(["--model", "tiny", "--threads", "1"])
    alone = [{"tokens": 100, "seconds": s} for s in (10.0, 5.0, 4.0)]  # 10, 20, 25 tokens/s
    served = [{"tokens": 900, "seconds": s} for s in (10.0, 9.0, 15.0)]  # 90, 100, 60 tokens/s
    report = serve.summary(chosen, alone, served, [0.1, 0.2, 0.3], [0.5, 0.5, 0.1])
    assert (report["generate_tokens_per_s"], report["served_tokens_per_s"]) == (20.0, 90.0)
    assert (report["speedup"], report["first_token_ratio"]) == (4.5, 2.5)
    assert report["targets_met"] == {"speedup": True, "first_token_ratio": False}


def test_equal_numbers_are_equal_requests_and_others_differ() -> None:
    assert question(3, max_tokens=4) == question(3, max_tokens=4)
    assert len({str(question(n)["messages"]) for n in range(64)}) == 64


def test_memory_growth() -> None:
    """Third fifth 100, last fifth 110: 10 %; warming up before does not count."""
    rising = [(float(i), mb) for i, mb in enumerate([10, 50, 90, 95, 100, 100, 105, 105, 110, 110])]
    assert serve_soak.growth(rising) == pytest.approx(0.1)
    assert serve_soak.growth([(0.0, 5.0)]) == 0


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, None),
        ({"faults": ["x"]}, "no fault"),
        ({"counts": Counter(answers=1000, different=2)}, "no wrong answer"),
        ({"memory": [(0.0, 100.0)] * 8 + [(1.0, 120.0)] * 2}, "no leak"),
        ({"exit_code": 1}, "no crash"),
        ({"errors": "Traceback"}, "no crash"),
        ({"left": {"open": 1.0}}, "nothing left behind"),
    ],
)
def test_verdict(change: dict[str, Any], failed: str | None, tmp_path: Path) -> None:
    file = tmp_path / "errors.txt"
    file.write_text(change.get("errors", ""), encoding="utf-8")
    tally = serve_soak.Tally(
        change.get("counts", Counter(answers=1000, different=1)),
        change.get("memory", [(float(i), 100.0) for i in range(10)]),
        change.get("faults", []),
    )
    server: Any = SimpleNamespace(errors=file)
    report = serve_soak.verdict(tally, server, change.get("exit_code", 0), change.get("left", {"open": 0.0}))
    assert [name for name, fine in report["checks"].items() if not fine] == ([failed] if failed else [])
    assert report["passed"] == (failed is None)


def test_a_short_soak() -> None:
    report = serve_soak.run("tiny", seconds=3, clients=3, threads=1)
    checks = {name: fine for name, fine in report["checks"].items() if name != "no leak"}  # too short
    assert all(checks.values()), report
    assert report["answers"] + report["leave"] + report["bad"] > 0
