"""The public names: imported when they are used, and known to type checkers."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import alignloop

ROOT = Path(__file__).parents[2]


def test_import_brings_in_nothing_heavy() -> None:
    """0.1 s is what Python itself needs to start; what would take longer is not imported."""
    code = "import sys, alignloop; dir(alignloop); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = done.stdout.split()
    assert not {"torch", "transformers", "pydantic", "numpy", "yaml"} & set(modules)
    assert [name for name in modules if name.startswith("alignloop")] == ["alignloop"]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "alignloop" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: node.module for node in imports for alias in node.names}
    assert seen == alignloop._PLACES
    assert set(alignloop.__all__) == set(seen) <= set(dir(alignloop))


def test_every_name_is_there() -> None:
    for name in alignloop.__all__:
        assert getattr(alignloop, name).__name__.lower() == name.lower().removesuffix("_")
    with pytest.raises(AttributeError, match="did you mean 'DPOConfig'"):
        alignloop.DPOConfg  # noqa: B018  # pyright: ignore


def test_the_stub_of_the_methods_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "stubs.py"))
    assert made["STUB"].read_text(encoding="utf-8") == made["stub"](), "run python scripts/stubs.py"
