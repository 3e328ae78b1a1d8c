"""`alignloop recipes`: those that come with AlignLoop, by what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import typer

from alignloop.cli.run import complete_recipe

app = typer.Typer(add_completion=False)

START_HERE = ("quickstart-tiny", "quickstart", "my-pairs", "dpo")
"""In this order, those of them that are there."""
WHOLE_LOOPS = "Whole loops, several stages"


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
    from alignloop.config.registry import StageGroup, find_stage

    names = {file.stem: file for file in files}
    found = {"Start here": [names.pop(name) for name in START_HERE if name in names]}
    found |= {title: [] for title in (*get_args(StageGroup), WHOLE_LOOPS)}
    for file in names.values():
        stage = _stage(file)
        found[WHOLE_LOOPS if stage == "stages" else find_stage(stage).group].append(file)
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
