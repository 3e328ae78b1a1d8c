"""A recipe with its stages resolved: what a pipeline runs, in order, each with its folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignloop.config.aliases import ALIASES, REFUSED
from alignloop.config.fields import StageConfig
from alignloop.config.recipe_file import Entries, LocatedValue, Recipe, RecipeFaults
from alignloop.config.registry import STAGES, StageSpec, find_stage
from alignloop.config.resolve import check_entries, flatten, known_keys, merge_layers
from alignloop.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, ready to run in `config.output_dir`.

    Attributes:
        name: in its pipeline.
        stage: what it is.
        spec: what is known of such stages.
        config: its keys.
        objective: its objective, or None.
        given: by path in the run folder, what was given in Python and is copied there: see `config.given`.
    """

    name: str
    stage: str
    spec: StageSpec
    config: StageConfig
    objective: Any = None
    given: Mapping[str, Path] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, Any]:
        """All resolved keys in one flat mapping of plain values, `stage` first."""
        return {"stage": self.stage, **flatten(self.config, self.objective)}


@dataclass(frozen=True, slots=True)
class RecipePlan:
    """All stages of a recipe.

    Attributes:
        file: the recipe's name in messages.
        output_dir: the run folder of a single stage, or the folder that holds the stages' run folders.
        stages: in the order they run.
        is_pipeline: whether the recipe has a `stages` list.
        notices: what was read under another name, one sentence each.
    """

    file: str
    output_dir: Path
    stages: tuple[StagePlan, ...]
    is_pipeline: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a recipe's `stages`."""

    name: str
    stage: str
    spec: StageSpec
    entries: Entries
    where: str


_MANY = 12
_REFERENCE = re.compile(r"@([^\s/#@]+)(.*)", re.DOTALL)
_NAME = re.compile(r"[\w-]+")


def make_plan(
    recipe: Recipe,
    overrides: Entries | None = None,
    *,
    stage: str = "",
    output_dir: str = "",
    stages: Mapping[str, StageSpec] = STAGES,
) -> RecipePlan:
    """Resolve every stage of a recipe.

    Args:
        recipe: as read from a file, or empty.
        overrides: `key=value` from the command line; `name.key` goes to one stage of a pipeline, a plain
            key to all stages that know it and that do not take it from an earlier stage (`@name`).
        stage: the stage a recipe without `stage:` is for.
        output_dir: where to write if neither recipe nor overrides say it; a single stage's is runs/STAGE
            by default.
        stages: table of stages to look in.

    Returns:
        The stages in the order they run.

    Raises:
        ConfigError: everything wrong in any stage, at once.
    """
    overrides = overrides or {}
    faults = RecipeFaults()
    if recipe.stages:
        if stage:
            raise ConfigError(f"{recipe.file}: has a list of stages; use `alignloop run {recipe.file}`")
        plan = _pipeline(recipe, overrides, output_dir, stages, faults)
    else:
        plan = _single(recipe, overrides, stage, output_dir, stages, faults)
    faults.stop_if_any()
    assert plan is not None
    return plan


def _single(
    recipe: Recipe,
    overrides: Entries,
    stage: str,
    output_dir: str,
    stages: Mapping[str, StageSpec],
    faults: RecipeFaults,
) -> RecipePlan | None:
    entries = dict(recipe.entries)
    written = overrides.get("stage") or entries.get("stage")
    if written is None and not stage:
        faults.add(recipe.file, "'stage' is missing; name it, as in `stage: sft`")
        return None
    name = str(written.value) if written else stage
    if stage and name != stage:
        faults.add(written.where if written else "", f"stage: is '{name}', but '{stage}' was asked for")
        return None
    spec = find_stage(name, stages)
    default = {"output_dir": LocatedValue(output_dir or f"runs/{name}", "")}
    layers = [{k: v for k, v in layer.items() if k != "stage"} for layer in (default, entries, overrides)]
    notices: list[str] = []
    merged = merge_layers(spec, layers, faults, notices.append)
    merged = _link(merged, {}, [], faults)
    if merged["output_dir"].value == "":
        faults.add(merged["output_dir"].where, "output_dir: is empty; name a folder, or leave the key out")
    resolved = check_entries(name, spec, merged, faults, where=recipe.file)
    if resolved is None:
        return None
    plan = StagePlan(name, name, spec, resolved.config, resolved.objective)
    return RecipePlan(recipe.file, Path(resolved.config.output_dir), (plan,), False, tuple(notices))


def _pipeline(
    recipe: Recipe,
    overrides: Entries,
    output_dir: str,
    stages: Mapping[str, StageSpec],
    faults: RecipeFaults,
) -> RecipePlan | None:
    items = _name_items(recipe, stages, faults)
    names = [item.name for item in items]
    own, everywhere = _split_overrides(overrides, names, faults)
    shared = dict(recipe.entries)
    folder = everywhere.pop("output_dir", None) or shared.get("output_dir") or LocatedValue(output_dir, "")
    shared.pop("output_dir", None)
    if not folder.value:
        faults.add(recipe.file, "'output_dir' is missing: folder for the run folders of all stages")
    root = Path(str(folder.value))

    used: set[str] = set()
    notices: list[str] = []
    plans: list[StagePlan] = []
    earlier: dict[str, Path | str] = _values_named(shared, everywhere)
    for item in items:
        known = _with_aliases(
            known_keys(item.spec, {**shared, **item.entries, **everywhere, **own[item.name]})
        )
        used |= known
        defaults = {key: entry for key, entry in shared.items() if key in known}
        linked = {key for key, entry in item.entries.items() if _is_link(entry.value)}
        general = {key: entry for key, entry in everywhere.items() if key in known and key not in linked}
        layers = [defaults, item.entries, general, own[item.name]]
        entries = merge_layers(item.spec, layers, faults, notices.append)
        if "output_dir" in entries:
            faults.add(entries["output_dir"].where, "output_dir: belongs to the whole recipe, not to a stage")
        entries["output_dir"] = LocatedValue(str(root / item.name), "")
        entries = _link(entries, earlier, names, faults)
        earlier[item.name] = root / item.name
        resolved = check_entries(item.stage, item.spec, entries, faults, where=item.where)
        if resolved is not None:
            plans.append(StagePlan(item.name, item.stage, item.spec, resolved.config, resolved.objective))
    if len(items) == len(recipe.stages):  # else a stage that could not be read may have the key
        for key, entry in {**shared, **everywhere}.items():
            if key in REFUSED and key not in used:
                faults.add(entry.where, f"'{key}' is not supported: {REFUSED[key]}")
            elif key not in used:
                faults.add(
                    entry.where, f"unknown key '{key}': no stage has it; {_nearest(key, sorted(used))}"
                )
    return RecipePlan(recipe.file, root, tuple(plans), True, tuple(dict.fromkeys(notices)))


def _values_named(shared: Entries, everywhere: Entries) -> dict[str, Path | str]:
    """`@model_name_or_path` in a stage is the model of the whole recipe, as the command line has it."""
    found = {**shared, **everywhere}.get("model_name_or_path")
    return {"model_name_or_path": str(found.value)} if found is not None else {}


def _is_link(value: Any) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _with_aliases(known: set[str]) -> set[str]:
    return known | {word for word, found in ALIASES.items() if any(alias.key in known for alias in found)}


def _name_items(recipe: Recipe, stages: Mapping[str, StageSpec], faults: RecipeFaults) -> list[_Item]:
    """The usable items of `stages`; what is wrong with the others becomes a finding."""
    items: list[_Item] = []
    for number, entries in enumerate(recipe.stages, start=1):
        stage = entries.get("stage")
        named = entries.get("name", stage)
        if stage is None or named is None:
            where = next((entry.where for entry in entries.values()), recipe.file)
            faults.add(where, f"item {number} of stages has no `stage:`")
            continue
        name = str(named.value)
        if not _NAME.fullmatch(name) or name == "old":
            faults.add(named.where, f"name: '{name}' is not usable; expected letters, digits, _ and -")
        elif name in [item.name for item in items]:
            faults.add(named.where, f"a stage named '{name}' exists already; give this one a `name:`")
        else:
            try:
                spec = find_stage(str(stage.value), stages)
            except ConfigError as error:
                faults.add_error(stage.where, error)
                continue
            keys = {key: entry for key, entry in entries.items() if key not in ("stage", "name")}
            items.append(_Item(name, str(stage.value), spec, keys, stage.where))
    return items


def _split_overrides(
    overrides: Entries, names: list[str], faults: RecipeFaults
) -> tuple[dict[str, Entries], Entries]:
    """Overrides by stage name, and those for every stage."""
    own: dict[str, Entries] = {name: {} for name in names}
    everywhere: Entries = {}
    for word, entry in overrides.items():
        name, dot, key = word.partition(".")
        if not dot:
            everywhere[word] = entry
        elif name in own:
            own[name][key] = entry
        else:
            faults.add(entry.where, f"'{word}': no stage is named '{name}'; {_nearest(name, names)}")
    return own, everywhere


def _link(
    entries: Entries, earlier: Mapping[str, Path | str], names: list[str], faults: RecipeFaults
) -> Entries:
    """`@name` replaced by the run folder of that earlier stage, at any depth."""

    def replace(value: Any, where: str, key: str) -> Any:
        if isinstance(value, dict):
            return {replace(k, where, key): replace(v, where, key) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [replace(item, where, key) for item in value]
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        name = match[1]
        if name in earlier:
            return str(earlier[name]) + match[2]
        reason = f"no stage is named '{name}'; {_nearest(name, list(earlier))}"
        if name in names:
            reason = f"stage '{name}' does not run before this one"
        faults.add(where, f"{key}: '{value}': {reason}")
        return value

    return {
        key: LocatedValue(replace(entry.value, entry.where, key), entry.where)
        for key, entry in entries.items()
    }


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    if len(names) > _MANY:
        return "`alignloop schema` lists all keys"
    return f"one of: {', '.join(names)}" if names else "there is no earlier stage"
