"""The comparison of objectives on the tiny model, and its arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignloop.data.instructions import instruction_prompts
from alignloop.data.tokenize import Encoder
from alignloop.model.load import load_model
from alignloop.stages.common import inference_encoder
from bench import objectives
from bench.objective_report import curve, policy_row, reward_row, summary, table, write
from bench.objective_task import Sizes, gold_of, groups_per_step, judged, num_steps, training_groups
from bench.objectives import ENTRIES, START, Bench, run_all, run_one

SIZES = Sizes(prompts=6, samples=4, tokens=6, steps=2, eval_prompts=4, noise=0.0, ties="length")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Every objective for one seed."""
    made = Bench("tiny", tmp_path_factory.mktemp("bench"), SIZES)
    run_all(made, list(ENTRIES), [1], lambda name, seed: run_one(made, name, seed))
    return made


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return inference_encoder(load_model("tiny"))


def test_forms_rest_on_the_same_pairs(bench: Bench, encoder: Encoder) -> None:
    rows = bench.rows()
    pairs = judged("preference", rows, SIZES)
    labels = judged("label", rows, SIZES)
    assert [x.completion for x in labels if x.desirable] == [p.chosen for p in pairs]
    assert [x.completion for x in labels if not x.desirable] == [p.rejected for p in pairs]
    assert [x.completion for x in judged("demonstration", rows, SIZES)] == [p.chosen for p in pairs]
    assert {x.prompt for x in judged("ranking", rows, SIZES)} <= {p.prompt for p in pairs}
    kto = training_groups("label", rows, encoder, SIZES, 1)
    assert all(g.values["mismatched"].tolist() == [False, True] for g in kto)


def test_every_form_has_the_same_budget(bench: Bench) -> None:
    per_step = {k: groups_per_step(k, SIZES) for k in ("preference", "demonstration", "label", "ranking")}
    assert per_step == {"preference": 8, "demonstration": 8, "label": 16, "ranking": 4}
    rows = bench.rows()
    pairs = len(judged("preference", rows, SIZES))
    assert num_steps(rows, Sizes(**{**vars(SIZES), "steps": 0})) == -(-pairs // 8)


def test_gold_is_the_verifiers() -> None:
    (prompt,) = instruction_prompts("train", 1, 0, ["ends_with_question"])
    good = "One two three four five six, is that what you wanted?"
    assert gold_of([prompt], [[good, good[:-1] + "."]]) == [[1.0, 0.0]]


def test_every_objective_trains_and_is_evaluated(bench: Bench, tmp_path: Path) -> None:
    results = [bench.done(name, 1) for name in (START, *ENTRIES)]
    for result in results[1:]:
        assert len(result["history"]) == 2
        assert result["peak_memory_gb"] > 0
        if result["kind"] == "policy":
            assert len(result["gold"]) == len(result["kl"]) == 4
            assert any(abs(value) > 0 for row in result["kl"] for value in row)
        else:
            assert [len(row) for row in result["scores"]] == [2] * 4
    by_name = {r["name"]: r for r in results}
    assert by_name["dpo"]["history"][0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    write(results, {"cpu": "test"}, tmp_path)
    page = (tmp_path / "results/objectives.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in (START, *ENTRIES))
    assert json.loads((tmp_path / "results/objectives.json").read_text(encoding="utf-8"))["model"] == "tiny"
    assert sorted(p.stem for p in (tmp_path / "objectives/img").iterdir()) == sorted(ENTRIES)


def test_finished_ones_are_not_run_again(bench: Bench) -> None:
    ran: list[tuple[str, int]] = []
    run_all(bench, ["dpo", "kto"], [1, 2], lambda name, seed: ran.append((name, seed)))
    assert ran == [(START, 2), ("dpo", 2), ("kto", 2)]


def test_results_of_other_sizes_are_refused(bench: Bench) -> None:
    other = Bench("tiny", bench.work, Sizes())
    with pytest.raises(SystemExit, match="other sizes"):
        other.done("dpo", 1)


def test_policy_row_by_hand() -> None:
    """Two prompts, two answers: the start obeys 1 of 4, the policy 3 of 4; two wins, no loss, two ties."""
    start = {"name": START, "seed": 1, "kind": "policy", "gold": [[0, 1], [0, 0]], "tokens": [[4, 4], [4, 4]]}
    policy = start | {"name": "dpo", "gold": [[1, 1], [0, 1]], "tokens": [[2, 4], [6, 8]]}
    row = policy_row([policy | {"kl": [[1.0, 2.0], [3.0, 0.0]]}], {1: start})
    assert row["gold"]["value"] == 0.75
    assert row["win_rate"]["value"] == (1 + 0.5 + 0.5 + 1) / 4
    assert row["tokens"]["value"] == 5
    assert row["kl"]["value"] == 1.5
    assert policy_row([start], {1: start})["kl"] is None


def test_reward_row_by_hand() -> None:
    """Pairs of unequal gold: one of the first prompt's two is right, the second prompt's one is."""
    start = {"name": START, "seed": 1, "kind": "policy", "gold": [[1, 0, 0], [0, 1]]}
    model = {"name": "bradley_terry", "seed": 1, "kind": "reward", "scores": [[0.5, 0.9, 0.1], [0.0, 2.0]]}
    row = reward_row([model], {1: start})
    assert row["pairs"] == 3
    assert row["accuracy"]["value"] == pytest.approx(2 / 3)
    assert row["best"]["value"] == 0.5


def test_summary_takes_what_is_there() -> None:
    start = {"name": START, "seed": 1, "kind": "policy", "gold": [[0], [1]], "tokens": [[4], [4]]}
    rows = summary([start, {"name": "dpo", "seed": 2, "kind": "policy"}])
    assert [row["name"] for row in rows] == [START]
    assert "| start | 0.500" in table(rows)


def test_curve_is_the_mean_over_seeds() -> None:
    runs = [{"history": [{"loss": a}, {"loss": b}]} for a, b in ((1.0, 0.0), (3.0, 1.0))]
    drawn = curve(runs)
    assert 'data-name="loss"' in drawn
    low, high = map(float, drawn.split('data-range="')[1].split('"')[0].split()[2:])
    assert (low, high) == (pytest.approx(0.5 - 0.06 * 1.5), pytest.approx(2 + 0.06 * 1.5))


def test_command_line_has_every_size() -> None:
    options = objectives.parser_with_sizes().parse_args(["--eval-prompts", "7", "--noise", "0.1"])
    assert (options.eval_prompts, options.noise, options.prompts) == (7, 0.1, 160)
