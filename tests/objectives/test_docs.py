"""Every objective has a page, and its settings are those of the code."""

from pathlib import Path

import pytest

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
        expected.append(f"| `{doc.name}` | {default} | {doc.description} |")
    assert documented == expected


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
