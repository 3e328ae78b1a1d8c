"""`alignloop init` writes a recipe to start from, `alignloop schema` prints what one can contain."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from alignloop.errors import UserError

app = typer.Typer(add_completion=False)
schema_app = typer.Typer(add_completion=False)


@app.command()
def init(
    stage: str = typer.Argument("sft", help="The stage or method to write a recipe for."),
    file: str = typer.Argument("", help="Where to write it; STAGE.yaml if left out."),
) -> None:
    """Write a recipe with every key of a stage, explained, at its default."""
    from alignloop.config import starter_recipe

    text = starter_recipe(stage.replace("-", "_"))
    path = Path(file or f"{stage}.yaml")
    try:
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists already; give another file name") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"{path} written; fill in the keys at its top, then: alignloop run {path}")


@schema_app.command()
def schema(
    stage: str = typer.Argument("", help="One stage or method; all if left out."),
    markdown: bool = typer.Option(False, "--markdown", help="A table for people instead of JSON schema."),
) -> None:
    """Print the keys of a stage as JSON schema, or as a table."""
    from alignloop.config import all_schemas, markdown_table, stage_names, stage_schema

    name = stage.replace("-", "_")
    if not markdown:
        found = stage_schema(name) if stage else all_schemas()
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for each in [name] if stage else stage_names():
        print(markdown_table(each) if stage else f"## {each}\n\n{markdown_table(each)}")
