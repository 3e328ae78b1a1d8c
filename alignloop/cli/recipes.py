"""Commands about what a recipe can say: `recipes` lists and prints, `init` writes, `schema` lists keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import typer

from alignloop.errors import UserError

app = typer.Typer(add_completion=False)
init_app = typer.Typer(add_completion=False)
schema_app = typer.Typer(add_completion=False)

START_HERE = ("quickstart-tiny", "quickstart", "my-pairs", "dpo")
"""In this order, those of them that are there."""
WHOLE_LOOPS = "Whole loops, several stages"


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that begin like that; files are the shell's own affair."""
    from alignloop.config.shipped import SHIPPED

    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    own = sorted(str(file) for file in Path().glob("*.yaml"))
    return [name for name in (*own, *names) if name.startswith(incomplete)]


def complete_stage(incomplete: str) -> list[str]:
    """Names of stages that begin like that."""
    from alignloop.config import stage_names

    return [name for name in stage_names() if name.startswith(incomplete.replace("-", "_"))]


@app.command()
def recipes(
    name: str = typer.Argument("", help="Print this recipe.", autocompletion=complete_recipe),
) -> None:
    """List the recipes that come with AlignLoop, or print one."""
    from alignloop.config.shipped import SHIPPED, find_recipe

    if name:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    for title, files in grouped(sorted(SHIPPED.glob("*.yaml"))).items():
        print(title)
        for file in files:
            print(f"  {file.stem:20} {_first_line(file)}")
        print()
    print("alignloop recipes NAME prints one, alignloop run NAME --dry-run shows what it would do.")


def grouped(files: list[Path]) -> dict[str, list[Path]]:
    """The recipes by what they are for, those to start with first; each once.

    Args:
        files: recipe files.

    Returns:
        Files by the title of their group, in the order to show them.
    """
    from alignloop.config.registry import STAGES, StageGroup, offline_stage

    names = {file.stem: file for file in files}
    found = {"Start here": [names.pop(name) for name in START_HERE if name in names]}
    found |= {title: [] for title in (*get_args(StageGroup), WHOLE_LOOPS)}
    for file in names.values():
        stage = _stage(file)
        spec = STAGES[stage] if stage in STAGES else offline_stage()
        found[WHOLE_LOOPS if stage == "stages" else spec.group].append(file)
    return {title: items for title, items in found.items() if items}


def _stage(file: Path) -> str:
    """The recipe's stage, `stages` for one of several."""
    for line in file.read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if colon and key in ("stage", "stages"):
            return value.strip() if key == "stage" else key
    return ""


def _first_line(file: Path) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


@init_app.command()
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
