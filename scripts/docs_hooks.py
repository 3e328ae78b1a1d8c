"""What `mkdocs build` makes while it builds: tables of keys, anchors of AL codes, places of new pages."""

from __future__ import annotations

import re
from pathlib import Path
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


def further_pages(listed: str, folder: Path) -> list[str]:
    """Pages of docs/guide/ that a text does not name yet, such as the page of a new stage.

    Args:
        listed: the table of docs/guide/README.md, or the navigation of mkdocs.yml.
        folder: docs/guide/.

    Returns:
        File names, sorted.
    """
    named = set(re.findall(r"[\w-]+\.md", listed))
    return sorted(page.name for page in folder.glob("*.md") if page.name not in named)


def with_further_pages(table: str, folder: Path) -> str:
    """docs/guide/README.md with a link to every page that its table does not name."""
    lines = []
    for name in further_pages(f"README.md {table}", folder):
        title = (folder / name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}]({name})\n")
    return f"{table}\nFurther pages:\n\n{''.join(lines)}" if lines else table


def on_config(config: Any) -> Any:
    """Add pages of docs/guide/ that the navigation does not name; mkdocs calls this first."""
    found = further_pages(str(config["nav"]), Path(config["docs_dir"]) / "guide")
    tasks = next(entry["How to"] for entry in config["nav"] if "How to" in entry)
    if found:
        tasks.append({"More": [f"guide/{name}" for name in found]})
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in what is generated; mkdocs calls this for every page."""
    if page.file.src_uri == "api/keys.md":
        return markdown.replace(KEYS, keys_of_every_stage())
    if page.file.src_uri == "lint.md":
        return CODE_ROW.sub(lambda row: f'| <a id="{row[1].lower()}"></a>{row[1]} |', markdown)
    if page.file.src_uri == "guide/README.md":
        return with_further_pages(markdown, Path(page.file.abs_src_path).parent)
    return markdown
