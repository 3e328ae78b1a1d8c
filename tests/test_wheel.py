"""The wheel, installed where there is no pip: what is in it, and the quickstart's recipe made small."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = "max_steps=1 num_rows=16 num_prompts=4 max_new_tokens=24 bootstrap=1000 num_threads=1 output_dir=out"


def test_a_wheel_runs_the_loop_without_pip(tmp_path: Path) -> None:
    words = ["run", "quickstart-tiny", *SMALL.split()]
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
    hidden = {".lock"}
    assert {oct(path.stat().st_mode & 0o777) for path in written if path.name not in hidden} == {"0o644"}
