"""The end of a run in words: figures with intervals, and commands that exist."""

import shlex
from pathlib import Path

import pytest
import typer.main

from alignloop.cli import app
from alignloop.config import STAGES
from alignloop.report import folder
from alignloop.report.figures import figures
from alignloop.report.folder import RunFolder
from alignloop.report.outcome import outcome, outcome_of, overall
from tests.report.fake_runs import make_run


def run(stage, results, metrics=(), recipe="model_name_or_path: tiny\n"):
    rows = tuple({"step": at, **row} for at, row in enumerate(metrics, 1))
    info = {"stage": stage, "results": results}
    return RunFolder(Path("runs/my run"), stage, "finished", info, recipe, rows, (), ())


def lines(*args, **kwargs):
    return outcome(run(*args, **kwargs)).lines


def test_held_out_accuracy_has_its_interval_and_what_it_says():
    # Wilson with n* = p(1 - p) / (s²/n) = 39: 0.5683 ± 0.1482, 0.8186 ± 0.1114, 0.1814 ± 0.1114
    for share, shown in (
        (0.575, "57.5 % [42.0, 71.6]: not told apart from chance"),
        (0.85, "85 % [70.7, 93.0]: better than chance"),
        (0.15, "15 % [7.0, 29.3]: worse than chance"),
    ):
        results = {"num_steps": 20, "eval_accuracy": share, "eval_rows": 40, "eval_margin": 0.25}
        assert lines("dpo", results)[0] == f"Held-out accuracy {shown}; margin 0.25."


def test_a_model_that_hardly_moved_is_told():
    still = [{"loss": 0.6931}, {"loss": 0.6912}]
    said = lines("dpo", {"num_steps": 8}, still)
    assert said[0] == "Training loss 0.6931 → 0.6912 in 8 steps."
    assert said[1].startswith("The model hardly moved")
    assert said[2].startswith("No rows were held out")
    moved = lines("dpo", {"num_steps": 8}, [{"loss": 0.6931}, {"loss": 0.65}])
    assert not any("hardly" in line for line in moved)


def test_first_and_last_tenth_of_the_steps_are_compared():
    metrics = [{"reward": float(at), "kl": 1.0} for at in range(20)]
    said = lines("grpo", {"num_steps": 20, "kl": 3.7, "ended_by": "kl_budget"}, metrics)
    assert said == (
        "Reward 0.5 → 18.5 (first and last tenth of 20 steps).",
        "KL from the start 3.7 nats per answer.",
        "It ended early: kl_budget.",
    )


def test_a_reward_model_at_chance_is_not_recommended():
    held = {"accuracy": 0.55, "accuracy_interval": [0.38, 0.71], "pairs": 40, "accuracy_if_longer_wins": 0.6}
    said = lines("reward", {"num_steps": 5, "held_out": held})
    assert said[0] == "Held-out accuracy 55 % [38.0, 71.0] on 40 pairs: not told apart from chance."
    assert said[1] == "Always preferring the longer answer would get 60.0 %."
    assert said[2].startswith("Do not judge or train with it yet")
    sure = {**held, "accuracy_interval": [0.52, 0.71]}
    assert len(lines("reward", {"num_steps": 5, "held_out": sure})) == 2


def test_an_evaluation_is_told_by_win_rates_and_changes():
    rate = {"value": 0.6, "interval": [0.55, 0.65], "n": 60, "level": 0.95}
    metrics = {
        "gold_pass_rate": {"before": 0.271, "after": 0.463, "unit": "share"},
        "kl": {"before": 0.0, "after": 4.6, "unit": "nats per answer"},
        "length": {"before": 9.0, "after": 8.0, "unit": "words", "change_interval": [-3.0, 1.0]},
    }
    low = {**rate, "value": 0.4, "interval": [0.3, 0.49]}
    none = {**rate, "interval": [0.49, 0.7]}
    results = {"metrics": metrics, "win_rate": rate, "win_rate_reward": low, "win_rate_j": none}
    said = lines("evaluate", results, recipe="before: runs/sft/model\nafter: 'runs/my dpo'\n")
    assert said == (
        "my dpo beats sft: it wins on 60 % [55.0, 65.0] of 60 prompts by gold.",
        "my dpo loses to sft: it wins on 40 % [30.0, 49.0] of 60 prompts by the reward model.",
        "Undecided: my dpo wins against sft on 60 % [49.0, 70.0] of 60 prompts by j.",
        "Changes: KL from the start 4.6 nats per answer; gold pass rate 27.1 → 46.3 %.",
    )


def test_a_comparison_is_told_by_its_best_model():
    def row(model, value, interval):
        told = {"set": "chat", "judge": "gold", "against": "sft", "num_prompts": 50}
        return {"model": model, "value": value, "interval": interval, **told}

    rows = [row("a", 0.52, [0.4, 0.6]), row("b", 0.7, [0.6, 0.8]), row("c", 0.2, [0.1, 0.3])]
    said = lines("compare", {"models": ["sft", "a", "b", "c"], "win_rates": rows})
    assert said == (
        "b beats sft: it wins on 70 % [60.0, 80.0] of 50 prompts by gold on chat.",
        "Undecided: a wins against sft on 52 % [40.0, 60.0] of 50 prompts by gold on chat.",
        "c loses to sft: it wins on 20 % [10.0, 30.0] of 50 prompts by gold on chat.",
    )


def test_means_of_enough_steps_have_an_interval():
    metrics = [{"reward": 1.0 + 0.1 * (at % 3)} for at in range(100)]
    # values 0, 0.1, 0.2, … ten of them: mean 1.09, s = 0.0876, t(9) · s/√10 = 0.063
    assert lines("ppo", {"num_steps": 100}, metrics)[0] == (
        "Reward 1.09 [1.027, 1.153] → 1.09 [1.027, 1.153] (first and last tenth of 100 steps)."
    )


def test_every_stage_says_something_of_its_own_results():
    told = {
        "best_of_n": {"best_of_n": [{"n": 1, "reward": 0.1}, {"n": 8, "reward": 0.9}]},
        "iterate": {"rounds": [{"reward": 0.1}, {"reward": 0.4}]},
        "reward_bench": {"metrics": {"accuracy": {"after": 0.7, "after_interval": [0.6, 0.8]}}},
        "constitution": {"num_demonstrations": 5, "num_prompts": 6},
        "average_rewards": {"held_out": {"accuracy": 0.7, "accuracy_interval": [0.6, 0.8], "pairs": 40}},
        "refusals": {"metrics": {"refusal_rate": {"before": 0.1, "after": 0.3, "unit": "share"}}},
    }
    said = {stage: lines(stage, results)[0] for stage, results in told.items()}
    assert said == {
        "best_of_n": "Reward of the best of 8 answers 0.9, of one 0.1.",
        "iterate": "Reward of fresh answers 0.1 → 0.4 in 2 rounds.",
        "reward_bench": "Accuracy 70 % [60.0, 80.0]: better than chance.",
        "constitution": "5 demonstrations from 6 prompts, revised by principles.",
        "average_rewards": "Held-out accuracy 70 % [60.0, 80.0] on 40 pairs: better than chance.",
        "refusals": "Changes: refusals 10.0 → 30.0 %.",
    }


def test_a_pipeline_is_judged_by_its_last_evaluation():
    held = {"accuracy": 0.7, "accuracy_interval": [0.6, 0.8], "pairs": 40}
    rate = {"value": 0.6, "interval": [0.55, 0.65], "n": 60}
    stages = [
        ("rm", outcome(run("reward", {"held_out": held}))),
        ("policy", outcome(run("dpo", {"num_steps": 3}))),
    ]
    assert overall(stages)[0].startswith("Verdict: none yet, because no stage compares policy with its start")
    judged = [*stages, ("judged", outcome(run("evaluate", {"win_rate": rate})))]
    assert overall(judged) == [
        "Verdict (judged): the model beats the start: it wins on 60 % [55.0, 65.0] of 60 prompts by gold."
    ]
    assert overall([("answers", outcome(run("sample", {"num_answers": 3})))]) == []


def test_only_the_files_that_are_needed_are_read(tmp_path, monkeypatch):
    opened = []
    original = folder._read_lines

    def counting(file, problems):
        opened.append(file.name)
        return original(file, problems)

    monkeypatch.setattr(folder, "_read_lines", counting)
    rows = [{"step": 1, "loss": 0.7, "completion": "x"}] * 2
    written = {"metrics": rows, "samples": rows, "fingerprint": "f", "work_sha256": "w"}
    outcome_of(make_run(tmp_path / "a", stage="sample", **written))
    assert opened == []
    outcome_of(make_run(tmp_path / "b", stage="dpo", **written))
    assert opened == ["metrics.jsonl"]


def test_figures_have_their_intervals_and_names():
    results = {
        "held_out_accuracy": 0.7,
        "held_out_accuracy_interval": [0.6, 0.8],
        "win_rate": {"value": 0.6, "interval": [0.5, 0.7], "n": 9},
        "metrics": {"length": {"before": 9, "after": 8, "after_interval": [7, 9], "unit": "words"}},
        "eval_loss": 0.5,
        "my_own": 2,
        "rows": [1, 2],
        "flag": True,
    }
    assert [(f.key, f.label, f.text) for f in figures(results)] == [
        ("held_out_accuracy", "held-out accuracy", "70 % [60.0, 80.0]"),
        ("win_rate", "win rate by gold", "60 % [50.0, 70.0]"),
        ("metrics.length.before", "length, before", "9 words"),
        ("metrics.length.after", "length, after", "8 [7, 9] words"),
        ("eval_loss", "held-out loss", "0.5"),
        ("my_own", "my own", "2"),
    ]


def test_a_stage_without_sentences_gives_its_first_numbers():
    assert lines("mix", {"num_rows": 60, "content": "x", "share": 0.25}) == ("rows 60, share 25 %",)
    assert lines("mix", {}) == ()


@pytest.mark.parametrize("stage", sorted({*STAGES, "dpo"}))
def test_next_commands_can_be_typed(stage):
    top = typer.main.get_command(app)
    found = outcome(run(stage, {})).commands
    assert found
    for command, purpose in found:
        program, *words = shlex.split(command)
        assert program == "alignloop"
        assert purpose
        assert "runs/my run" in " ".join(words)
        with top.make_context("alignloop", ["doctor"]) as context:
            name, group, words = top.resolve_command(context, words)
        while hasattr(group, "commands"):
            name, *words = words
            group = group.commands[name]
        group.make_context(name, list(words))  # raises where it cannot be called like that


def test_the_start_of_an_evaluation_is_that_of_the_recipe():
    told = outcome(run("dpo", {}, recipe='a: 1\nmodel_name_or_path: "runs/s f t/model"\n')).commands
    assert any("before='runs/s f t/model' after='runs/my run'" in command for command, _ in told)
