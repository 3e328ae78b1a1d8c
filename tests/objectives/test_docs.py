"""Every objective has a page, and its settings are those of the code."""

import re
from pathlib import Path

import pytest

from alignloop.config.shipped import find_recipe, stage_of_method
from alignloop.data.columns import read_records
from alignloop.objectives import registry

PAGES = Path(__file__).resolve().parents[2] / "docs" / "objectives"


@pytest.mark.parametrize("name", registry.names())
def test_page_agrees_with_the_code(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for heading in ("## Formula", "## Data", "## Settings", "## When it fails", "## What to watch"):
        assert heading in page
    documented = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4]
    expected = []
    for doc in registry.describe(name):
        default = doc.default if isinstance(doc.default, str) else f"{doc.default:g}"
        if isinstance(doc.default, bool):
            default = str(doc.default).lower()
        expected.append(f"| `{doc.name}` | {default} | {doc.description} |")
    assert documented == expected


OFFLINE = [name for name in registry.names() if registry.load(name)().records != ("prompt",)]


@pytest.mark.parametrize("name", OFFLINE)
def test_page_explains_the_odd_cases(name):
    """Every offline objective says what becomes of faults; a reference is explained where it is read."""
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    section = page.split("## Odd cases\n")[1].split("\n## ")[0]
    objective = registry.load(name)()
    assert "NaN in a weight" in section
    assert "`token_budget`" in section
    assert ("reference must share" in section) == ("reference_logprobs" in objective.needs)
    assert ("no permutation" in section) == ("ranking" in objective.records)
    assert ("One class only" in section) == ("label" in objective.records)


def test_the_overview_leads_to_every_page():
    overview = (PAGES / "README.md").read_text(encoding="utf-8")
    linked = {target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", overview)}
    assert {f"{name}.md" for name in registry.names()} <= linked
    assert all((PAGES / target).is_file() for target in linked)
    for method in re.findall(r"`alignloop (?:train|run) ([\w-]+)", overview):
        assert find_recipe(method.replace("-", "_") if stage_of_method(method)[1] else method).is_file(), (
            method
        )


@pytest.mark.parametrize("name", registry.names())
def test_rows_shown_are_rows_it_trains_on(name, tmp_path):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    rows = page.split("```json\n")[1].split("```")[0].strip().splitlines()
    kinds = []
    for row in rows:
        file = tmp_path / "rows.jsonl"
        file.write_text(row + "\n", encoding="utf-8")
        data = read_records(str(file))
        assert not data.dropped
        kinds.append(data.kind)
    assert set(kinds) == set(registry.load(name)().records)
