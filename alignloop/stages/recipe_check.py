"""`alignloop doctor RECIPE`: a training stage's settings and data looked through without training."""

from __future__ import annotations

from alignloop.config import PreferenceConfig, PretrainConfig, TrainConfig
from alignloop.data.chat import FILE as TEMPLATE_FILE
from alignloop.data.chat import ChatTemplate, check_same, load_saved, load_template
from alignloop.data.columns import Dataset, read_records
from alignloop.data.packing import Group
from alignloop.data.tokenize import Encoder, Tokenized, tokenize
from alignloop.errors import DataError, ModelError
from alignloop.model.load import LoadedModel, load_skeleton
from alignloop.objectives.base import Objective
from alignloop.objectives.sft import SFT
from alignloop.stages.common import data_order, hold_out
from alignloop.stages.lint import Finding, lint_boundary, lint_groups, special_tokens
from alignloop.stages.lint_settings import lint_reference, lint_schedule, lint_settings

_BUILT_IN_REFERENCES = ("auto", "none", "start")


def lint_recipe(config: TrainConfig, objective: Objective | None, *, read: bool = True) -> list[str]:
    """Every trap that can be found before a training, as sentences.

    Args:
        config: a stage that trains on rows of a file.
        objective: its loss, None for supervised stages.
        read: False looks at the settings alone, because data or model are made by an earlier stage.

    Returns:
        One sentence for each finding, with its code, severity and fix.

    Raises:
        UserError: the data, model or template cannot be read.
    """
    if not read:
        return [str(finding) for finding in lint_settings(config, objective)]
    loaded = load_skeleton(config.model_name_or_path)
    size = sum(p.numel() for p in loaded.model.parameters())
    findings = lint_settings(config, objective, num_parameters=size)
    template, wrong = stage_template(config, loaded)
    findings += wrong + _reference(config, loaded)
    try:
        groups, held_out = stage_groups(config, objective, loaded, template)
    except DataError as error:
        return [*(str(finding) for finding in findings), str(error)]
    tokenizer = loaded.tokenizer
    findings += lint_groups(groups, special_tokens(tokenizer, template.end), held_out=held_out)  # pyright: ignore[reportArgumentType]
    findings += lint_boundary(groups, tokenizer)  # pyright: ignore[reportArgumentType]
    findings += lint_schedule(config, data_order(config, groups).num_steps)
    return [str(finding) for finding in findings]


def stage_template(config: TrainConfig, loaded: LoadedModel) -> tuple[ChatTemplate, list[Finding]]:
    """The template the stage would use, and a finding if the model was trained with another."""
    template = load_template(config.chat_template, loaded.tokenizer)
    if loaded.path is None or not (loaded.path / TEMPLATE_FILE).is_file():
        return template, []
    saved = load_saved(loaded.path)
    if config.chat_template == "tokenizer":
        return saved, []
    try:
        check_same(saved, template)
    except ModelError as error:
        fix = "leave chat_template out, which takes the model's"
        return template, [Finding("AL209", "error", str(error), fix)]
    return template, []


def stage_tokenized(
    config: TrainConfig, objective: Objective | None, loaded: LoadedModel, template: ChatTemplate
) -> tuple[Dataset, Tokenized]:
    """The stage's training rows, read and tokenized."""
    kind = _kind(config, objective)
    data = read_records(config.dataset, kind, config.columns, config.strict)
    return data, tokenize(data.records, _encoder(config, loaded, template))


def stage_groups(
    config: TrainConfig, objective: Objective | None, loaded: LoadedModel, template: ChatTemplate
) -> tuple[list[Group], list[Group]]:
    """Training and held-out groups as the stage would make them."""
    _, made = stage_tokenized(config, objective, loaded, template)
    groups, held_out = hold_out(made.groups, config.eval_fraction, config.seed)
    if config.eval_dataset is not None:
        kind = _kind(config, objective)
        rows = read_records(config.eval_dataset, kind, config.columns, config.strict).records
        held_out = tokenize(rows, _encoder(config, loaded, template)).groups
    return groups, held_out


def _kind(config: TrainConfig, objective: Objective | None) -> str:
    if objective is None:
        return "document" if isinstance(config, PretrainConfig) else SFT.records[0]
    return objective.records[0]


def _encoder(config: TrainConfig, loaded: LoadedModel, template: ChatTemplate) -> Encoder:
    return Encoder(loaded.tokenizer, template, config.max_length, config.overlength)  # pyright: ignore[reportArgumentType]


def _reference(config: TrainConfig, loaded: LoadedModel) -> list[Finding]:
    if not isinstance(config, PreferenceConfig) or config.reference in _BUILT_IN_REFERENCES:
        return []
    other = load_skeleton(config.reference)
    mine = (loaded.model.config, loaded.tokenizer)
    return lint_reference(mine, (other.model.config, other.tokenizer), name=config.reference)
