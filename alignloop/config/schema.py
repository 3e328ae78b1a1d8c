"""Keys of a stage as JSON schema, as a Markdown table and as a commented recipe to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from alignloop.config.checking import describe_schema
from alignloop.config.registry import STAGES, StageSpec, find_stage, stage_names
from alignloop.config.resolve import fields_model, objective_name


def stage_schema(stage: str, stages: Mapping[str, StageSpec] = STAGES) -> dict[str, Any]:
    """JSON schema of a stage's flat recipe, its objective's keys included.

    Args:
        stage: name of a stage or preference objective.
        stages: table of stages to look in.

    Returns:
        The schema; a field that is a path has `format: path`.

    Raises:
        ConfigError: no such stage.
    """
    spec = find_stage(stage, stages)
    schema = spec.config.model_json_schema()
    # has a default (runs/STAGE), but a recipe that names its folder is the better one
    schema["required"] = ["output_dir", *schema.get("required", [])]
    name = objective_name(spec, {})
    if name:
        loss = fields_model(name, spec.preset).model_json_schema()
        schema["properties"] |= loss["properties"]
        schema["$defs"] = {**schema.get("$defs", {}), **loss.get("$defs", {})}
        schema["required"] += loss.get("required", [])
    schema["title"] = stage
    return schema


def all_schemas(stages: Mapping[str, StageSpec] = STAGES) -> dict[str, Any]:
    """JSON schema of every stage by name."""
    return {name: stage_schema(name, stages) for name in stage_names(stages)}


def markdown_table(stage: str, stages: Mapping[str, StageSpec] = STAGES) -> str:
    """A table of the keys for the documentation: key, what it accepts, default, meaning."""
    schema = stage_schema(stage, stages)
    lines = ["| key | accepts | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        required = key in schema.get("required", [])
        default = "required" if required else f"`{json.dumps(field['default'], ensure_ascii=False)}`"
        cells = (f"`{key}`", describe_schema(field, schema.get("$defs", {})), default, field["description"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def starter_recipe(stage: str, stages: Mapping[str, StageSpec] = STAGES) -> str:
    """A recipe with every key: required ones to be filled in, the others commented at their default."""
    schema = stage_schema(stage, stages)
    required = schema.get("required", [])
    lines = [f"# {schema['description'].splitlines()[0]}", f"stage: {stage}"]
    for key in sorted(schema["properties"], key=lambda name: name not in required):
        field = schema["properties"][key]
        lines.append(f"\n# {field['description']}")
        if key in required:
            lines.append(f"{key}: {_PLACEHOLDERS.get(key, 'FILL-IN')}")
        else:
            lines.append(f"# {_line(key, field['default'])}")
    return "\n".join(lines) + "\n"


_PLACEHOLDERS = {"output_dir": "runs/my-run", "dataset": "rows.jsonl"}


def _line(key: str, value: Any) -> str:
    text = yaml.safe_dump(
        {key: value}, default_flow_style=True, allow_unicode=True, width=1000, sort_keys=False
    )
    return text.strip()[1:-1]
