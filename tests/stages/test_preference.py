"""Offline stages as a whole on tiny data: references, group-relative rankings, several attributes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from alignloop.data.tokenize import attributes_of, with_attributes
from alignloop.records import Message, Rating
from tests.stages.task import LETTERS, recipe, run_stage

KEYS = ("model_name_or_path", "output_dir", "per_device_train_batch_size", "max_length", "num_threads")


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Keys of an offline stage on the letter task, with a cache of its own."""
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    wanted = recipe(tmp_path, learning_rate=1e-3)
    return {name: wanted[name] for name in KEYS} | {"learning_rate": 1e-3}


def write(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"dataset": str(file)}


def pairs(tmp_path):
    return write(
        tmp_path, [{"prompt": a, "chosen": a, "rejected": b} for a in LETTERS for b in LETTERS if a != b]
    )


def rankings(tmp_path):
    rows = []
    for letter in LETTERS:
        others = [other for other in LETTERS if other != letter]
        rows.append({"prompt": letter, "responses": [others[0], letter, others[1]], "ranking": [2, 1, 2]})
    return write(tmp_path, rows * 2)


@pytest.mark.parametrize("lora_r", [0, 4])
def test_dpo_starts_at_log_two_against_its_own_reference(tmp_path, keys, lora_r):
    run = run_stage("dpo", {**keys, **pairs(tmp_path), "lora_r": lora_r, "max_steps": 6})
    losses = [row["loss"] for row in run.metrics()]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < losses[0]
    cached = list((tmp_path / "cache" / "reference").glob("*.safetensors"))
    assert len(cached) == (1 if lora_r == 0 else 0)  # adapters off needs no cache
    if not lora_r:
        again = run_stage(
            "dpo", {**keys, **pairs(tmp_path), "max_steps": 6, "output_dir": str(tmp_path / "b")}
        )
        assert again.record["environment"]["reference_logprobs"] == "from the cache"
        assert [row["loss"] for row in again.metrics()] == losses


def test_group_relative_compares_with_the_starting_policy(tmp_path, keys):
    more = {"method": "group_relative", "max_steps": 6}
    run = run_stage("listwise", {**keys, **rankings(tmp_path), **more})
    rows = list(run.metrics())
    assert rows[0]["clip_fraction"] == 0.0  # every ratio is 1
    assert rows[0]["loss"] == pytest.approx(0.0, abs=1e-6)  # advantages of a group sum to 0
    assert rows[-1]["margin"] > 0.01
    assert run.record["environment"]["old_logprobs"] == "of the starting policy, computed once"


def test_a_reward_head_has_an_output_for_each_attribute(tmp_path, keys):
    rows = [
        {"prompt": letter, "completion": said, "scores": {"right": 5.0 * (letter == said), "short": 5.0}}
        for letter in LETTERS
        for said in LETTERS
    ]
    rows[0]["scores"] = {"short": 5.0}
    more = {"objective": "regression", "normalize": False, "max_steps": 60, "learning_rate": 3e-3}
    run = run_stage("reward", {**keys, **write(tmp_path, rows), **more})
    assert run.record["results"]["attributes"] == ["short", "right"]
    head = load_file(run.path / "model" / "scalar_head.safetensors")
    assert head["weight"].shape[0] == 2
    assert next(iter(run.metrics()))["squared_error"] > list(run.metrics())[-1]["squared_error"]


def test_scores_keep_their_place_whatever_a_row_holds():
    prompt = (Message("user", "q"),)
    rows = [Rating(prompt, "a", {"x": 1.0}), Rating(prompt, "b", {"y": 2.0, "x": 3.0})]
    names = attributes_of(rows)
    assert names == ("x", "y")
    first, second = with_attributes(rows, names)
    assert isinstance(first, Rating)
    assert isinstance(second, Rating)
    assert list(second.scores.values()) == [3.0, 2.0]
    assert first.scores["x"] == 1.0
    assert np.isnan(first.scores["y"])
    (other,) = with_attributes([Rating(prompt, "c", {"z": 5.0})], names)
    assert isinstance(other, Rating)
    assert np.isnan(list(other.scores.values())).all()
