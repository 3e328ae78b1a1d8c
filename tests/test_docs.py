"""The code in docs/ runs as it stands there."""

import ast
import json
import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import alignloop
from alignloop.config import stage_names
from alignloop.data.columns import read_records
from tests import helpers_docs

ROOT = Path(__file__).parents[1]


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return list(helpers_docs.blocks(text_of(page), "python"))


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


KINDS = ["document", "demonstration", "preference", "label", "ranking", "rating", "prompt"]


@pytest.mark.parametrize("page", ["data.md", "ko/data.md"])
def test_rows_shown_are_read(page, tmp_path):
    """Without a fault, and every kind is shown once or more, in this order."""
    kinds = []
    for block in helpers_docs.blocks(text_of(page), "json"):
        for row in block.splitlines():
            file = tmp_path / "rows.jsonl"
            file.write_text(row + "\n", encoding="utf-8")
            data = read_records(str(file))
            assert not data.dropped, row
            assert not data.unused, row
            kinds.append(data.kind)
    assert list(dict.fromkeys(kinds)) == KINDS


def messages() -> set[str]:
    """Every text in the code, with … for what is put into it."""
    found = set()
    for file in (ROOT / "alignloop").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
    return found


def test_messages_in_troubleshooting_are_those_of_the_code():
    known = messages()
    tables = text_of("troubleshooting.md").split("## By message", 1)[1].split("## Questions")[0]
    shown = re.findall(r"^\| (?:``(.+?) ``|`(.+?)`) \|", tables, re.MULTILINE)
    assert len(shown) > 30
    for double, single in shown:
        assert any((double or single) in message for message in known), double or single


def test_links_to_codes_lead_to_codes():
    codes = {code.lower() for code in re.findall(r"^\| (AL\d{3}) \|", text_of("lint.md"), re.MULTILINE)}
    for page in (ROOT / "docs").rglob("*.md"):
        linked = set(re.findall(r"lint\.md#(al\d+)", page.read_text(encoding="utf-8")))
        assert linked <= codes, page


def test_one_address_of_the_project():
    """pyproject.toml, the site and the READMEs name the same repository; README links lead to files here."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"repo_url: {urls['Repository']}\n" in site
    assert f"site_url: {urls['Documentation']}\n" in site
    for name in ("README.md", "README.ko.md"):
        targets = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        ours = [target for target in targets if target.startswith(urls["Repository"])]
        assert ours
        assert all(target.startswith(("https://", "#")) for target in targets), name
        for target in ours:
            kind, branch, path = target.removeprefix(urls["Repository"] + "/").split("/", 2)
            assert kind in ("blob", "tree", "raw"), target
            assert branch == "main", target
            assert (ROOT / path.partition("#")[0]).exists(), target


def test_every_extra_is_on_the_page_of_installing():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = text_of("install.md").split("## Extras")[1].split("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == set(extras["optional-dependencies"])


def pages_of(entry):
    if isinstance(entry, str):
        return {entry}
    return set().union(*(pages_of(inner) for inner in (entry.values() if isinstance(entry, dict) else entry)))


def test_every_page_is_in_the_sites_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    config = {"nav": yaml.safe_load(f"nav:{nav}")["nav"], "docs_dir": str(ROOT / "docs")}
    found = pages_of(hooks["on_config"](config)["nav"])
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert found == pages


def test_the_changelog_has_the_version_at_its_top():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\](?: - \d{4}-\d{2}-\d{2})?$", text, re.MULTILINE)
    assert versions[:2] == ["Unreleased", alignloop.__version__]
    assert set(re.findall(r"^### (\w+)$", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
    assert all(f"\n[{version}]: https://" in text for version in versions)


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "img").iterdir():
        assert picture.stat().st_size < 300_000, picture


def test_what_the_site_generates():
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="api/keys.md"))
    keys = hooks["on_page_markdown"](text_of("api/keys.md"), page=page)
    assert [line[3:] for line in keys.splitlines() if line.startswith("## ")] == stage_names()
    assert "| `beta` |" in keys.split("\n## dpo\n")[1].split("\n## ")[0]
    page.file.src_uri = "lint.md"
    assert '| <a id="al107"></a>AL107 | warning |' in hooks["on_page_markdown"](text_of("lint.md"), page=page)
