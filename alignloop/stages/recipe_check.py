"""`alignloop doctor RECIPE`: a training stage's settings and data looked through without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from alignloop.config import HeldOutConfig, PreferenceConfig, PretrainConfig, SFTConfig, TrainConfig
from alignloop.config.fields import C, fixed
from alignloop.data.chat import ChatTemplate
from alignloop.data.columns import Dataset, read_records
from alignloop.data.packing import Group
from alignloop.data.tokenize import Encoder, Tokenized, attributes_of, tokenize, with_attributes
from alignloop.errors import ConfigError, DataError, UserError
from alignloop.model.load import LoadedModel, load_skeleton
from alignloop.objectives.base import Objective
from alignloop.stages.checks import agreed_template, lint_training
from alignloop.stages.common import data_order
from alignloop.stages.defaults import read_rows, read_skeleton, settled
from alignloop.stages.held_out import hold_out
from alignloop.stages.lint import Finding
from alignloop.stages.lint_settings import lint_reference, lint_schedule, lint_settings
from alignloop.stages.lint_template import lint_texts

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


@dataclass(frozen=True, slots=True)
class StageRows:
    """A stage's rows as it would read, tokenize and divide them."""

    data: Dataset
    tokenized: Tokenized
    groups: list[Group]
    held_out: list[Group]
    encoder: Encoder

    @property
    def template(self) -> ChatTemplate:
        """How the rows become text."""
        return self.encoder.template


def read_stage(config: HeldOutConfig, objective: Objective | None, loaded: LoadedModel) -> StageRows:
    """Rows of a training stage, read as the stage reads them.

    Raises:
        UserError: rows or template cannot be used, or nothing is left to train on.
    """
    template = agreed_template(loaded, config.template)
    encoder = Encoder(
        loaded.tokenizer,  # pyright: ignore[reportArgumentType]
        template,
        config.max_length,
        config.overlength,
        config.special_tokens_in_content,
    )
    turns: dict[str, Any] = {}
    if isinstance(config, SFTConfig):
        turns = {"train_on": config.train_on, "train_on_prompt": not config.completion_only}
    kind = "document" if isinstance(config, PretrainConfig) else "demonstration"
    kinds = (kind,) if objective is None else objective.records
    data = read_rows(config, kinds)
    attributes = attributes_of(data.records)
    made = tokenize(with_attributes(data.records, attributes), encoder, **turns)
    groups, held_out = hold_out(made.groups, fixed(config.eval_fraction), config.seed)
    if config.eval_dataset is not None:
        rows = read_records(config.eval_dataset, data.kind, config.columns, config.strict).records
        held_out = tokenize(with_attributes(rows, attributes), encoder, **turns).groups
    return StageRows(data, made, groups, held_out, encoder)


def find_traps(
    config: TrainConfig, objective: Objective | None, loaded: LoadedModel, rows: StageRows
) -> tuple[str, ...]:
    """What the linter says of a stage's settings and rows."""
    findings = _reference(config, loaded) + lint_texts(rows.data.records, rows.encoder)
    findings += lint_training(config, objective, loaded, rows.template, rows.groups, rows.held_out)
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
