"""A recipe with its stages resolved: what a pipeline runs, in order, each with its folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignloop.config.recipe_file import Entries, Entry, Recipe
from alignloop.config.registry import STAGES, StageSpec, find_stage
from alignloop.config.resolve import Resolved, flatten, known_keys, resolve
from alignloop.config.stages import StageConfig
from alignloop.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, ready to run in `config.output_dir`."""

    name: str
    stage: str
    spec: StageSpec
    config: StageConfig
    objective: Any = None

    @property
    def keys(self) -> dict[str, Any]:
        """All resolved keys in one flat mapping of plain values, `stage` first."""
        return {"stage": self.stage, **flatten(self.config, self.objective)}


@dataclass(frozen=True, slots=True)
class Plan:
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


_REFERENCE = re.compile(r"@([^\s/#@]+)(.*)", re.DOTALL)
_NAME = re.compile(r"[\w-]+")


def make_plan(
    recipe: Recipe,
    overrides: Entries | None = None,
    *,
    stage: str = "",
    output_dir: str = "",
    stages: Mapping[str, StageSpec] = STAGES,
) -> Plan:
    """Resolve every stage of a recipe.

    Args:
        recipe: as read from a file, or empty.
        overrides: `key=value` from the command line; `name.key` goes to one stage of a pipeline, a plain
            key to all stages that know it.
        stage: the stage a recipe without `stage:` is for.
        output_dir: where to write if neither recipe nor overrides say it.
        stages: table of stages to look in.

    Raises:
        ConfigError: everything wrong in any stage, at once.
    """
    overrides = overrides or {}
    if recipe.stages:
        if stage:
            raise ConfigError(f"{recipe.file}: has a list of stages; use `alignloop run {recipe.file}`")
        return _pipeline(recipe, overrides, output_dir, stages)
    entries = {**recipe.entries, **overrides}
    written = entries.pop("stage", None)
    if written is not None and stage and written.value != stage:
        raise ConfigError(f"{written.where}: stage: is '{written.value}', but '{stage}' was asked for")
    if written is None and not stage:
        raise ConfigError(
            f"{recipe.file or 'recipe'}: 'stage' is missing; name the stage, as in `stage: sft`"
        )
    name = stage or str(written.value if written else "")
    if output_dir:
        entries.setdefault("output_dir", Entry(output_dir, ""))
    findings = [
        f"{entry.where}: {key}: '{value}' needs an earlier stage, and this recipe has one stage only"
        for key, entry in entries.items()
        for value in _references(entry.value)
    ]
    if findings:
        raise ConfigError(findings)
    notices: list[str] = []
    spec = find_stage(name, stages)
    config, objective = resolve(name, entries, stages=stages, notice=notices.append)
    plan = StagePlan(name, name, spec, config, objective)
    return Plan(recipe.file, Path(config.output_dir), (plan,), False, tuple(notices))


def _pipeline(recipe: Recipe, overrides: Entries, output_dir: str, stages: Mapping[str, StageSpec]) -> Plan:
    findings: list[str] = []
    shared = dict(recipe.entries)
    items = _name_items(recipe, findings)
    own, everywhere = _split_overrides(overrides, [name for name, _, _ in items], findings)
    folder = everywhere.pop("output_dir", None) or shared.pop("output_dir", None)
    shared.pop("output_dir", None)
    root = Path(str(folder.value) if folder else output_dir)
    if not folder and not output_dir:
        findings.append(f"{recipe.file}: 'output_dir' is missing: folder for the run folders of all stages")

    used: set[str] = set()
    notices: list[str] = []
    plans: list[StagePlan] = []
    earlier: dict[str, Path] = {}
    for name, stage, item in items:
        try:
            spec = find_stage(str(stage.value), stages)
        except ConfigError as error:
            findings += [f"{stage.where}: {line}" for line in error.findings]
            continue
        keys = known_keys(spec, {**shared, **item, **everywhere, **own[name]})
        defaults = {key: entry for key, entry in shared.items() if key in keys and key not in item}
        general = {key: entry for key, entry in everywhere.items() if key in keys}
        used |= {*defaults, *general, *(key for key in shared if key in keys)}
        entries = {**defaults, **item, **general, **own[name]}
        if "output_dir" in entries:
            findings.append(
                f"{entries['output_dir'].where}: output_dir: stages write to the recipe's output_dir"
            )
        entries["output_dir"] = Entry(str(root / name), "")
        entries = _link(entries, earlier, [n for n, _, _ in items], findings)
        earlier[name] = root / name
        resolved = _collect(str(stage.value), entries, stages, notices, findings)
        if resolved is not None:
            plans.append(StagePlan(name, str(stage.value), spec, resolved.config, resolved.objective))
    findings += [
        f"{entry.where}: unknown key '{key}'; no stage of this recipe has it"
        for key, entry in {**shared, **everywhere}.items()
        if key not in used and not findings
    ]
    if findings:
        raise ConfigError(list(dict.fromkeys(findings)))
    return Plan(recipe.file, root, tuple(plans), True, tuple(dict.fromkeys(notices)))


def _collect(
    stage: str,
    entries: Entries,
    stages: Mapping[str, StageSpec],
    notices: list[str],
    findings: list[str],
) -> Resolved | None:
    try:
        return resolve(stage, entries, stages=stages, notice=notices.append)
    except ConfigError as error:
        findings += error.findings
        return None


def _name_items(recipe: Recipe, findings: list[str]) -> list[tuple[str, Entry, Entries]]:
    """(name, stage, remaining keys) of every item; unusable items become findings."""
    items: list[tuple[str, Entry, Entries]] = []
    for number, entries in enumerate(recipe.stages, start=1):
        item = dict(entries)
        stage = item.pop("stage", None)
        named = item.pop("name", stage)
        if stage is None or named is None:
            where = next((entry.where for entry in entries.values()), recipe.file)
            findings.append(f"{where}: item {number} of stages has no `stage:`")
            continue
        name = str(named.value)
        if not _NAME.fullmatch(name) or name == "old":
            findings.append(f"{named.where}: name: '{name}' is not usable; expected letters, digits, _ and -")
        elif name in [other for other, _, _ in items]:
            findings.append(f"{named.where}: a stage named '{name}' exists already; give this one a `name:`")
        else:
            items.append((name, stage, item))
    return items


def _split_overrides(
    overrides: Entries, names: list[str], findings: list[str]
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
            findings.append(f"{entry.where}: '{word}': no stage is named '{name}'; {_nearest(name, names)}")
    return own, everywhere


def _link(entries: Entries, earlier: Mapping[str, Path], names: list[str], findings: list[str]) -> Entries:
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
        reason = (
            f"stage '{name}' does not run before this one"
            if name in names
            else f"no stage is named '{name}'; {_nearest(name, list(earlier))}"
        )
        findings.append(f"{where}: {key}: '{value}': {reason}")
        return value

    return {key: Entry(replace(entry.value, entry.where, key), entry.where) for key, entry in entries.items()}


def _references(value: Any) -> list[str]:
    """All `@name` in a value."""
    if isinstance(value, dict):
        return [found for item in (*value, *value.values()) for found in _references(item)]
    if isinstance(value, list | tuple):
        return [found for item in value for found in _references(item)]
    return [value] if isinstance(value, str) and _REFERENCE.fullmatch(value) else []


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"one of: {', '.join(names)}" if names else "there is no earlier stage"
