"""From judged pairs to a verdict, on the tiny model: divided by prompt, trained, measured, said, laid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import alignloop
from alignloop.config.compare import SplitConfig
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.labels.label_folder import opened
from alignloop.model.save import fingerprint
from alignloop.records import Message, Preference
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages import verdict as verdict_module
from alignloop.stages.split import chosen_longer, held_out_questions, question
from tests.helpers_config import plan_of


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(count: int) -> list[dict[str, Any]]:
    """Short answers are better; every third one is long."""
    return [
        {
            "prompt": f"What is {i} plus 2?",
            "chosen": f"It is {i + 2}." + " Yes!" * (i % 3 == 0),
            "rejected": f"Not {i}, no.",
        }
        for i in range(count)
    ]


def split_config(**keys: Any) -> SplitConfig:
    return SplitConfig(dataset="x.jsonl", **keys)


def test_held_out_questions_are_a_share_that_depends_on_the_text() -> None:
    questions = [f"q{i}" for i in range(10) for _ in range(2)]
    held = held_out_questions(questions, split_config())
    assert len(held) == 2  # 0.2 of 10
    assert held == held_out_questions(questions[::-1], split_config())
    more = held_out_questions([*questions, "another"], split_config())
    assert len(held & more) >= 1  # one row more moves at most one question
    assert len(held_out_questions(questions, split_config(held_out_fraction=0.5, max_held_out=3))) == 3
    assert len(held_out_questions(["a", "b"], split_config(held_out_fraction=0.01))) == 1
    with pytest.raises(DataError, match="the 3 pairs have one prompt"):
        held_out_questions(["a"] * 3, split_config())


def test_dialogues_that_begin_alike_are_one_question() -> None:
    system, first = Message("system", "be kind"), Message("user", "  Hello ")
    short = Preference((first,), "a", "bb")
    longer = Preference(
        (system, Message("user", "hello"), Message("assistant", "x"), Message("user", "y")), "aa", "b"
    )
    assert question(short) == question(longer)
    assert chosen_longer([short, longer, Preference((first,), "a", "b")]) == (0 + 1 + 0.5) / 3


RECIPE = """
output_dir: runs/x
model_name_or_path: first
stages:
  - stage: split
  - stage: dpo
    dataset: "@split"
    reference: "@model_name_or_path"
"""


def test_a_plain_key_leaves_links_between_stages_alone() -> None:
    """`dataset=` goes to the stage that names no earlier one; `@model_name_or_path` is the recipe's model."""
    plan = plan_of(RECIPE, "dataset=mine.jsonl", "model_name_or_path=second")
    split, dpo = (stage.config for stage in plan.stages)
    assert (split.dataset, dpo.dataset) == ("mine.jsonl", "runs/x/split")  # pyright: ignore
    assert (dpo.model_name_or_path, dpo.reference) == ("second", "second")  # pyright: ignore
    own = plan_of(RECIPE, "split.dataset=mine.jsonl", "dpo.dataset=other.jsonl")
    assert own.stages[1].config.dataset == "other.jsonl"  # pyright: ignore


KEYS: dict[str, Any] = {
    "model_name_or_path": "tiny",
    "max_new_tokens": 6,
    "num_threads": 1,
    "max_length": 128,
    "temperature": 1.0,  # greedily it says nothing
}


def test_pairs_become_a_verdict_and_a_killed_run_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "pairs.jsonl", rows(30))
    alignloop.run("my-pairs", dataset=data, output_dir=str(tmp_path / "whole"), **KEYS)
    whole = Run.open(tmp_path / "whole" / "verdict").record["results"]
    assert whole["text"].startswith("Verdict: ")
    assert whole["policy"]["pairs"] == whole["reward"]["pairs"] == 6  # 0.2 of 30
    held = read_records(str(tmp_path / "whole" / "split" / "held_out" / "rows.jsonl"), "preference").records
    trained = read_records(str(tmp_path / "whole" / "split"), "preference").records
    assert (len(trained), len(held)) == (24, 6)
    assert not {r.prompt for r in trained} & {r.prompt for r in held}  # pyright: ignore
    assert whole["answers"]["num_prompts"] == 6
    with opened(tmp_path / "whole" / "verdict" / "label") as store:
        project = store.project()
        assert (project.name, project.task) == ("answers", "pair")
        assert len(list(store.unjudged_items(project))) == whole["num_to_judge"] > 0

    real, calls = common.train_step, []

    def killed(*args: Any, **keys: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **keys)

    monkeypatch.setattr(common, "train_step", killed)
    again: dict[str, Any] = {"dataset": data, "output_dir": str(tmp_path / "killed"), **KEYS, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        alignloop.run("my-pairs", **again)
    monkeypatch.setattr(common, "train_step", real)
    lay_out = verdict_module.lay_out

    def cut_short(*args: Any) -> int:
        lay_out(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(verdict_module, "lay_out", cut_short)
    with pytest.raises(KeyboardInterrupt):
        alignloop.run("my-pairs", **again)
    monkeypatch.setattr(verdict_module, "lay_out", lay_out)
    alignloop.run("my-pairs", **again)
    for name in ("dpo", "reward"):
        one, other = (tmp_path / folder / name for folder in ("whole", "killed"))
        assert fingerprint(one / "model") == fingerprint(other / "model")
        decided = [Run.open(path).record["decided"] for path in (one, other)]
        assert decided[0] == decided[1]
    assert Run.open(tmp_path / "killed" / "verdict").record["results"] == whole


def test_columns_that_nobody_read_are_named_first(tmp_path: Path) -> None:
    """By name, and with the key that reads them where a record comes out of it."""
    made = [{**row, "annotator": "x", "margin_score": 2.0} for row in rows(4)]
    data = write(tmp_path / "pairs.jsonl", made)
    alignloop.run({"stage": "split", "output_dir": str(tmp_path / "out"), "dataset": data})
    (told,) = Run.open(tmp_path / "out").record["warnings"]
    assert told == "dataset: columns that were not read: margin_score (columns={margin: margin_score})"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3, "have one prompt"),
        ([{"question": "a", "answer": "b"}] * 3, "no usable row of 3"),
    ],
)
def test_what_is_no_set_of_pairs_is_refused(tmp_path: Path, made: list[dict[str, Any]], message: str) -> None:
    data = write(tmp_path / "rows.jsonl", made)
    with pytest.raises(DataError, match=message):
        alignloop.run("my-pairs", dataset=data, output_dir=str(tmp_path / "out"), **KEYS)


def test_a_model_on_pairs_in_a_comparison(tmp_path: Path) -> None:
    """A model against itself raised neither answer: ½; likelier is the same for both."""
    data = write(tmp_path / "pairs.jsonl", [*rows(4), {**rows(1)[0], "chosen": "ok"}])
    keys: dict[str, Any] = {
        "models": [{"model": "tiny", "name": "one"}, {"model": "tiny", "name": "two"}],
        "sets": [{"kind": "preferences", "path": data}],
    }
    run = alignloop.run(alignloop.CompareConfig(num_threads=1, output_dir=str(tmp_path / "run"), **keys))
    likelier, raised = run.results["comparison"]
    assert (likelier["name"], raised["name"]) == ("preferences.likelier", "preferences.raised")
    assert likelier["num_prompts"] == 4  # five pairs, two of one prompt
    assert likelier["models"]["one"]["value"] == likelier["models"]["two"]["value"]
    assert raised["models"]["two"]["value"] == 0.5
    assert raised["models"]["one"] == {"missing": "the others are measured against it"}
