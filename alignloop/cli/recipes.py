"""`alignloop recipes`: those that come with AlignLoop, by what they are for."""

from __future__ import annotations

from pathlib import Path

import typer

from alignloop.cli.run import complete_recipe

app = typer.Typer(add_completion=False)

START_HERE = ("quickstart-tiny", "quickstart", "my-pairs", "dpo")
"""In this order, those of them that are there."""

_GROUPS = {
    "Train on demonstrations": ("pretrain", "sft", "best_of_n"),
    "Train on comparisons": (),
    "Train by reward": ("ppo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp"),
    "Reward models": ("reward", "reward_bench", "average_rewards"),
    "Make and judge answers": ("sample", "instructions", "feedback", "judge", "constitution", "mix", "loop"),
    "Evaluate": ("evaluate", "compare", "audit", "refusals"),
    "Whole loops, several stages": ("stages",),
}
"""Stages of each group; a stage that is in none is one of comparisons, which are found by file name."""


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
    names = {file.stem: file for file in files}
    found = {"Start here": [names.pop(name) for name in START_HERE if name in names]}
    found |= {title: [] for title in _GROUPS}
    for file in names.values():
        stage = _stage(file)
        own = next((title for title, stages in _GROUPS.items() if stage in stages), "Train on comparisons")
        found[own].append(file)
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
