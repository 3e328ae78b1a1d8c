"""Every command in a plain fence of docs/guide/ runs as it stands there, in the pages' order, on `tiny`."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.config import stage_names
from alignloop.config.schema import stage_schema
from alignloop.data.columns import write_records
from alignloop.data.instructions import documents, instruction_prompts
from alignloop.judges.edits import demonstrations
from alignloop.records import Preference
from tests import helpers_docs

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
SERVES = ("alignloop serve", "alignloop label serve", "alignloop loop")
"""What runs until it is stopped; tests/cli and tests/stages have it."""
SMALL: dict[str, Any] = {
    "model_name_or_path": "tiny",
    "max_steps": 2,
    "max_new_tokens": 12,
    "max_critique_tokens": 8,
    "max_prompts": 6,
    "num_prompts": 6,
    "benign_prompts": 4,
    "num_generations": 4,
    "rollout_prompts": 4,
    "per_device_train_batch_size": 4,
    "n": 4,
    "rounds": 1,
    "certify_pairs": 4,
    "max_fault_share": 1.0,
    "num_threads": 1,
}
"""Set where a stage has the key, in place of what the command says."""
ALL_MEASURES = "override=[kappa, swap_consistency, length_preference, null_win_rate]"


def pages() -> list[str]:
    """In the order of the table in README.md, then those that the site adds to it."""
    hooks = runpy.run_path(str(GUIDE.parents[1] / "scripts" / "docs_hooks.py"))
    table = hooks["with_further_pages"]((GUIDE / "README.md").read_text(encoding="utf-8"), GUIDE)
    return re.findall(r"\]\(([\w-]+\.md)\)", table)


def commands(page: str) -> Iterator[str]:
    return helpers_docs.commands((GUIDE / page).read_text(encoding="utf-8"))


def small(command: str) -> list[str]:
    """The command's words, made quick: `tiny` in SmolLM2's place, few steps and short answers."""
    words = shlex.split(command.replace("smollm2-135m-instruct", "tiny"), comments=True)[1:]
    stage = (words[1] if words[0] == "train" else words[0]).replace("-", "_")
    if stage not in stage_names() or not any("=" in word for word in words):
        return words
    known = stage_schema(stage)["properties"]
    named = "model_name_or_path=" in command
    words = [ALL_MEASURES if word.startswith("override=") else word for word in words]
    keys = (key for key in SMALL if key in known and not (named and key == "model_name_or_path"))
    return words + [f"{key}={SMALL[key]}" for key in keys]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands name."""
    root = tmp_path_factory.mktemp("guide")
    kinds = ("no_commas", "max_words", "lowercase", "uppercase")
    many = {name: list(instruction_prompts(name, 40, 0, kinds)) for name in ("train", "eval")}
    prompts = {name: rows[:8] for name, rows in many.items()}
    judged = {
        name: [Preference(prompt.prompt, f"yes {i}", f"No, {i}.") for i, prompt in enumerate(rows)]
        for name, rows in many.items()
    }
    files = {
        "texts": documents("train")[:8],
        "demos": demonstrations(8, 0),
        "prompts": prompts["train"],
        "held_out": prompts["eval"],
        "pairs": judged["train"],
        "held_out_pairs": judged["eval"],
    }
    for name, rows in files.items():
        write_records(root / f"{name}.jsonl", rows)
    return root


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(folder / "cache"))
    for command in commands(page):
        if command.startswith(SERVES):
            continue
        done = CliRunner().invoke(app, small(command), input="hello\n/good a\n")
        assert done.exit_code == 0, f"{command}\n{done.output}"


def test_every_page_is_in_the_table_and_says_what_to_look_at() -> None:
    assert {*pages(), "README.md"} == {path.name for path in GUIDE.iterdir()}
    for page in pages():
        text = (GUIDE / page).read_text(encoding="utf-8")
        assert list(commands(page)), page
        assert "Look at" in text or "What goes wrong" in text, page
