"""What `mkdocs build` makes while it builds: tables of keys, anchors of AL codes."""

from __future__ import annotations

import re
from typing import Any

from alignloop.config import stage_names
from alignloop.config.schema import markdown_table, stage_schema

KEYS = "<!-- keys of every stage -->"
CODE_ROW = re.compile(r"^\| (AL\d{3}) \|", re.MULTILINE)


def keys_of_every_stage() -> str:
    """A heading and a table for each stage: key, what it accepts, default, meaning."""
    parts = []
    for stage in stage_names():
        about = stage_schema(stage)["description"].splitlines()[0]
        parts.append(f"## {stage}\n\n{about}\n\n{markdown_table(stage)}")
    return "\n".join(parts)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in what is generated; mkdocs calls this for every page."""
    if page.file.src_uri == "api/keys.md":
        return markdown.replace(KEYS, keys_of_every_stage())
    if page.file.src_uri == "lint.md":
        return CODE_ROW.sub(lambda row: f'| <a id="{row[1].lower()}"></a>{row[1]} |', markdown)
    return markdown
