"""`alignloop schema STAGE`: what a recipe can contain, for people, as JSON schema or as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

app = typer.Typer(add_completion=False)


def complete_stage(incomplete: str) -> list[str]:
    """Names of stages that begin like that."""
    from alignloop.config import stage_names

    return [name for name in stage_names() if name.startswith(incomplete.replace("-", "_"))]


@app.command()
def schema(
    stage: str = typer.Argument(
        "", help="One stage or method; a list of all if left out.", autocompletion=complete_stage
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON schema, for programs."),
    markdown: bool = typer.Option(False, "--markdown", help="A Markdown table."),
) -> None:
    """Print the keys of a stage: what each accepts, its default and what it means."""
    from alignloop.config import all_schemas, markdown_table, stage_names, stage_schema

    name = stage.replace("-", "_")
    if as_json:
        found = stage_schema(name) if stage else all_schemas()
        print(json.dumps(found, ensure_ascii=False, indent=2))
    elif markdown:
        for each in [name] if stage else stage_names():
            print(markdown_table(each) if stage else f"## {each}\n\n{markdown_table(each)}")
    elif stage:
        print_keys(name, stage_schema(name))
    else:
        for each in stage_names():
            print(f"{each:18} {summary(stage_schema(each))}")
        print(
            "\nalignloop schema STAGE lists its keys, alignloop init STAGE writes a recipe with all of them."
        )


def summary(found: Mapping[str, Any]) -> str:
    """First sentence about a stage."""
    return str(found.get("description", "")).partition("\n")[0]


def print_keys(name: str, found: Mapping[str, Any]) -> None:
    """The keys of a stage as a table in three parts: needed, the method's own, all others."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from alignloop.config.checking import describe_schema

    console = Console(highlight=False)
    print(f"{name}: {summary(found)}")
    defined = found.get("$defs", {})
    for title, keys in parts_of(name, found).items():
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=max(map(len, keys)))
        table.add_column(max_width=24, overflow="fold")
        table.add_column(overflow="fold", ratio=1)
        for key in keys:
            field = found["properties"][key]
            default = "" if "default" not in field else json.dumps(field["default"], ensure_ascii=False)
            accepts = describe_schema(field, defined)
            short = f" ({accepts})" if len(accepts) <= 60 else ""
            table.add_row(Text(key), Text(default), Text(f"{field['description']}{short}"))
        print(f"\n{title}")
        console.print(table)
    print(f"\nalignloop init {name} writes a recipe with all of them; --json prints the schema.")


def parts_of(name: str, found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Keys of a stage by how near they are to a person who writes a recipe.

    Args:
        name: the stage.
        found: its JSON schema.

    Returns:
        Keys by the part's title: those without a default, those of the objective, the rest.
    """
    from alignloop.config import STAGES, find_stage

    spec = STAGES.get(name) or find_stage(name)
    own = set(spec.config.model_fields)
    needed = [key for key, field in found["properties"].items() if "default" not in field]
    methods = [key for key in found["properties"] if key not in own and key not in needed]
    rest = [key for key in found["properties"] if key not in needed and key not in methods]
    parts = {"To be given": needed, "Of the method": methods, "With a default": rest}
    return {title: keys for title, keys in parts.items() if keys}
