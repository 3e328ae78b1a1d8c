"""Every file that is read back, holding valid JSON of another shape: one sentence that names it, or no harm.

Each case writes a good file, then spoils it: other top-level values, a cut, each key gone, each value of
another type. The reader may refuse with an error of AlignLoop's, or do without the file; nothing else.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from alignloop.data.chat import load_saved, load_template
from alignloop.errors import AlignLoopError, UserError
from alignloop.judges.adviser import Account, Ask, Cached, Reply
from alignloop.judges.certify import Certificate, CertificateMeasure
from alignloop.model.adapter_load import base_name
from alignloop.model.generate import Unfinished
from alignloop.model.tiny import tiny_model
from alignloop.records import Message
from alignloop.report import render_run
from alignloop.report.folder import read_pipeline
from alignloop.runs import Run, find_inputs, lineage, tags
from alignloop.runs.record import needed
from alignloop.runs.results import Trained
from alignloop.runs.value_cache import ValueCache
from alignloop.stages.judging import read_certificates, write_certificate
from alignloop.stages.live_loop import one_round
from alignloop.stages.reward_model import REWARD_FILE, read_combination
from alignloop.stages.summaries import summary_of_steps
from alignloop.stages.unfinished import load_unfinished, save_unfinished
from alignloop.training.checkpoint import MANIFEST, load_checkpoint, save_checkpoint

OTHERS: tuple[Any, ...] = (None, True, 3, -1.5, "text", [], [1], [[1]], {}, {"a": 1}, [{"a": 1}])
INSIDE: tuple[Any, ...] = (None, -1.5, "text", [1], {"a": 1})


def spoilt(good: Any) -> Iterator[str]:
    """The file's content in every other shape."""
    text = json.dumps(good)
    yield from (json.dumps(other) for other in OTHERS)
    yield from ("", text[: len(text) // 2], text + "}", "NaN", "\ufffd", "[" * 5000)
    for place in places(good):
        for other in (_GONE, *INSIDE):
            yield json.dumps(changed(good, place, other))


_GONE = object()


def places(value: Any, depth: int = 2) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside, `depth` levels deep."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (key,)
        if depth > 1:
            yield from ((key, *rest) for rest in places(item, depth - 1))


def changed(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """A copy with one value replaced, or gone."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if other is _GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = other
    return copy


class Case(NamedTuple):
    """A file of state: `make` writes it in an empty folder and returns it, `read` is what reads it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def _run(folder: Path) -> Path:
    with Run.create(folder / "run", stage="sft", config={"a": 1, "seed": 2}, seed=2) as run:
        run.log(1, loss=0.5, eval_loss=1.0)
        run.sample(step=1, completion="x")
        run.finish({"round": {"loss": 0.5}, "reward_std": 1.0})
    return folder / "run" / "run.json"


def _read_run(file: Path) -> None:
    folder = file.parent
    for read in (
        lambda: Run.open(folder),
        lambda: find_inputs({"dataset": str(folder)}),
        lambda: lineage(folder),
        lambda: needed(Run.open(folder).results(Trained).round, "round", folder),
    ):
        with suppress(AlignLoopError):
            read()
    with Run.create(folder, stage="sft", config={"a": 2, "seed": 2}, seed=2) as again:
        again.finish()


def _unfinished_run(folder: Path) -> Path:
    with Run.create(folder / "run", stage="sft", config={"a": 1}, seed=2) as run:
        run.log(1, loss=0.5)
        run.interrupt()
    return folder / "run" / "run.json"


def _take_up(file: Path) -> None:
    with Run.create(file.parent, stage="sft", config={"a": 1}, seed=2) as run:
        run.finish()


def _checkpoint(folder: Path) -> Path:
    state = {"origin": {"stage": "sft", "keys": {}, "contents": {}, "parents": []}, "rows": "ab"}
    save_checkpoint(folder, step=1, modules={"model": nn.Linear(2, 2)}, optimizers={}, state=state)
    return folder / "step-00000001" / MANIFEST


def _read_checkpoint(file: Path) -> None:
    load_checkpoint(file.parent.parent, modules={"model": nn.Linear(2, 2)}, optimizers={})


def _sampling(folder: Path) -> Path:
    state = {"generation": {"format": 2, "groups": [], "pools": [], "running": []}, "done": []}
    save_unfinished(folder / "sampling", (), Unfinished(state, {"x": torch.zeros(1)}))
    return folder / "sampling" / "step-00000000" / MANIFEST


def _read_sampling(file: Path) -> None:
    run = Run.create(file.parents[2] / "run", stage="sample", config={}, seed=0)
    with run:
        load_unfinished(file.parents[1], (), run)
        run.finish()
    (run.path / "run.json").unlink()
    (run.path / "recipe.yaml").unlink()


def _write(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    return make


def _certificates(folder: Path) -> Path:
    write_certificate(
        [Certificate("j", "i", (CertificateMeasure("m", 0.5, None, 1.0, 3, 0.2, True),), ("m",))], folder
    )
    return folder / "certificate.json"


def _template(folder: Path) -> Path:
    load_template("tokenizer", tiny_model()[1]).save(folder)
    return next(p for p in folder.iterdir() if p.suffix == ".json")


def _memory(folder: Path) -> Path:
    ValueCache(folder / "memory.jsonl").put("key", {"text": "a", "ids": [1]})
    return folder / "memory.jsonl"


def _read_memory(file: Path) -> None:
    assert ValueCache(file).get("key") in (None, {"text": "a", "ids": [1]})


class _Nobody:
    name = identity = "nobody"
    account = Account()

    def ask(self, asks: Any, *, on_reply: Any = None) -> list[Reply]:
        replies = [Reply("yes", ()) for _ in asks]
        for number, reply in enumerate(replies):
            on_reply(number, reply)
        return replies


def _ask(folder: Path) -> list[Reply]:
    question = Ask((Message("user", "?"),), (), 3)
    return Cached(_Nobody(), folder).ask([question])  # pyright: ignore[reportArgumentType]


def _reply(folder: Path) -> Path:
    _ask(folder)
    return next(folder.glob("*.jsonl"))


def _ask_again(file: Path) -> None:
    assert _ask(file.parent)[0].text == "yes"


def _round(name: str) -> Callable[[Path], object]:
    def read(file: Path) -> object:
        if name == "judgements.json":
            (file.parent / "round.json").unlink(missing_ok=True)
        return one_round(None, None, [], file.parent, 1, "tiny")  # pyright: ignore[reportArgumentType]

    return read


_ROUND = {
    "round": 1,
    "until": 3,
    "num_records": 2,
    "judgements": [1, 3],
    "reward_model": "",
    "accuracy": None,
    "policy": "tiny",
    "queued": 0,
}
CASES = {
    "run.json": Case(_run, _read_run),
    "run.json taken up": Case(_unfinished_run, _take_up),
    "checkpoint.json": Case(_checkpoint, _read_checkpoint),
    "sampling": Case(_sampling, _read_sampling),
    "reward.json": Case(
        _write(REWARD_FILE, {"schema": 1, "members": 2, "combine": "min", "uwo_coefficient": 0.5}),
        lambda file: read_combination(file.parent),
    ),
    "adapter_config.json": Case(
        _write("adapter_config.json", {"base_model_name_or_path": "tiny"}),
        lambda file: base_name(file.parent),
    ),
    "certificate.json": Case(_certificates, read_certificates),
    "chat template": Case(_template, lambda file: load_saved(file.parent)),
    "memory": Case(_memory, _read_memory),
    "judge's reply": Case(_reply, _ask_again),
    "round.json": Case(_write("1/round.json", _ROUND), _round("round.json")),
    "tags.json": Case(_write("tags.json", ["a"]), lambda file: tags(file.parent)),
    "pipeline.json": Case(
        _write("pipeline.json", {"schema": 1, "recipe": "a: 1", "stages": [{"name": "a", "path": "a"}]}),
        lambda file: read_pipeline(file.parent),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_another_shape_is_named_or_done_without(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    file = case.make(tmp_path)
    good = file.read_text(encoding="utf-8")
    refusals: list[str] = []
    for content in dict.fromkeys(spoilt(json.loads(good.splitlines()[0] if name == "memory" else good))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        try:
            case.read(file)
        except UserError as error:
            refusals.append(str(error))
    odd = [said for said in refusals if "\n" in said or not {file.name, file.parent.name} & set(words(said))]
    assert not odd
    if name not in ("memory", "judge's reply", "sampling", "tags.json"):  # there another one is made
        assert len(refusals) > 10


def words(said: str) -> list[str]:
    """The parts of all paths in a sentence."""
    return re.split(r"[/\s:;'(),]+", said)


def test_reports_of_a_run_with_a_damaged_record(tmp_path: Path) -> None:
    file = _run(tmp_path)
    for content in ("[]", "{", '{"results": 3, "parents": [1], "inputs": {"a": 2}}', "null"):
        file.write_text(content, encoding="utf-8")
        assert "<html" in render_run(file.parent)


def test_a_recipe_of_another_shape_in_a_run_folder(tmp_path: Path) -> None:
    file = _run(tmp_path)
    for content in ("- 1", "3", "a: [", "", "\ufffd: [}"):
        (file.parent / "recipe.yaml").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"recipe\.yaml is damaged: .*; put it back from a copy"):
            Run.open(file.parent).config()
        with pytest.raises(UserError, match=r"its recipe\.yaml is missing or damaged"):
            Run.create(file.parent, stage="sft", config={"a": 2}, seed=2)
        render_run(file.parent)


def test_metrics_of_other_types_are_passed_over(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", stage="sft", config={}, seed=0) as run:
        run.log(1, loss=1.0)
        lines = [
            '{"step": "x", "time_s": "y", "loss": []}',
            '{"step": 2, "loss": null}',
            "[]",
            "3",
            "null",
            "{",
        ]
        with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        run.interrupt()
    with Run.create(tmp_path / "run", stage="sft", config={}, seed=0) as run:
        run.rewind(2)
        assert summary_of_steps(list(run.metrics()), 2)["num_steps"] == 2
        run.finish()
    render_run(tmp_path / "run")


def test_the_ways_to_spoil_a_file() -> None:
    assert len(list(spoilt({"a": {"b": [1]}}))) > 25
    assert changed({"a": [1, 2]}, ("a", 0), np.pi) == {"a": [np.pi, 2]}
