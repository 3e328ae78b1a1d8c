"""What counts as a stage's code: edits that must train again, and edits that must not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from alignloop.config import find_stage, resolve
from alignloop.pipeline import run_plan
from alignloop.runs import Run, code_of
from alignloop.runs.code import ROOT, code_sha256, meaning_of
from tests.test_pipeline import make, rows  # noqa: F401 - a fixture

STAGE = '''"""A stage."""

from typing import TYPE_CHECKING

from pack.tools import Tool

if TYPE_CHECKING:
    from pack.only_typed import Kind

RATE = 0.1
"""Why a tenth."""


def run(config: "Kind") -> float:
    """Work."""
    from pack.late import extra  # late

    return Tool().turn(RATE) + extra
'''
FILES = {
    "__init__.py": "",
    "stage.py": STAGE,
    "other_stage.py": "from pack.tools import Tool\n\nRATE = 0.2\n",
    "only_typed.py": "Kind = int\n",
    "late.py": "from . import deep\n\nextra = deep.extra\n",
    "deep.py": "extra = 1\n",
    "tools/__init__.py": '"""Tools."""\n\nfrom pack.tools.saw import Saw\nfrom pack.tools.tool import Tool\n',
    "tools/tool.py": "import json\n\n\nclass Tool:\n    def turn(self, x):\n        return x * 2\n",
    "tools/saw.py": "class Saw:\n    teeth = 20\n",
    "tools/notes.yaml": "a: 1\n",
}


def pack(folder: Path, **edits: str) -> str:
    """Hash of `pack.stage` in a package of FILES with some of them in another wording."""
    root = folder / f"{len(list(folder.iterdir()))}" / "pack"
    for name, text in {**FILES, **edits}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return code_sha256("pack.stage", root=root)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage.py", '"""A stage."""', '"""A stage that\n\nis told of otherwise."""'),
        ("stage.py", '"""Why a tenth."""', '"""Why not."""'),
        ("stage.py", "  # late", ""),
        ("stage.py", '    """Work."""\n', ""),
        ("stage.py", "    return Tool", "\n\n    # moved down\n    return Tool"),
        ("stage.py", "Tool().turn(RATE) + extra", "(\n        Tool().turn(RATE,)\n        + extra\n    )"),
        ("stage.py", "0.1\n", "1e-1\n"),
        ("stage.py", "    from pack.only_typed import Kind", "    from pack.only_typed import Kind, Other"),
        ("only_typed.py", "int", "float"),
        ("other_stage.py", "0.2", "0.3"),
        ("tools/saw.py", "20", "21"),
        ("tools/__init__.py", "from pack.tools.saw import Saw\n", ""),
        ("tools/notes.yaml", "1", "2"),
    ],
)  # fmt: skip
def test_what_does_not_count(tmp_path: Path, file: str, old: str, new: str) -> None:
    assert old in FILES[file]
    assert pack(tmp_path, **{file: FILES[file].replace(old, new)}) == pack(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage.py", "0.1\n", "0.2\n"),
        ("stage.py", "+ extra", "- extra"),
        ("stage.py", "from pack.tools import Tool", "from pack.tools import Saw as Tool"),
        ("late.py", "deep.extra", "deep.extra + 1"),
        ("deep.py", "1", "2"),
        ("tools/tool.py", "x * 2", "x * 3"),
        ("tools/tool.py", "x * 2", "2 * x"),
        ("tools/__init__.py", '"""Tools."""', "SHARP = True"),
    ],
)
def test_what_counts(tmp_path: Path, file: str, old: str, new: str) -> None:
    assert old in FILES[file]
    assert pack(tmp_path, **{file: FILES[file].replace(old, new, 1)}) != pack(tmp_path)


def test_an_init_that_does_something_counts_whole(tmp_path: Path) -> None:
    edits = {"tools/__init__.py": FILES["tools/__init__.py"] + "READY = True\n"}
    first = pack(tmp_path, **edits)
    assert pack(tmp_path, **edits, **{"tools/saw.py": "class Saw:\n    teeth = 21\n"}) != first


def test_data_beside_a_module_that_looks_beside_itself(tmp_path: Path) -> None:
    looks = {"tools/tool.py": FILES["tools/tool.py"] + "\n\nHERE = __file__\n"}
    first = pack(tmp_path, **looks)
    assert pack(tmp_path, **looks, **{"tools/notes.yaml": "a: 2\n"}) != first
    assert pack(tmp_path, **looks, **{"tools/.notes": "hidden"}) == first
    assert (
        pack(tmp_path, **looks, **{"tools/inner/__init__.py": "", "tools/inner/a.txt": "another package"})
        == first
    )
    assert pack(tmp_path, **looks, **{"tools/texts/a.txt": "a folder of data"}) != first


def edited(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the package in which one file says `new` for `old`, or at its end where `old` is empty."""
    shutil.copytree(ROOT, folder / ROOT.name, ignore=shutil.ignore_patterns("__pycache__", "static"))
    path = folder / ROOT.name / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} has no '{old}'"
    path.write_text(text.replace(old, new, 1) if old else text + new, encoding="utf-8")
    return folder / ROOT.name


MODULES = ("alignloop.stages.sft", "alignloop.config.stages")
CODE = "\n\nOTHER = 3\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("stages/reward.py", "", CODE, False),  # another stage
        ("objectives/dpo.py", "", CODE, False),  # another stage's loss
        ("config/registry.py", "", CODE, False),  # where a new stage is entered
        ("evaluation/sets.py", "", CODE, False),
        ("training/loop.py", '"""', '"""Told otherwise. ', False),
        ("stages/sft.py", "", "\n# a note\n", False),
        ("stages/sft.py", "", CODE, True),
        ("training/loop.py", "", CODE, True),
        ("data/tokenize.py", "max_length: int = 1024", "max_length: int = 1025", True),
        ("objectives/sft.py", "", CODE, True),
        ("data/instructions.yaml", "", "\n# a note\n", True),
    ],
)
def test_supervised_training_depends_on(tmp_path: Path, file: str, old: str, new: str, again: bool) -> None:
    root = edited(tmp_path, file, old, new)
    assert (code_sha256(*MODULES, root=root) != code_sha256(*MODULES)) == again


def test_the_objective_that_a_key_names_counts() -> None:
    found = resolve("dpo", {"dataset": "rows.jsonl", "model_name_or_path": "m", "output_dir": "out"})
    runner = find_stage("dpo").runner
    plain = code_of(runner, {}, found.config)
    assert code_of(runner, {}, found.config, found.objective) != plain
    assert code_of(runner, {"objective": "dpo"}, found.config) == code_of(
        runner, {}, found.config, found.objective
    )
    assert code_of(runner, {"objective": "ipo"}, found.config) != plain
    assert code_of(runner, {"objective": "no such"}, found.config) == plain


def test_versions_of_python_agree() -> None:
    """Python 3.12 added fields and changed how f-strings are parsed; this number is that of 3.11 to 3.13."""
    source = """
class A(B, metaclass=C):
    x: int = 0x10
    def f(self, a, /, *b, c=None, **d) -> str:
        u'text' if a else b'bytes'
        return f"{a!r:>{self.x}} {b}" f"{c:{d}}" "한국어 \\N{BULLET}" + r'\\d'
type_ = [*range(3), {**{}}, 1_000, 1e400, 2j, ..., True, None]
match type_:
    case {"a": [1, *_], **rest} if rest:
        pass
try:
    with open(x) as f, g: del f
except* ValueError as e:
    raise X from e
"""
    text = meaning_of(source).text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "35680a5bb85a9b1a"


def test_a_part_has_the_code_of_its_run(tmp_path: Path) -> None:
    common = {"stage": "sft", "config": {}, "seed": 0}
    with Run.create(tmp_path / "run", **common, code="abc") as run:  # pyright: ignore[reportArgumentType]
        with Run.create(tmp_path / "run" / "rounds" / "1", **common) as part:  # pyright: ignore[reportArgumentType]
            part.finish()
        run.finish()
    record = json.loads((tmp_path / "run" / "rounds" / "1" / "run.json").read_text(encoding="utf-8"))
    assert record["code"]["sha256"] == "abc"
    with Run.create(tmp_path / "alone", **common) as alone:  # pyright: ignore[reportArgumentType]
        alone.finish()
    assert alone.record["code"]["sha256"] == code_sha256()


def test_a_pipeline_trains_again_only_what_changed(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The stage whose code changed, and the one that reads it."""
    run_plan(make(rows), say=str)
    assert [o.status for o in run_plan(make(rows), say=str)] == ["reused"] * 3
    real = code_of

    def changed(runner: str, keys: dict, *parts: object) -> str:
        return "other" if str(keys["output_dir"]).endswith("second") else real(runner, keys, *parts)

    monkeypatch.setattr("alignloop.pipeline.code_of", changed)
    assert [o.status for o in run_plan(make(rows), say=str)] == ["reused", "finished", "finished"]
