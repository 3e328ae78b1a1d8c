"""`alignloop doctor`: can AlignLoop work on this machine; `doctor RECIPE`: is this recipe right."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alignloop.errors import ModelError, UserError

if TYPE_CHECKING:
    from alignloop.config import StagePlan

app = typer.Typer(add_completion=False)

_PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "pydantic", "SQLAlchemy")
_LOW_DISK_GB = 5.0
_LOW_MEMORY_GB = 4.0


@app.command()
def doctor(
    recipe: str = typer.Argument("", help="Check this recipe instead of the machine."),
    overrides: list[str] = typer.Argument(None, metavar="[KEY=VALUE]..."),
    as_json: bool = typer.Option(False, "--json", help="JSON instead of text."),
) -> None:
    """Check this machine, or a recipe with its data before anything is trained."""
    if recipe:
        check_recipe(recipe, overrides or [], as_json=as_json)
        return
    facts = machine_facts()
    problems = find_problems(facts)
    if as_json:
        print(json.dumps({**facts, "problems": problems}, ensure_ascii=False, indent=2))
    else:
        for name, value in facts.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name:16} {_in_words(shown)}")
        for problem in problems:
            print(f"problem: {problem}")
        if not problems:
            print("no problems found")
    if problems:
        raise typer.Exit(2)


def machine_facts() -> dict[str, Any]:
    """Versions, processor, memory, accelerator, disk and cache, as plain values."""
    import torch

    import alignloop
    from alignloop.machine import bf16_instructions, cache_dir, cpu_name
    from alignloop.runs.environment import memory_bytes, num_cores, os_name, version_of

    cache = cache_dir()
    disk = shutil.disk_usage(_existing(Path.cwd()))
    return {
        "alignloop": alignloop.__version__,
        "python": sys.version.split()[0],
        "os": os_name(),
        "packages": {name: version_of(name) or "missing" for name in _PACKAGES},
        "cpu": cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": bf16_instructions(),
        "bf16_usable": bool(bf16_instructions()) or torch.cuda.is_available(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "gpus": [
            f"{torch.cuda.get_device_name(i)} {torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB"
            for i in range(torch.cuda.device_count())
        ],
        "cuda": torch.version.cuda or "",
        "disk_free_gb": round(disk.free / 1e9, 1),
        "cache": str(cache),
        "cache_writable": os.access(_existing(cache), os.W_OK),
        "offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
    }


def find_problems(facts: dict[str, Any]) -> list[str]:
    """What stands in the way of working here, one sentence each."""
    problems = [
        f"package {name} is not installed"
        for name, version in facts["packages"].items()
        if version == "missing"
    ]
    if facts["disk_free_gb"] < _LOW_DISK_GB:
        problems.append(
            f"only {facts['disk_free_gb']} GB of disk are free here; a checkpoint needs up to 2 GB"
        )
    if facts["memory_gb"] < _LOW_MEMORY_GB:
        problems.append(f"only {facts['memory_gb']} GB of memory; use lora_r and a small token_budget")
    if not facts["cache_writable"]:
        problems.append(f"{facts['cache']} cannot be written; set ALIGNLOOP_CACHE to a folder that can")
    return problems


def check_recipe(recipe: str, overrides: list[str], *, as_json: bool) -> None:
    """Resolve a recipe and run the linters of its stages; exit code 2 where something is found."""
    from alignloop.cli.running import paths_made_here
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe
    from alignloop.pipeline import load_function

    findings: list[str] = []
    names: list[str] = []
    try:
        file = find_recipe(recipe)
        plan = make_plan(load_recipe(file), parse_overrides(overrides), output_dir=f"runs/{file.stem}")
        for stage in plan.stages:
            names.append(stage.name)
            waiting = paths_made_here(stage, plan)
            findings += cannot_sample(stage, waiting)
            if stage.spec.lint:
                said = load_function(stage.spec.lint)(stage.config, stage.objective, read=not waiting)
                findings += [f"{stage.name}: {sentence}" for sentence in said]
    except UserError as error:
        findings += str(error).splitlines()
    if as_json:
        print(json.dumps({"stages": names, "findings": findings}, ensure_ascii=False, indent=2))
    else:
        for finding in findings:
            print(finding)
        if not findings:
            print(f"{recipe}: no problems found ({', '.join(names)})")
    if findings:
        raise typer.Exit(2)


def cannot_sample(stage: StagePlan, waiting: list[str]) -> list[str]:
    """A sentence on a model that the stage samples from and the engine cannot generate from, or none."""
    from alignloop.stages.writers import check_writers

    try:
        check_writers(stage.config, waiting=waiting)
    except ModelError as error:
        return [f"{stage.name}: {error}"]
    return []


def _existing(path: Path) -> Path:
    """The path, or its nearest ancestor that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value) if value != "" else "none"
