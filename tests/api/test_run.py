"""Stages and recipes from Python: rows, models and rewards from memory, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import alignloop
from alignloop.errors import ConfigError, DataError, EngineError, RunError
from alignloop.records import Message, Preference
from alignloop.runs import Run

PAIRS = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
SHORT: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 2, "model_name_or_path": "tiny"}
ONLINE: dict[str, Any] = {**SHORT, "rollout_prompts": 2, "max_new_tokens": 4, "num_generations": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def dpo(place: Path) -> alignloop.RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return alignloop.run(alignloop.DPOConfig(dataset=PAIRS, beta=0.5, **SHORT))


def test_rows_from_memory_are_kept_in_the_run_folder(dpo: alignloop.RunResult, here: Path) -> None:
    assert str(dpo.path) == "runs/dpo"
    (file,) = (here / "runs" / "dpo" / "given").iterdir()
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == PAIRS
    assert dpo.config["dataset"] == f"runs/dpo/given/{file.name}"
    assert dpo.config["beta"] == 0.5
    assert dpo.record["inputs"]["dataset"] | {"sha256": ""} == {
        "path": dpo.config["dataset"],
        "sha256": "",
        "rows": 4,
    }
    assert alignloop.lineage(dpo)["inputs"]["dataset"]["rows"] == 4


def test_the_same_rows_again_are_the_same_run(dpo: alignloop.RunResult) -> None:
    records = [Preference((Message("user", "q"),), "a", "b")]
    again = alignloop.run(alignloop.DPOConfig(dataset=iter(PAIRS), beta=0.5, **SHORT))
    assert again.record == dpo.record
    before = sorted(path.name for path in dpo.path.rglob("*"))
    with pytest.raises(RunError, match="dataset"):
        alignloop.run(alignloop.DPOConfig(dataset=records, beta=0.5, **SHORT))
    assert sorted(path.name for path in dpo.path.rglob("*")) == before


def test_the_recipe_that_was_written_runs_from_the_command_line(dpo: alignloop.RunResult) -> None:
    again = alignloop.run(dpo.path / "recipe.yaml", stage="dpo")
    assert isinstance(again, alignloop.RunResult)
    assert again.record["fingerprint"] == dpo.record["fingerprint"]


def test_rows_survive_a_run_anew(here: Path) -> None:
    config = alignloop.SFTConfig(dataset=[{"prompt": "q", "response": "a"}], **SHORT)
    first = alignloop.run(config)
    second = alignloop.run(config, resume="never")
    assert second.record["fingerprint"] == first.record["fingerprint"]
    assert (here / "runs" / "sft-old-1" / "given").is_dir()
    assert (here / second.config["dataset"]).is_file()


def test_a_result_shows_what_came_out(dpo: alignloop.RunResult, here: Path) -> None:
    frame = dpo.metrics
    assert list(frame["step"]) == [1]
    assert frame["loss"][0] == pytest.approx(0.6931, abs=1e-4)
    assert repr(dpo).startswith("dpo: finished in ")
    assert "accuracy" in repr(dpo)
    assert "<th>loss</th>" in dpo._repr_html_()
    assert "<title>" in dpo.report().read_text(encoding="utf-8")
    assert alignloop.open_run("runs/dpo").record == dpo.record
    with pytest.raises(RunError, match="no such folder"):
        alignloop.open_run("runs/dop")


def test_answers_of_a_runs_model(dpo: alignloop.RunResult) -> None:
    one = dpo.generate("hello", max_new_tokens=3, seed=1)
    assert isinstance(one, str)
    chat = [{"role": "user", "content": "hello"}]
    many = dpo.generate([chat, "other"], n=2, max_new_tokens=3, seed=1)
    assert [len(row) for row in many] == [2, 2]
    assert dpo.generate(chat, max_new_tokens=3, seed=1) == one
    with pytest.raises(DataError, match="expected a text"):
        dpo.generate(3)
    with pytest.raises(ConfigError, match="temperature"):
        dpo.generate("hello", temperature=-1)


def test_a_loaded_model_counts_by_what_it_is() -> None:
    model = alignloop.load("tiny", seed=3)
    assert alignloop.SFTConfig(dataset="x", model_name_or_path=model).model_name_or_path == "tiny:3"
    with torch.no_grad():
        next(model.model.parameters()).view(-1)[5] += 1
    keys = SHORT | {"model_name_or_path": model, "output_dir": "runs/changed"}
    run = alignloop.train("sft", dataset=[{"prompt": "q", "response": "a"}], eval_fraction=0, **keys)
    assert run.config["model_name_or_path"].startswith("runs/changed/given/model-")
    start = alignloop.load(run.config["model_name_or_path"])
    assert torch.equal(start.model.get_input_embeddings().weight, model.model.get_input_embeddings().weight)


def halves(samples):
    return [0.5 if sample.num_tokens % 2 else 1.0 for sample in samples]


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_online_stages_need_no_objective_and_take_a_function(name: str, here: Path) -> None:
    from alignloop.config import GRPOConfig, PPOConfig

    kind = PPOConfig if name == "ppo" else GRPOConfig
    prompts = [{"prompt": "a"}, {"prompt": "b"}]
    run = alignloop.run(kind(dataset=prompts, rewards=halves, **ONLINE))
    (reward,) = run.config["rewards"]
    assert reward["function"].startswith("given:halves_")
    source = here / run.path / "given" / f"{reward['function'].removeprefix('given:')}.py"
    assert source.read_text(encoding="utf-8").startswith("def halves(samples):")
    assert 0.5 <= run.metrics["reward"][0] == run.metrics["reward_halves"][0] <= 1.0
    assert len(run.samples) == 2


def test_a_reward_that_fails_names_its_line() -> None:
    def broken(samples):
        return [1 / 0 for _ in samples]

    config = alignloop.GRPOConfig(dataset=[{"prompt": "a"}], rewards=[broken], output_dir="runs/b", **ONLINE)
    with pytest.raises(EngineError, match=r"ZeroDivisionError: division by zero \(.*test_run.py:\d+ in"):
        alignloop.run(config)


def test_a_recipe_of_several_stages(here: Path) -> None:
    stages = [
        {"stage": "sft", "dataset": [{"prompt": "q", "response": "a"}]},
        {"stage": "dpo", "dataset": PAIRS, "model_name_or_path": "@sft"},
    ]
    done = alignloop.run(
        {"output_dir": "runs/both", "stages": stages, **SHORT},
        seed=7,
        dpo={"beta": 0.2, "learning_rate": 1e-4},
    )
    assert isinstance(done, alignloop.PipelineResult)
    assert list(done) == ["sft", "dpo"]
    assert done["dpo"].config["beta"] == 0.2
    assert done["sft"].config["seed"] == 7
    assert "finished" in repr(done)
    assert done.report().is_file()
    assert Run.open(here / "runs" / "both" / "dpo").status == "finished"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignloop.run("dpo", lerning_rate=1, dataset=PAIRS), "did you mean 'learning_rate'"),
        (lambda: alignloop.train("dop"), "did you mean 'dpo'"),
        (lambda: alignloop.run("quickstrat"), "did you mean 'quickstart"),
        (lambda: alignloop.SFTConfig(datset="x"), "unknown key 'datset'; did you mean 'dataset'"),
        (lambda: alignloop.DPOConfig(dataset="x", beta=-1), "beta: value -1 is not accepted"),
        (
            lambda: alignloop.run(alignloop.SFTConfig(dataset="x"), seed=1),
            "a configuration has its keys already",
        ),
        (lambda: alignloop.run(alignloop.PreferenceConfig(dataset="x")), "needs an objective"),
        (
            lambda: alignloop.run(alignloop.DPOConfig(dataset="x"), alignloop.DPO()),
            "has its objective's keys",
        ),
        (lambda: alignloop.SFTConfig(dataset={"train": object()}), "a mapping of splits .train."),
    ],
)
def test_what_is_wrong_is_one_sentence(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3], "dataset given in Python:1: value 3: expected a mapping"),
        ([{"a": 1}, {"a": float("nan")}], "dataset given in Python:2: JSON cannot hold this row"),
        ([], "no rows"),
    ],
)
def test_rows_that_are_none(rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        alignloop.SFTConfig(dataset=rows)


def test_notes_on_other_tools_names(capsys: pytest.CaptureFixture[str]) -> None:
    config = alignloop.SFTConfig(train_file=Path("x.jsonl"), lr=0.1)  # pyright: ignore[reportCallIssue]
    assert (config.dataset, config.learning_rate) == ("x.jsonl", 0.1)
    assert "note: 'lr' is read as 'learning_rate'" in capsys.readouterr().err


def test_what_a_killed_process_was_given_is_removed(tmp_path: Path) -> None:
    """Its lock is free; the folder of a living process, and one that is being made, stay."""
    import fcntl
    import os

    from alignloop.config.given import remove_abandoned

    folders = [tmp_path / f"alignloop-given-{name}" for name in ("killed", "living", "new")]
    for folder in folders:
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "model").mkdir()
    for folder in folders[:2]:
        os.utime(folder / ".lock", (0, 0))
    with (folders[1] / ".lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_abandoned(tmp_path)
    assert [folder.exists() for folder in folders] == [False, True, True]
