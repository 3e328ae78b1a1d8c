"""The end of a run in words: figures with intervals, and commands that exist."""

import shlex
from pathlib import Path

import pytest
import typer.main

from alignloop.cli import app
from alignloop.config import STAGES
from alignloop.report.folder import RunFolder
from alignloop.report.outcome import outcome


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
        "odd": {"before": 0.0, "after": 4.6, "unit": "x"},
    }
    low = {**rate, "value": 0.4, "interval": [0.3, 0.49]}
    none = {**rate, "interval": [0.49, 0.7]}
    said = lines(
        "evaluate", {"metrics": metrics, "win_rate": rate, "win_rate_reward": low, "win_rate_j": none}
    )
    assert said == (
        "Win rate against the start by gold: 60 % [55.0, 65.0] on 60 prompts: better.",
        "Win rate against the start by the reward model: 40 % [30.0, 49.0] on 60 prompts: worse.",
        "Win rate against the start by j: 60 % [49.0, 70.0] on 60 prompts: undecided.",
        "Changes: gold pass rate 27.1 → 46.3 %; KL 0 → 4.6 nats per answer.",
    )


def test_a_stage_without_sentences_gives_its_first_numbers():
    assert lines("mix", {"num_rows": 60, "content": "x", "share": 0.25}) == ("num_rows 60, share 0.25",)
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
