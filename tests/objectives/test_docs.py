"""Every objective has a page, and its settings are those of the code."""

from pathlib import Path

import pytest

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
