"""Which settings a run may go on with: declared at the keys, held for every stage that trains."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignloop.config import TrainConfig, make_plan, may_change, parse_recipe
from alignloop.config.registry import STAGES
from alignloop.errors import RunError
from alignloop.pipeline import run_plan
from alignloop.runs import Run
from alignloop.runs.continuation import changes, origin
from alignloop.runs.hashing import KEYS_WITHOUT_EFFECT, Input, Parent
from alignloop.stages import common
from alignloop.stages.common import train_step
from alignloop.stages.rows import read_rows

TRAINING = sorted(name for name, spec in STAGES.items() if issubclass(spec.config, TrainConfig))
DECIDES = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "seed", "shuffle", "max_length"),
    *("overlength", "dataset", "columns", "model_name_or_path", "chat_template", "learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "lora_r", "dtype"),
    "eval_fraction",
}
FREE = {
    *("output_dir", "report_to", "num_threads", "logging_steps", "save_steps", "save_total_limit"),
    *("eval_steps", "token_budget", "gradient_checkpointing", "torch_compile"),
}


def of(stage: str = "sft", inputs: dict[str, Input] | None = None, **keys: Any) -> dict[str, Any]:
    return origin(stage, keys, inputs or {}, [])


@pytest.mark.parametrize("stage", TRAINING)
def test_every_key_that_decides_what_is_learned_is_refused(stage: str) -> None:
    config = STAGES[stage].config
    rules = may_change(config)
    assert {key for key, rule in rules.items() if rule == "free"} >= FREE
    assert {key for key, rule in rules.items() if rule == "longer"} == {"max_steps", "num_train_epochs"}
    assert not DECIDES & config.model_fields.keys() & rules.keys()
    for key in config.model_fields:
        changed = changes(of(**{key: 1}), of(**{key: 2}), rules)
        assert changed == ([] if rules.get(key) == "free" else [f"{key}: 1 -> 2"])
        assert bool(changes(of(**{key: 1}), of(**{key: 2}), rules, ("free", "longer"))) == (key not in rules)


def test_keys_that_are_not_hashed_may_change_in_every_stage() -> None:
    assert all(may_change(s.config)[key] == "free" for s in STAGES.values() for key in KEYS_WITHOUT_EFFECT)


def test_content_counts_not_the_path() -> None:
    one, two = Input("a.jsonl", "1"), Input("b.jsonl", "2")
    moved = Input("b.jsonl", "1")
    there = of(inputs={"dataset": one}, dataset="a.jsonl")
    assert changes(there, of(inputs={"dataset": moved}, dataset="b.jsonl"), {}) == []
    assert changes(there, of(inputs={"dataset": two}, dataset="b.jsonl"), {}) == [
        "dataset: 'a.jsonl' -> 'b.jsonl'"
    ]
    other = of(inputs={"dataset": Input("a.jsonl", "2")}, dataset="a.jsonl")
    assert changes(there, other, {}) == ["dataset: the content of a.jsonl has changed"]
    here = of(inputs={"dataset": Input("./a.jsonl", "1")}, dataset="./a.jsonl")
    edited = of(inputs={"dataset": Input("a.jsonl", "2")}, dataset="./a.jsonl")
    assert changes(here, edited, {}) == ["dataset: the content of ./a.jsonl has changed"]
    made = [origin("sft", {"model": "m"}, {}, [Parent("m", "sft", print_)]) for print_ in "ab"]
    assert changes(*made, {}) == ["model: the content of m has changed"]
    assert changes(of("sft"), of("dpo"), {}) == ["stage: sft -> dpo"]


SFT = {
    "model_name_or_path": "tiny",
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "save_steps": 2,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "num_threads": 1,
}


def plan(folder: Path, name: str, **more: Any) -> Any:
    keys = {
        "stage": "sft",
        "output_dir": str(folder / name),
        "dataset": str(folder / "rows.jsonl"),
        **SFT,
        **more,
    }
    return make_plan(parse_recipe(json.dumps(keys), file="r.yaml"), {}, output_dir=str(folder / name))


def run(folder: Path, name: str = "run", *, resume: Any = "auto", **more: Any) -> Run:
    run_plan(plan(folder, name, **more), resume=resume, say=lambda text: None)
    return Run.open(folder / name)


def write_rows(folder: Path, number: int = 8) -> None:
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(number)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def told(run: Run) -> list[str]:
    """What a run warned of, but for its few steps."""
    return [text for text in run.record["warnings"] if not text.startswith("AL213")]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `run`, stopped after two of four steps, the second one saved."""
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path)

    def twice(trainer: Any, *args: Any, **keys: Any) -> Any:
        if trainer.step == 2:
            raise KeyboardInterrupt
        return train_step(trainer, *args, **keys)

    monkeypatch.setattr(common, "train_step", twice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(common, "train_step", train_step)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size: 2 -> 4"),
        ({"seed": 1}, "seed: 42 -> 1"),
        ({"shuffle": False}, "shuffle: True -> False"),
        ({"max_length": 64}, "max_length: 1024 -> 64"),
        ({"rows": 9}, r"dataset: the content of \S+rows\.jsonl has changed"),
    ],
)
def test_another_setting_is_refused_by_name(stopped: Path, changed: dict[str, Any], said: str) -> None:
    if "rows" in changed:
        write_rows(stopped, changed["rows"])
        changed = {}
    checkpoint = stopped / "run" / "checkpoints" / "step-00000002"
    with pytest.raises(RunError, match=f"belongs to another run .{said}.; put the old value back"):
        run(stopped, **changed)
    with pytest.raises(RunError, match=f"step-00000002 was trained with other settings .{said}."):
        run(stopped, "other", resume=checkpoint, **changed)
    assert not (stopped / "other" / "checkpoints").exists()
    assert checkpoint.is_dir()


def test_keys_without_an_effect_on_the_weights_may_change(stopped: Path) -> None:
    """In the same folder and in another one the weights are those of a run without an interruption."""
    whole = run(stopped, "whole")
    weights = (whole.model / "model.safetensors").read_bytes()
    free = {"save_steps": 3, "logging_steps": 2, "save_total_limit": 1}
    again = run(stopped, "other", resume=stopped / "run" / "checkpoints" / "step-00000002", **free)
    assert (again.model / "model.safetensors").read_bytes() == weights
    here = run(stopped, **free)
    assert (here.model / "model.safetensors").read_bytes() == weights
    assert told(here) == told(again) == []


def test_a_longer_run_goes_on_in_another_folder_and_says_so(stopped: Path) -> None:
    checkpoint = stopped / "run" / "checkpoints" / "step-00000002"
    with pytest.raises(RunError, match=r"belongs to another run .max_steps: 4 -> 6"):
        run(stopped, max_steps=6)
    with pytest.raises(RunError, match="has made 2 steps already and the recipe asks for 1"):
        run(stopped, "shorter", resume=checkpoint, max_steps=1)
    longer = run(stopped, "longer", resume=checkpoint, max_steps=6)
    (warning,) = told(longer)
    assert "the learning rate followed another length (max_steps: 4 -> 6)" in warning
    whole = run(stopped, "whole", max_steps=6)  # at a constant rate the length changes nothing
    same = [(r.model / "model.safetensors").read_bytes() for r in (whole, longer)]
    assert same[0] == same[1]
    assert longer.fingerprint != whole.fingerprint


def test_other_rows_are_refused_where_no_file_tells_of_them(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a data set of a hub, whose name stays while its rows change."""

    def fewer(*args: Any, **keys: Any) -> Any:
        found = read_rows(*args, **keys)
        found.data.records.pop()
        return found

    monkeypatch.setattr("alignloop.stages.sft.read_rows", fewer)
    with pytest.raises(RunError, match=r"other settings .tokenized rows: \w+ -> \w+, by their content"):
        run(stopped)


def test_a_checkpoint_that_does_not_tell_its_settings(stopped: Path) -> None:
    checkpoint = stopped / "run" / "checkpoints" / "step-00000002"
    manifest = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    del manifest["blake2b"], manifest["state"]["origin"]
    (checkpoint / "checkpoint.json").write_text(json.dumps({**manifest, "schema": 1}), encoding="utf-8")
    with pytest.raises(RunError, match="does not tell what it was trained with"):
        run(stopped, "other", resume=checkpoint)
    assert run(stopped).status == "finished"  # in its own folder it goes on
