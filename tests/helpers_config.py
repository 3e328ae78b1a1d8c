"""Shorthands for tests of recipes."""

from __future__ import annotations

import pytest

from alignloop.config import RecipePlan, make_plan, parse_overrides, parse_recipe
from alignloop.errors import ConfigError


def plan_of(text: str, *overrides: str, stage: str = "") -> RecipePlan:
    return make_plan(
        parse_recipe(text, file="r.yaml"), parse_overrides(overrides), stage=stage, output_dir="out"
    )


def findings(text: str, *overrides: str, stage: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_of(text, *overrides, stage=stage)
    return caught.value.findings
