"""The wheel, installed where there is no pip: what is in it, and the quickstart, which learns its task."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_runs_the_loop_without_pip(tmp_path: Path) -> None:
    words = ["quickstart", "--model", "tiny", "--output-dir", "out"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "try_wheel.py"), str(tmp_path), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode("utf-8")
    assert {"alignloop/py.typed", "alignloop/config/methods.pyi", "alignloop/recipes/dpo.yaml"} <= set(names)
    assert not any(name.startswith(("tests/", "bench/")) for name in names)
    assert "Requires-Dist: transformers<6" in metadata
    written = [path for path in (tmp_path / "work" / "out").rglob("*") if path.is_file()]
    assert (tmp_path / "work" / "out" / "dpo" / "model" / "model.safetensors") in written
    results = json.loads((tmp_path / "work/out/compare/run.json").read_text(encoding="utf-8"))["results"]
    gold = {name: cell["value"] for name, cell in results["comparison"][0]["models"].items()}
    assert gold["start"] == 0
    assert gold["grpo"] >= 0.8
    hidden = {".lock"}
    assert {oct(path.stat().st_mode & 0o777) for path in written if path.name not in hidden} == {"0o644"}
