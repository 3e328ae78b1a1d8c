"""The recipes that come with AlignLoop, and methods by the names that people give them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

import alignloop
from alignloop.config.recipe_file import Entries, LocatedValue, Recipe, parse_recipe, read_recipe
from alignloop.config.registry import STAGES, is_preference_objective
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives

SHIPPED = Path(alignloop.__file__).parent / "recipes"


class Method(NamedTuple):
    """What a method's name means.

    Attributes:
        stage: the stage that runs it.
        recipe: the recipe with its settings, empty if none comes with AlignLoop.
        chosen: the key that chooses the method within its stage.
        is_shipped: whether the recipe is that of the package.
        name: what the run folder is called: `runs/NAME`.
    """

    stage: str
    recipe: Recipe
    chosen: Entries
    is_shipped: bool
    name: str


def find_method(method: str, recipe: str = "") -> Method:
    """The stage and the recipe of a method.

    Args:
        method: `dpo`, `best-of-n`, `regression`, …
        recipe: a recipe to use instead of the one that comes with AlignLoop.

    Returns:
        The method; whether its stage exists is not looked at yet.

    Raises:
        ConfigError: a recipe that is not there.
    """
    name = method.replace("-", "_")
    stage, key = stage_of_method(name)
    chosen = {key: LocatedValue(name, "")} if key else {}
    if recipe:
        file = find_recipe(recipe)
        return Method(stage, load_recipe(file), chosen, False, Path(recipe).stem)
    candidates = (SHIPPED / f"{one}.yaml" for one in dict.fromkeys((name, stage)))
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        return Method(stage, Recipe(), chosen, False, name)
    return Method(stage, load_recipe(found), chosen, True, found.stem)


def stage_of_method(name: str) -> tuple[str, str]:
    """The stage that runs a method.

    Args:
        name: a stage, an objective of preferences or scores, or a choice of an objective's key `method`.

    Returns:
        The stage, and the key whose value the method is: "" where the method is the whole stage.
    """
    if name in objectives.names() and name not in STAGES and not is_preference_objective(name):
        needs = objectives.load(name)().needs
        reading = [stage for stage, spec in STAGES.items() if spec.reads and spec.reads in needs]
        return (reading[0], "objective") if reading else (name, "")
    if name in objectives.names() or name in STAGES:
        return name, ""
    for objective in objectives.names():
        if any(doc.name == "method" and name in doc.choices for doc in objectives.describe(objective)):
            return objective, "method"
    return name, ""


def find_recipe(name: str) -> Path:
    """The file of that path, or the recipe of that name (`NAME`, `recipes/NAME.yaml`) in the package.

    Args:
        name: what the user wrote.

    Returns:
        The file; one that ends in .yaml need not exist.

    Raises:
        ConfigError: neither is there.
    """
    path = Path(name)
    if path.exists():
        return path
    # messages call those of the package recipes/NAME.yaml
    shipped = SHIPPED / (path.name if path.parent == Path("recipes") else f"{name}.yaml")
    if shipped.is_file() and shipped.parent == SHIPPED:
        return shipped
    if path.suffix in (".yaml", ".yml"):
        return path
    names = [file.stem for file in SHIPPED.glob("*.yaml")]
    near = difflib.get_close_matches(name, names, n=1)
    hint = (
        f"did you mean '{near[0]}'?" if near else "`alignloop recipes` lists those that come with AlignLoop"
    )
    raise ConfigError(f"recipe '{name}': no such file, and no recipe of that name; {hint}")


def load_recipe(file: Path) -> Recipe:
    """Read a recipe; one that comes with the package is named without its folder in messages."""
    if file.parent == SHIPPED:
        return parse_recipe(file.read_text(encoding="utf-8"), file=f"recipes/{file.name}")
    return read_recipe(file)
