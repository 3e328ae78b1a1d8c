"""A new stage is three files: those shown in docs/contributing.md, added to a copy, are a whole stage."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import helpers_docs

ROOT = Path(__file__).parents[1]
HOW_TO = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8").partition("\n## Add a stage\n")[2]
Call = Callable[..., str]


def block(language: str) -> str:
    return next(helpers_docs.blocks(HOW_TO.partition("\n## ")[0], language))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the stage's file, recipe and page."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("alignloop", "docs/guide", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "docs" / "files.md").touch()
    (root / "bench").mkdir()
    (root / "alignloop" / "stages" / "flip.py").write_text(block("python"), encoding="utf-8")
    (root / "alignloop" / "recipes" / "flip.yaml").write_text(block("yaml"), encoding="utf-8")
    (root / "docs" / "guide" / "flip.md").write_text(block("markdown"), encoding="utf-8")
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(10)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def call(copy: Path) -> Call:
    """A program of the copy, which has to succeed; what it printed."""

    def run(*words: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run([sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_its_keys_are_listed_and_a_recipe_is_written(call: Call, copy: Path) -> None:
    assert "share of the pairs that are turned round" in call("-m", "alignloop", "schema", "flip")
    assert re.search(r"^flip +Judged pairs of which", call("-m", "alignloop", "schema"), re.MULTILINE)
    call("-m", "alignloop", "init", "flip", "mine.yaml")
    written = (copy / "mine.yaml").read_text(encoding="utf-8")
    assert "stage: flip\n" in written
    assert "\n# share: 0.2\n" in written


def test_its_recipe_is_listed_with_its_group(call: Call) -> None:
    listed = call("-m", "alignloop", "recipes").split("Make and judge answers\n")[1].split("\n\n")[0]
    assert "flip                 Turn a fifth of the pairs round" in listed


def test_it_runs_and_its_report_is_written(call: Call, copy: Path) -> None:
    """Shown, run alone and in a pipeline; its sentences, its product and its metrics reach the report."""
    words = ("flip", "dataset=pairs.jsonl", "share=0.5", "output_dir=runs/flip")
    assert "share: 0.5" in call("-m", "alignloop", "run", *words, "--dry-run")
    assert not (copy / "runs").exists()
    said = call("-m", "alignloop", "run", *words)
    assert "5 of 10 pairs were turned round." in said
    assert "alignloop train dpo dataset=runs/flip" in said
    rows = (copy / "runs" / "flip" / "data" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(row)["chosen"].startswith("bad") for row in rows) == 5
    assert "5 of 10 pairs were turned round." in call(
        "-m", "alignloop", "report", "--format", "md", "runs/flip"
    )
    (copy / "both.yaml").write_text(
        "output_dir: runs/both\nstages:\n- {stage: flip, dataset: pairs.jsonl, share: 1}\n"
        '- {stage: flip, name: back, dataset: "@flip", share: 1}\n',
        encoding="utf-8",
    )
    assert "back" in call("-m", "alignloop", "run", "both.yaml")
    back = (copy / "runs" / "both" / "back" / "data" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(row)["chosen"].startswith("good") for row in back)


def test_its_page_is_in_the_site_and_its_file_in_the_list(call: Call, copy: Path) -> None:
    hooks = runpy.run_path(str(copy / "scripts" / "docs_hooks.py"))
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load("nav:" + text.partition("\nnav:")[2])["nav"]
    built = hooks["on_config"]({"nav": nav, "docs_dir": str(copy / "docs")})["nav"]
    assert "guide/flip.md" in json.dumps(built)
    guide = copy / "docs" / "guide"
    table = hooks["with_further_pages"]((guide / "README.md").read_text(encoding="utf-8"), guide)
    assert "- [Turn pairs round](flip.md)" in table
    (command,) = helpers_docs.commands((guide / "flip.md").read_text(encoding="utf-8"))
    call("-m", *command.split(), "output_dir=runs/as-the-page-says")
    call("scripts/files.py")
    assert "| flip.py | Judged pairs of which" in (copy / "docs" / "files.md").read_text(encoding="utf-8")


def test_a_name_that_two_stages_declare_is_refused() -> None:
    from alignloop.config import StageConfig, register_stage

    class Other(StageConfig):
        """Another stage."""

    with pytest.raises(TypeError, match="stage 'sft' is declared by SFTConfig and by Other"):
        register_stage("sft")(Other)
    with pytest.raises(TypeError, match="unexpected keyword"):
        register_stage("other", colour="red")(Other)
