import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alignloop.errors import RunError
from alignloop.report import render, render_pipeline, render_run, write_report
from alignloop.report.curves import metric_picture
from alignloop.report.folder import read_run
from alignloop.runs import Run
from tests.report.fake_runs import EVALUATION, comparisons, curve, make_pipeline, make_run

EVIL = '</script></style><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(1)>{{ 7*7 }}'


class Page(HTMLParser):
    """Tags with attributes, and the visible text, of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_shows_what_was_done(tmp_path: Path) -> None:
    inputs = {
        "pairs": {"path": "d/pairs.jsonl", "rows": 1234, "kinds": "preference", "dropped": {"too_long": 56}}
    }
    run = make_run(
        tmp_path / "실험-1",
        stage="dpo",
        metrics=curve(30),
        samples=comparisons(4),
        inputs=inputs,
        results={"best_step": 20, "guard": {"alarms": 0}},
        warnings=["length_growth"],
    )
    page = Page(render_run(run))
    for expected in (
        "실험-1",
        "finished",
        "5 min 42 s",
        "1,234",
        "too long 56",
        "system: 친절한 도우미",
        "guard: alarms",
    ):
        assert expected in page.text, expected
    for title in (
        "Loss (nats)",
        "Margin, chosen over rejected",
        "KL from the reference (nats)",
        "Tokens per second",
        "Memory (GB)",
    ):
        assert title in page.text, title
    assert "length_growth" in page.text
    assert "한국의 가을" in page.text
    assert [tag for tag, _ in page.tags].count("del") >= 3


def test_data_is_counted_and_lists_of_results_are_tables(tmp_path: Path) -> None:
    stages = make_pipeline(tmp_path / "p", num_steps=2, num_samples=1) / "stages"
    text = " ".join(Page(render_run(stages / "sft")).text.split())
    expected = (
        "demonstration · human 1804 1,804 1,752 52 duplicate 37, empty completion 3, overlength 12 350,400"
    )
    assert expected in text
    assert "best of n" in Page(render_run(stages / "best-of-n")).text
    tables = json.loads(render(stages / "best-of-n", format="json"))["runs"][0]["tables"]
    assert tables["best_of_n"][1] == {"n": "2", "kl": "0.5", "reward": "0.4"}


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r", stage="sft", config={"seed": 1}, seed=1) as run:
        assert "running" in Page(render_run(run.path)).text
        record = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
        run.finish()
    record["process"] |= {"pid": 2**22 + 1}
    (run.path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    text = Page(render_run(run.path)).text
    assert "interrupted" in text


def test_nothing_comes_from_outside_and_nothing_runs_but_the_page_itself(tmp_path: Path) -> None:
    evil_key = {EVIL: EVIL}
    run = make_run(
        tmp_path / "run",
        stage=EVIL,
        name=EVIL,
        status=EVIL,
        error=EVIL,
        seed=EVIL,
        metrics=[{"step": 1, EVIL: 2.0}],
        samples=[
            {
                "prompt": [{"role": EVIL, "content": EVIL}],
                "completion": EVIL,
                "completion_before": EVIL + " x",
                "model": EVIL,
                EVIL: 1,
            }
        ],
        inputs={EVIL: {"path": EVIL, "sha256": EVIL, "kinds": [EVIL], "dropped": {EVIL: 1}}},
        parents=[{"path": "../" + EVIL, "stage": EVIL, "fingerprint": EVIL}],
        warnings=[EVIL],
        environment=evil_key,
        code=evil_key,
        results={"metrics": {EVIL: {"before": 1, "after": 2, "unit": EVIL}}, **evil_key},
    )
    source = render_run(run)
    page = Page(source)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == tags.count("style") == 1
    assert "img" not in tags
    assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(\d+)", source)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("style", "src") for name in attributes), (
            tag,
            attributes,
        )
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
    assert page.text.count("{{ 7*7 }}") > 15  # shown as text wherever it was


def test_the_policy_names_the_hashes_of_style_and_script(tmp_path: Path) -> None:
    import base64
    import hashlib

    source = render_run(make_run(tmp_path / "run", stage="sft"))
    policy = next(
        a["content"] for t, a in Page(source).tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_evaluation_is_judged_by_its_intervals(tmp_path: Path) -> None:
    page = Page(render_run(make_run(tmp_path / "e", stage="evaluate", results=EVALUATION)))
    text = " ".join(page.text.split())
    assert "63.1 % win rate against the start, 95 % interval 56.8 % to 69.2 %, 208 prompts" in text
    assert "the whole interval lies above 50 %" in text
    assert re.search(
        r"gold pass rate 18.2 %13.2 % to 23.6 % 34.7 %28.5 % to 41.2 % \+16.5 points better", text
    )
    assert re.search(r"held out perplexity .* no difference shown repetition .* worse", text)
    assert not re.search(r"kl nats 0 2.31 \+2.31 (better|worse)", text)


def test_a_paired_change_alone_decides_where_there_is_one(tmp_path: Path) -> None:
    """Both intervals overlap, as those of paired answers do; the change's own is clear of 0."""
    sides = {"before": 0.5, "before_interval": [0.4, 0.6], "after": 0.55, "after_interval": [0.45, 0.65]}
    row = {**sides, "unit": "share", "higher_is_better": True, "change": 0.05}
    metrics = {
        "gold_pass_rate": {**row, "change_interval": [0.01, 0.09]},
        "refusal_rate": {**row, "change_interval": [-0.01, 0.11]},
        "unpaired": row,
    }
    run = make_run(tmp_path / "e", stage="evaluate", results={"metrics": metrics})
    found = json.loads(render(run, format="json"))["runs"][0]["evaluation"]
    assert [one["verdict"] for one in found.values()] == [
        "better",
        "no difference shown",
        "no difference shown",
    ]
    assert "+5 points [+1, +9]" in " ".join(Page(render_run(run)).text.split())


def test_the_head_says_who_won_and_what_to_do_next(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", num_steps=30, num_samples=6)
    for source in (folder, folder / "stages/evaluate"):
        text = " ".join(Page(render(source)).text.partition("color-scheme")[2].split())
        won = text.index("the model beats the start: it wins on 63.1 % [56.8, 69.2] of 208 prompts by gold.")
        assert won < text.index("win rate against the start")
    page = Page(render(folder / "stages/ppo"))
    assert re.search(r"Talk to the model ?alignloop chat \S+/ppo", " ".join(page.text.split()))
    titles = [
        title for title in ("Reward of chosen", "KL from the reference", "Loss (nats)") if title in page.text
    ]
    assert sorted(titles, key=page.text.index) == ["Reward of chosen", "KL from the reference", "Loss (nats)"]
    sft = Page(render(folder / "stages/dpo")).text
    assert sft.index("Reward") < sft.index("Data flows")


def test_a_held_out_figure_stands_there_once(tmp_path: Path) -> None:
    held = {"accuracy": 0.7, "accuracy_interval": [0.6, 0.8], "pairs": 40}
    results = {"held_out_accuracy": 0.7, "held_out_accuracy_interval": [0.6, 0.8], "held_out": held}
    results |= {"eval_accuracy": 0.7, "eval_loss": 0.5}
    text = Page(render_run(make_run(tmp_path / "r", stage="reward", results=results))).text
    held_out = text.partition("On held-out rows")[2].partition("Next")[0]
    assert held_out.count("accuracy") == 1
    assert "70 % [60.0, 80.0]" in held_out
    assert "40" in held_out


def test_everything_but_the_story_is_folded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", stage="dpo", metrics=curve(9), results={"eval_loss": 0.5, "margin": 1})
    page = Page(render_run(run))
    folded = [a for tag, a in page.tags if tag == "details" and a.get("class") == "fold"]
    assert [a["id"] for a in folded] == ["run-results", "run-lineage", "run-recipe", "run-origin"]
    assert not any("open" in a for a in folded)
    targets = {(a["href"] or "").removeprefix("#") for tag, a in page.tags if tag == "a"}
    assert targets <= {a.get("id") for _, a in page.tags}
    assert {"run-held-out", "next", "run-curves"} <= targets


def test_every_picture_has_a_name(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", num_steps=30, num_samples=4)
    sources = [folder, *(folder / "stages" / name for name in ("dpo", "evaluate", "best-of-n"))]
    for source in sources:
        drawn = [attributes for tag, attributes in Page(render(source)).tags if tag == "svg"]
        assert drawn
        assert [a for a in drawn if not (a.get("aria-label") or "").strip() or "aria-hidden" in a] == []
    run = read_run(folder / "stages/dpo")
    assert 'aria-label="loss · dpo"' in metric_picture([run], "loss")


def test_names_are_those_of_people_each_explained_and_no_interval_is_a_list(tmp_path: Path) -> None:
    results = {
        "held_out_accuracy": 0.7,
        "held_out_accuracy_interval": [0.6, 0.8],
        "grad_norm": 3.5,
        "win": {"value": 0.25, "interval": [0.125, 0.5]},
        "notes": ["a", "b"],
    }
    page = Page(render_run(make_run(tmp_path / "r", stage="reward", results=results, metrics=curve(3))))
    text = " ".join(page.text.split())
    assert re.search(r"held-out accuracy ?70 % \[60.0, 80.0\]", text)
    assert re.search(r"win ?0.25 \[0.125, 0.5\]", text)
    for raw in ("grad_norm", "held_out", "interval", "[0.6, 0.8]"):
        assert raw not in text.partition("Environment and code")[0].partition("Reward")[2], raw
    tips = {a["title"] for tag, a in page.tags if tag == "dt" and a.get("title")}
    assert "before clipping" in tips
    assert "pairs ordered rightly that were not trained on" in tips


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.51, 0.6], "better than the start"),
        ([0.4, 0.49], "worse"),
        ([0.5, 0.6], "undecided"),
        (None, "no interval"),
    ],
)
def test_a_win_rate_is_decided_only_by_an_interval_clear_of_half(
    tmp_path: Path, interval: list[float] | None, verdict: str
) -> None:
    results = {"win_rate": {"value": 0.55, "interval": interval, "n": 9}}
    assert (
        verdict in Page(render_run(make_run(tmp_path / "e", stage="evaluate", results=results))).text.lower()
    )


def test_simulated_labels_are_marked_on_everything_made_from_them(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", num_steps=3, num_samples=2)
    for stage, marked in (
        ("sft", False),
        ("sample", False),
        ("feedback", True),
        ("dpo", True),
        ("evaluate", True),
    ):
        text = Page(render_run(folder / "stages" / stage)).text
        assert ("simulated labels" in text) is marked, stage
        assert ("Simulated labels." in text) is marked, stage
    report = json.loads(render(folder, format="json"))
    assert [run["simulated_labels"] for run in report["runs"]] == [False] * 2 + [True] * 8
    assert "**Simulated labels:**" in render(folder, format="md")


@pytest.mark.parametrize(
    "info",
    [
        {"results": [1], "inputs": "x", "parents": {"a": 1}, "warnings": "w", "environment": None, "code": 3},
        {"results": {"metrics": {"a": 3, "b": {"before": "x", "before_interval": [1]}}, "win_rate": 1}},
        {"inputs": {"a": None, "b": {"rows": "many", "dropped": {"x": None}, "kinds": {"demo": 3}}}},
        {"duration_s": "long", "name": ["x"], "stage": None, "status": {}, "seed": 10**400},
        {
            "results": {
                "metrics": {"a": {"before": float("nan"), "after": float("inf"), "higher_is_better": True}}
            }
        },
        {"error": "lone surrogate \ud800"},
    ],
)
@pytest.mark.parametrize("format", ["html", "md", "json"])
def test_odd_run_files_are_survived(tmp_path: Path, info: dict[str, Any], format: Any) -> None:
    folder = make_run(tmp_path / "run", stage="sft")
    (folder / "run.json").write_text(json.dumps({"stage": "sft", **info}), encoding="utf-8")
    render(folder, format=format).encode("utf-8")


def test_a_folder_with_metrics_alone_is_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo', encoding="utf-8")
    text = Page(render_run(tmp_path)).text
    assert "run.json is missing" in text
    assert "1 line could not be read" in text
    assert "Loss (nats)" in text


def test_a_pipeline_of_ten_stages_stays_below_five_megabytes(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", num_steps=3000, num_samples=40)
    long = [row | {"completion": f"{row['completion']} " * 40} for row in comparisons(400)]
    (folder / "stages/ppo/samples.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in long), encoding="utf-8"
    )
    source = render_pipeline(folder)
    assert len(source.encode("utf-8")) < 5_000_000
    assert "of 400 completions; the others are in samples.jsonl" in " ".join(Page(source).text.split())


def test_runs_given_one_by_one_make_a_pipeline_too(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, stage="sft", metrics=curve(3)) for name in ("a", "b")]
    page = Page(render_pipeline(runs))
    assert [a["href"] for t, a in page.tags if t == "a"] == ["#stage-1", "#stage-2"]
    with pytest.raises(RunError, match="no run folder"):
        render_pipeline([])


def test_markdown_is_one_escaped_table_per_section(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a|b", stage="evaluate", metrics=curve(9), results=EVALUATION, error="<b>*x*\ny"
    )
    text = render(run, format="md")
    assert "# a\\|b" in text
    assert "\\<b\\>\\*x\\* y" in text
    assert (
        "| gold pass rate | 18.2 % \\[13.2 %, 23.6 %\\] | 34.7 % \\[28.5 %, 41.2 %\\] | better |"
        in text.replace("gold\\_", "gold_")
    )
    assert re.search(r"\| Loss \(nats\): loss \| 0\.\d+ \| 0\.\d+ \| [▁▂▃▄▅▆▇█]{9} \|", text)


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r", stage="evaluate", metrics=[{"step": 1, "loss": float("nan")}], results=EVALUATION
    )
    report = json.loads(render(run, format="json"), parse_constant=pytest.fail)
    only = report["runs"][0]
    assert [(w["judge"], w["value"]) for w in only["win_rates"]] == [("", 0.631), ("reward", 0.534)]
    assert only["evaluation"]["repetition"]["verdict"] == "worse"
    assert only["curves"]["Loss (nats): loss"] == {
        "points": 1,
        "first": None,
        "last": None,
        "min": None,
        "max": None,
    }


def test_writing_replaces_the_file_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "r", stage="sft")
    assert write_report(run) == run / "report.html"
    before = (run / "report.html").read_text(encoding="utf-8")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"report\.html could not be written: the disk is full"):
        write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == before
    assert not list(run.glob(".*.tmp"))
    with pytest.raises(RunError, match="could not be written"):
        write_report(run, output=tmp_path / "no" / "such" / "folder.html")
