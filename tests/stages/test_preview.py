"""A dry run: what it counts is exact, what it estimates is near what a run then takes."""

import json
import os
import resource

import pytest
import torch

from alignloop.config import find_stage, resolve
from alignloop.config.stages import TrainConfig
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.load import load_model
from alignloop.model.packed import ScalarHead
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.pipeline import load_function
from alignloop.stages.preview import make_preview, preview
from alignloop.stages.probe import kept_for_backward
from tests.stages.task import run_stage

WORDS = ("river", "stone", "light", "water", "green", "field", "paper", "round")


def text(number, length):
    return " ".join(WORDS[(number * 3 + k * k) % len(WORDS)] for k in range(length))


def write_rows(path, stage, count, length=30):
    rows = []
    for number in range(count):
        row = {"prompt": text(number, length)}
        if stage == "sft":
            row["completion"] = text(number + 1, 2 * length)
        else:
            row |= {"chosen": text(number + 1, length), "rejected": text(number + 2, length)}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def made(tmp_path, stage, *, count=8, **keys):
    data = write_rows(tmp_path / "rows.jsonl", stage, count)
    model = keys.pop("model_name_or_path", "tiny")
    keys = {"dataset": data, "model_name_or_path": model, "output_dir": str(tmp_path / "run"), **keys}
    resolved = resolve(stage, {**keys, "num_threads": 1})
    assert isinstance(resolved.config, TrainConfig)
    return make_preview(resolved.config, resolved.objective)


def test_parameters_are_those_of_the_model(tmp_path):
    model = load_model("tiny", device="cpu").model
    size = sum(p.numel() for p in model.parameters())
    whole = made(tmp_path, "dpo").parameters
    assert (whole.total, whole.trained, whole.bytes) == (size, size, 4 * size)
    peft = add_adapter(model, LoraSettings(r=4))
    adapters = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    lora = made(tmp_path, "dpo", lora_r=4).parameters
    assert (lora.total, lora.trained) == (size + adapters, adapters)
    head = sum(p.numel() for p in ScalarHead(64).parameters())
    assert made(tmp_path, "reward").parameters.trained == size + head
    assert made(tmp_path, "reward", freeze_base=True).parameters.trained == head


def test_steps_and_tokens_are_those_of_the_run(tmp_path):
    budget = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "token_budget": 2048}
    seen = made(tmp_path, "sft", count=10, **budget)
    tokens = sum(group.num_tokens for group in seen.rows.groups)
    assert seen.work.num_steps == 6
    assert seen.work.tokens == 2 * tokens
    assert seen.work.counted == 2 * sum(len(g.completions[0].ids) for g in seen.rows.groups)
    assert seen.work.passes == 1
    run = run_stage(
        "sft",
        {
            "dataset": str(tmp_path / "rows.jsonl"),
            "model_name_or_path": "tiny",
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "num_threads": 1,
        },
    )
    done = [row["tokens_per_s"] * row["step_s"] for row in run.metrics()]
    assert len(done) == seen.work.num_steps
    assert sum(done) == pytest.approx(seen.work.tokens, rel=1e-6)


def test_time_grows_with_the_work(tmp_path):
    one, four = (made(tmp_path, "dpo", num_train_epochs=n, max_steps=-1) for n in (10, 40))
    assert 0 < one.seconds < four.seconds
    assert four.work.tokens == 4 * one.work.tokens


def test_kto_runs_mismatched_completions_in_a_pass_without_gradient(tmp_path):
    file = tmp_path / "labels.jsonl"
    rows = [{"prompt": text(n, 9), "completion": text(n + 1, 5), "label": n % 2 == 0} for n in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = {"dataset": str(file), "model_name_or_path": "tiny", "output_dir": str(tmp_path / "run")}
    resolved = resolve("kto", {**keys, "lora_r": 2, "num_threads": 1})
    assert isinstance(resolved.config, TrainConfig)
    seen = make_preview(resolved.config, resolved.objective)
    completions = sum(len(g.completions[0].ids) for g in seen.rows.groups)
    everything = sum(len(g.prompt_ids) for g in seen.rows.groups) + completions
    assert seen.work.tokens == everything
    assert seen.work.informing == (everything, completions)  # each completion is some other row's, too
    assert [trap for trap in seen.traps if "AL213" not in trap] == []  # 6 rows are few


def test_bytes_kept_for_backward_by_hand():
    layer = torch.nn.Linear(8, 16)
    x = torch.ones(5, 8, requires_grad=True)
    with kept_for_backward(layer) as total:
        y = layer(x)  # keeps x; the weight is the model's own
        z = y.sigmoid()  # keeps its result
        (z * z).sum()  # keeps z, which is the same storage
    assert total == [4 * (5 * 8 + 5 * 16)]


def test_what_a_dry_run_prints(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", "dpo", 8)
    resolved = resolve("dpo", {"dataset": data, "model_name_or_path": "tiny", "output_dir": "r", "beta": 5.0})
    assert isinstance(resolved.config, TrainConfig)
    told = preview(resolved.config, resolved.objective)
    assert told["data"] == "8 preference rows, 8 to train on"
    assert told["steps"].startswith("2 of 4 rows, each in ")
    assert told["parameters"] == "129.7 k in all, 129.7 k trained (100.00%)"
    assert told["memory"].startswith("about ")
    assert "estimated" in told["time"]
    assert told["trap 1"].startswith("AL202 warning: beta: 5 is outside")
    assert load_function(find_stage("dpo").preview) is preview


def test_members_of_an_ensemble_take_their_time_one_after_the_other(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", "reward", 8)
    keys = {"dataset": data, "model_name_or_path": "tiny", "output_dir": "r", "lora_r": 2, "num_members": 3}
    resolved = resolve("reward", keys)
    assert isinstance(resolved.config, TrainConfig)
    told = preview(resolved.config, resolved.objective)
    assert told["parameters"].endswith("; 3 such members, trained one after the other")
    assert told["memory"].startswith("about ")


def in_a_child(function):
    """What the function returns and the child's peak resident memory, in bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result = function()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(writer, json.dumps([result, peak]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(told)


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_memory_is_estimated_within_a_quarter_of_the_peak(tmp_path, stage):
    """In a process of its own: the peak of a run against what the dry run said just before it."""
    save_model(*tiny_model(hidden_size=256, num_layers=4), tmp_path / "model")
    data = write_rows(tmp_path / "rows.jsonl", stage, 16, length=30)
    keys = {
        "dataset": data,
        "model_name_or_path": str(tmp_path / "model"),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "num_threads": 1,
        "token_budget": 4096,  # small passes of a small model drown in what the heap keeps
    }

    def run():
        resolved = resolve(stage, keys)
        assert isinstance(resolved.config, TrainConfig)
        memory = make_preview(resolved.config, resolved.objective).memory
        run_stage(stage, keys)
        return [memory.total, memory.process]

    (estimated, process), peak = in_a_child(run)
    print(stage, estimated, process, peak)
    assert estimated == pytest.approx(peak, rel=0.25)
    assert estimated - process == pytest.approx(peak - process, rel=0.35)
