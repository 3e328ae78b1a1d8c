"""The code in docs/ runs as it stands there."""

import json
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_custom_objective_and_loop_lower_their_loss(tmp_path, monkeypatch):
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code = blocks("custom.md")
    assert len(code) == 2
    assert all(len(block.splitlines()) < 40 for block in code)
    scope: dict[str, object] = {"__name__": "docs"}
    for block in code:
        exec(compile(block, "docs/custom.md", "exec"), scope)
    losses = scope["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < 0.5 * losses[0]


def test_the_page_on_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks("python.md"):
        exec(compile(block, "docs/python.md", "exec"), scope)
    shown = capsys.readouterr().out
    assert "dpo: finished in" in shown
    assert "runs/dpo/report.html" in shown
    assert "completion" in shown


def test_the_list_of_files_is_current():
    page = runpy.run_path(str(ROOT / "scripts" / "files.py"))["page"]
    assert (ROOT / "docs" / "files.md").read_text(encoding="utf-8") == page(), "run python scripts/files.py"
