import json
from pathlib import Path

import pytest

from alignloop.report import render
from alignloop.report.comparison import as_text, comparison_table
from alignloop.runs.evaluation_results import Compared
from alignloop.runs.results import read_results
from tests.report.fake_runs import make_run

RESULTS = {
    "models": ["sft", "start", "<b>dpo</b>"],
    "baseline": "start",
    "confidence": 0.9,
    "comparison": [
        {
            "name": "gsm8k",
            "unit": "share",
            "higher_is_better": True,
            "scale": "rate",
            "margin": 0.02,
            "num_prompts": 200,
            "models": {
                "start": {"value": 0.25, "interval": [0.2, 0.31]},
                "sft": {
                    "value": 0.4, "interval": [0.33, 0.47], "difference": 0.15, "p": 0.001,
                    "difference_interval": [0.08, 0.22], "verdict": "better", "tax": "within the margin",
                    "prompts_to_decide": None,
                },
                "<b>dpo</b>": {
                    "value": 0.24, "interval": [0.19, 0.3], "difference": -0.01, "p": 1.0,
                    "difference_interval": [-0.06, 0.04], "verdict": "no difference shown",
                    "tax": "undecided", "prompts_to_decide": 4100,
                },
            },
        },
        {
            "name": "perplexity", "unit": "per token", "higher_is_better": False, "scale": "log",
            "margin": None, "num_prompts": 50,
            "models": {"start": {"value": 12.5, "interval": [12, 13]}, "sft": {"missing": "an endpoint"}},
        },
    ],
    "win_rates": [
        {
            "set": "helpful", "judge": "reward", "model": "sft", "against": "start", "value": 0.61,
            "interval": [0.54, 0.68], "p": 0.004, "length_controlled": 0.55,
            "length_controlled_interval": [0.47, 0.63], "same_in_both_orders": 0.9, "contradictory": 2,
            "without_verdict": 0, "num_prompts": 200, "prompts_needed": 160,
        }
    ],
    "ratings": [
        {"set": "helpful", "judge": "reward", "model": "sft", "rating": 1077.7, "low": 1030.2, "high": 1125,
         "num_comparisons": 400, "with_virtual_ties": False}
    ],
    "requirements": [{"requirement": "sft.gsm8k > 0.5", "measured": 0.4, "met": False}],
    "num_prompts": {"gsm8k": 200},
}  # fmt: skip


def compared(results):
    return read_results(results, Compared)


def test_the_baseline_comes_first_and_numbers_read_as_points():
    found = comparison_table(compared(RESULTS))
    assert found.models[0] == "start"
    start, sft, dpo = found.rows[0].entries
    assert (start.value, start.interval, start.change) == ("25.0 %", "20.0 to 31.0", "")
    assert sft.change == "+15.0 (+8.0 to +22.0)"
    assert dpo.change == "−1.0 (−6.0 to +4.0)"
    assert dpo.tax == "loss undecided, 4,100 prompts would decide"
    assert found.rows[0].hint == "higher is better, margin 2.0 %, 200 rows"
    assert found.rows[1].entries[1].note == "an endpoint"
    assert found.level == "90 %"
    assert found.wins[0][4:8] == ("61.0 %", "54.0 to 68.0", "0.004", "55.0 % (47.0 to 63.0)")
    assert found.wins[0][-1] == "90.0 % the same in both orders; 2 contradictory; 160 prompts would prove it"
    assert comparison_table(compared({"comparison": "odd"})) is None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "compare", stage="compare", results=RESULTS)


def test_every_format_shows_the_table_once_and_nothing_as_markup(run):
    html = render(run)
    assert "&lt;b&gt;dpo&lt;/b&gt;" in html
    assert "<b>dpo</b>" not in html
    assert "Not met." in html
    assert html.count("160 prompts would prove it") == 1
    markdown = render(run, format="md")
    assert "| gsm8k (higher is better, margin 2.0 %, 200 rows) | 25.0 %" in markdown
    assert "\\<b\\>dpo" in markdown
    shown = json.loads(render(run, format="json"))["runs"][0]["comparison"]
    assert shown["models"] == ["start", "sft", "<b>dpo</b>"]
    assert shown["requirements"] == [["sft.gsm8k > 0.5", "0.4", False]]


def test_the_terminal_gets_aligned_columns():
    lines = as_text(compared(RESULTS)).splitlines()
    assert lines[0].split() == ["start", "sft", "<b>dpo</b>"]
    assert lines[1].startswith("gsm8k ")
    assert lines[-1] == "NOT MET: sft.gsm8k > 0.5 (measured 0.4)"
    assert as_text(compared({})) == ""


def test_an_audit_draws_gains_and_both_fits_against_the_root_of_the_kl(tmp_path):
    curve = [
        {"kl": d * d, "sqrt_kl": d, "proxy_gain": d, "gold_gain": d / 2, "fit_rl": d, "fit_best_of_n": d}
        for d in (0.0, 1.0, 2.0)
    ]
    findings = [
        {"name": "proxy", "level": "fine", "text": "rose"},
        {"name": "length", "level": "alarm", "text": "<i>all</i> length"},
    ]
    results = {
        "verdict": "suspicious",
        "text": "Do not trust it. " * 40,
        "curve": curve,
        "findings": findings,
    }
    run = make_run(tmp_path / "audit", stage="audit", results=results)
    html = render(run)
    assert html.index("&lt;i&gt;all&lt;/i&gt; length") < html.index("Proxy.")  # the gravest first
    assert html.count("Do not trust it.") == 40  # whole, and once
    assert html.count("sqrt_kl") == 0
    assert "**suspicious**: Do not trust it." in render(run, format="md")
    assert json.loads(render(run, format="json"))["runs"][0]["audit"]["verdict"] == "suspicious"
    assert "Gain against √KL from the start" in html
    assert 'data-x="√KL"' in html
    assert "d(α − β·ln d)" in html


def test_many_models_are_rows_the_best_first(tmp_path):
    names = [f"m{n}" for n in range(9)]
    rates = {name: (0.3, 0.9, 0.5, 0.7, 0.1, 0.6, 0.4, 0.8)[n] for n, name in enumerate(names[1:])}
    wins = [
        {"set": "chat", "judge": "gold", "model": name, "against": "m0", "value": rate, "interval": [0, 1]}
        for name, rate in rates.items()
    ]
    cells = {name: {"value": 0.5, "interval": [0.4, 0.6]} for name in names}
    rows = [{"name": metric, "unit": "share", "higher_is_better": True, "models": cells, "num_prompts": 9}
            for metric in ("exact", "chat.empty")]  # fmt: skip
    results = {"models": names, "baseline": "m0", "comparison": rows, "win_rates": wins}
    found = comparison_table(compared(results))
    best = ["m2", "m8", "m4", "m6", "m0", "m3", "m7", "m1", "m5"]  # the baseline's own rate is a half
    assert [name for name, _, _ in found.lines] == best
    assert [name for name, _ in found.head] == ["exact", "chat.empty"]
    assert [line.split()[0] for line in as_text(compared(results)).split("\n\n")[0].splitlines()[1:]] == best
    html = render(make_run(tmp_path / "c", stage="compare", results=results))
    assert html.index('<th scope="row">m2</th>') < html.index('<th scope="row">m8</th>')
    by_metric = comparison_table(compared({**results, "win_rates": []}))
    assert [name for name, _, _ in by_metric.lines] == names  # equal values: as they were given
