"""Rounds killed within their sampling or their training end with the weights of others, bit for bit."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alignloop.errors import RunError
from alignloop.model import resume
from alignloop.runs import Run
from alignloop.stages import best_of_n as best_of_n_stage
from alignloop.stages import iterate as iterate_stage
from alignloop.training import checkpoint
from tests.stages.task import recipe, run_stage
from tests.stages.test_online_resume import assert_same_runs, run_until_killed, weights

ROUNDS = {"rounds": 2, "num_generations": 8, "pairs_per_prompt": 4, "num_train_epochs": 4, "save_steps": 2}
ROUNDS |= {"learning_rate": 1e-5}
# completions of a flat distribution go on for long, so that a round's sampling has many steps
LONG = {"temperature": 4.0, "max_new_tokens": 20, "rollout_save_s": 0.02}


def lengths(samples):
    """A reward that long and unlike completions differ in."""
    return [float(s.num_tokens) + len(set(s.completion)) for s in samples]


def keys_of(tmp_path: Path, name: str, **more: object) -> dict[str, object]:
    keys = recipe(tmp_path, **ROUNDS, **LONG, output_dir=str(tmp_path / name), max_length=96)
    keys |= {"rewards": [{"function": "tests.stages.test_iterate_resume:lengths"}], **more}
    return {k: v for k, v in keys.items() if k not in ("rollout_prompts", "log_samples")}


def within_sampling(folder: Path) -> Callable[[int], bool]:
    """Whether a saved sampling has completions that have ended and others that have not."""

    def moment(_: int) -> bool:
        try:
            file = next(folder.glob("step-*/checkpoint.json"))
            unfinished = json.loads(file.read_text(encoding="utf-8"))["state"]["unfinished"]
        except (StopIteration, OSError, ValueError):
            return False
        return bool(unfinished["done"] and unfinished["generation"]["running"])

    return moment


def within_training(folder: Path) -> Callable[[int], bool]:
    """Whether a training has a checkpoint and has not ended."""
    return lambda _: any(folder.glob("checkpoints/step-*")) and Run.open(folder).status == "running"


def test_a_killed_sample_goes_on_with_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"dataset": keys_of(tmp_path, "-")["dataset"], "model_name_or_path": "tiny", "num_threads": 1}
    keys |= {"num_samples": 4, "temperature": 4.0, "max_new_tokens": 60, "seed": 3}
    whole = run_stage("sample", {**keys, "output_dir": str(tmp_path / "whole")})
    killed = {**keys, "output_dir": str(tmp_path / "killed"), "rollout_save_s": 0.02}
    assert not run_until_killed("sample", killed, within_sampling(tmp_path / "killed/sampling"))
    taken_up: list[object] = []
    plain = resume.load_state_dict
    monkeypatch.setattr(resume, "load_state_dict", lambda *saved: (taken_up.append(saved), plain(*saved)))
    found = run_stage("sample", killed)
    assert len(taken_up) == 1
    rows = [(run.path / "data/rows.jsonl").read_text(encoding="utf-8") for run in (whole, found)]
    assert rows[0] == rows[1]
    assert not (tmp_path / "killed/sampling").exists()


def test_rounds_killed_in_sampling_and_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("iterate", keys_of(tmp_path, "whole", rollout_save_s=0))
    killed, rounds = keys_of(tmp_path, "killed"), tmp_path / "killed/rounds"
    moments = [
        within_sampling(rounds / "1-sampling"),
        within_training(rounds / "1"),
        within_sampling(rounds / "2-sampling"),
    ]
    for moment in moments:
        assert not run_until_killed("iterate", killed, moment)
    taken_up: list[object] = []
    plain = resume.load_state_dict
    monkeypatch.setattr(resume, "load_state_dict", lambda *saved: (taken_up.append(saved), plain(*saved)))
    run_stage("iterate", killed)
    assert len(taken_up) == 1  # the second round's sampling goes on, the first round is not touched
    assert_same_runs(tmp_path)
    for number in (1, 2):
        rows = [(tmp_path / name / f"rounds/{number}-rows.jsonl").read_text() for name in ("whole", "killed")]
        assert rows[0].replace("/whole/", "/killed/") == rows[1]
        expected, found = (
            weights(tmp_path / name / f"rounds/{number}/model") for name in ("whole", "killed")
        )
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert not (rounds / f"{number}-sampling").exists()


def test_rows_of_a_round_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge may not say the same twice, so a round goes on with the rows it made."""
    keys = keys_of(tmp_path, "killed", rounds=1, save_steps=1)
    assert not run_until_killed("iterate", keys, within_training(tmp_path / "killed/rounds/1"))
    monkeypatch.setattr(iterate_stage, "build_reward", None)
    monkeypatch.setattr(iterate_stage, "answers_of", None)
    assert run_stage("iterate", keys).status == "finished"


def test_a_full_disk_within_a_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = keys_of(tmp_path, "killed", rounds=1, max_steps=1, rollout_save_s=0.001)
    plain, written = checkpoint.save_file, list[Path]()

    def full(tensors, file: Path) -> None:
        written.append(file)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(tensors, file)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        said = r"1-sampling could not be written: the disk is full; the last good one is step-"
        with pytest.raises(RunError, match=said):
            run_stage("iterate", keys)
    assert Run.open(tmp_path / "killed").status == "failed"
    run_stage("iterate", keys)
    run_stage("iterate", keys_of(tmp_path, "whole", rounds=1, max_steps=1, rollout_save_s=0))
    expected, found = (weights(tmp_path / name / "model") for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_ctrl_c_in_the_sampling_of_rejection_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(reward_model, prompts, answers):
        return [[float(len(set(text))) for text in texts] for texts in answers]

    monkeypatch.setattr(best_of_n_stage, "score", score)
    monkeypatch.setattr(best_of_n_stage, "check_prompts", lambda names, prompts: None)
    base = keys_of(tmp_path, "whole")
    keys = {name: base[name] for name in ("model_name_or_path", "dataset", "temperature", "max_new_tokens")}
    keys |= {"reward_model": "gold", "n": 8, "max_steps": 2, "num_threads": 1, "max_length": 96}
    run_stage("best_of_n", {**keys, "output_dir": str(tmp_path / "whole")})
    stopped = {**keys, "output_dir": str(tmp_path / "killed")}
    plain = best_of_n_stage.Kept.keep

    def keep(kept, describe):
        if len(describe().state["done"]) >= 3:
            kept.stop.set()
        plain(kept, describe)

    with monkeypatch.context() as patched:
        patched.setattr(best_of_n_stage.Kept, "keep", keep)
        with pytest.raises(KeyboardInterrupt):
            run_stage("best_of_n", stopped)
    assert Run.open(tmp_path / "killed").status == "interrupted"
    assert within_sampling(tmp_path / "killed/sampling")(0)
    run_stage("best_of_n", stopped)
    assert_same_runs(tmp_path)
    assert not (tmp_path / "killed/sampling").exists()
