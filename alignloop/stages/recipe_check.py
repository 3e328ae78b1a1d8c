"""`alignloop doctor RECIPE`: a training stage's settings and data looked through without training."""

from __future__ import annotations

from typing import cast

from alignloop.config import (
    HeldOutConfig,
    PreferenceConfig,
    TrainConfig,
)
from alignloop.config.fields import C
from alignloop.errors import ConfigError, DataError, UserError
from alignloop.model.load import LoadedModel, load_skeleton
from alignloop.objectives.base import Objective
from alignloop.stages.checks import agreed_template, lint_training
from alignloop.stages.common import data_order
from alignloop.stages.defaults import read_skeleton, settled
from alignloop.stages.lint import Finding
from alignloop.stages.lint_settings import lint_reference, lint_schedule, lint_settings
from alignloop.stages.lint_template import lint_texts
from alignloop.stages.rows import StageRows, read_rows, tokenized_rows, training_encoder

_BUILT_IN_REFERENCES = ("auto", "none", "start")


def lint_recipe(config: TrainConfig, objective: Objective | None, *, read: bool = True) -> list[str]:
    """Every trap that can be found before a training, as sentences.

    Args:
        config: a stage that trains on rows of a file, or on answers to a file's prompts.
        objective: its loss, None for supervised stages.
        read: False looks at the settings alone, because data or model are made by an earlier stage.

    Returns:
        One sentence for each finding, with its code, severity and fix.

    Raises:
        UserError: the data or the model cannot be read.
    """
    if not read:
        return [str(finding) for finding in lint_settings(config, objective)]
    config = numbers(config, objective)
    loaded = read_skeleton(config)
    if not isinstance(config, HeldOutConfig):  # the rows are sampled
        try:
            agreed_template(loaded, config.template)
        except ConfigError as error:
            return error.findings
        size = sum(p.numel() for p in loaded.model.parameters())
        return [str(finding) for finding in lint_settings(config, objective, num_parameters=size)]
    try:
        rows = read_stage(config, objective, loaded)
    except ConfigError as error:
        return error.findings
    except DataError as error:
        return [*(str(finding) for finding in lint_settings(config, objective)), str(error)]
    return list(find_traps(config, objective, loaded, rows))


def numbers(config: C, objective: Objective | None) -> C:
    """The configuration with numbers in the place of `auto`; unchanged where it cannot be read, of which
    whoever reads next tells."""
    try:
        return cast(C, settled(config, objective).config)
    except UserError:
        return config


def read_stage(config: HeldOutConfig, objective: Objective | None, loaded: LoadedModel) -> StageRows:
    """Rows of a training stage, read as the stage reads them.

    Raises:
        UserError: rows or template cannot be used, or nothing is left to train on.
    """
    encoder = training_encoder(config, loaded, agreed_template(loaded, config.template))
    return tokenized_rows(config, read_rows(config, objective), encoder)


def find_traps(
    config: TrainConfig, objective: Objective | None, loaded: LoadedModel, rows: StageRows
) -> tuple[str, ...]:
    """What the linter says of a stage's settings and rows."""
    findings = _reference(config, loaded) + lint_texts(rows.data.records, rows.encoder)
    findings += lint_training(config, objective, loaded, rows.encoder.template, rows.groups, rows.held_out)
    size = sum(p.numel() for p in loaded.model.parameters())
    findings += lint_schedule(
        config, data_order(config, rows.groups).num_steps, objective=objective, num_parameters=size
    )
    return tuple(str(finding) for finding in findings)


def _reference(config: TrainConfig, loaded: LoadedModel) -> list[Finding]:
    if not isinstance(config, PreferenceConfig) or config.reference in _BUILT_IN_REFERENCES:
        return []
    other = load_skeleton(config.reference)
    mine = (loaded.model.config, loaded.tokenizer)
    return lint_reference(mine, (other.model.config, other.tokenizer), name=config.reference)
