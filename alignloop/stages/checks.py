"""When the linter looks: at settings first, at tokenized data next, at the loaded model last.

Errors stop a stage before its first step, warnings are told; docs/lint.md explains every code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from alignloop.config import RewardConfig, StageConfig, TrainConfig
from alignloop.data.chat import FILE as TEMPLATE_FILE
from alignloop.data.chat import ChatTemplate, check_same, load_saved, load_template
from alignloop.data.packing import Group
from alignloop.data.template_choice import TemplateChoice
from alignloop.errors import ConfigError, ModelError
from alignloop.machine import process_rank
from alignloop.model.load import LoadedModel
from alignloop.model.packed import PackedModel
from alignloop.model.positions import max_positions
from alignloop.objectives.base import Objective
from alignloop.runs import Run
from alignloop.stages.lint import Finding, enforce, lint_boundary, lint_groups, special_tokens
from alignloop.stages.lint_ends import lint_end, lint_untrained_end
from alignloop.stages.lint_model import lint_head, lint_reference_values, lint_weights
from alignloop.stages.lint_settings import lint_data_settings, lint_schedule, lint_settings
from alignloop.stages.lint_template import lint_template
from alignloop.training.loop import Reference


def tell(run: Run, text: str) -> None:
    """A warning for the run's record and for the person at the terminal, once."""
    if text in run.record["warnings"]:
        return
    run.warn(text)
    if process_rank() == 0:
        print(f"warning: {text}", file=sys.stderr)


def tell_notes(run: Run, name: str, notes: Sequence[str]) -> None:
    """What was not read of a data set; columns are proposed as the recipe's key `columns` takes them.

    `alignloop data check` has an option in its place: `--column chosen=good` is `columns={chosen: good}`.
    """
    for note in notes:
        tell(run, f"{name}: {_COLUMN.sub(_as_key, note)}")


_COLUMN = re.compile(r"--column (?:'([^'=]+)=([^']+)'|([^\s=]+)=([^\s)]+))")


def _as_key(found: re.Match[str]) -> str:
    field, column = (part for part in found.groups() if part)
    return f"columns={{{field}: {column}}}"


def check_settings(config: StageConfig, objective: Objective | None = None) -> None:
    """Stop at once for what a recipe shows by itself, before anything is read or computed.

    Raises:
        ConfigError: settings that make the stage worthless.
    """
    found = lint_settings(config, objective)
    enforce([finding for finding in found if finding.severity == "error"], str)


def check_data(
    config: TrainConfig,
    objective: Objective,
    run: Run,
    loaded: LoadedModel,
    template: ChatTemplate,
    groups: Sequence[Group],
    held_out: Sequence[Group] = (),
) -> None:
    """Look at settings and tokenized rows together, before reference log-probs are computed.

    Raises:
        ConfigError: a trap that makes the training worthless.
    """
    findings = lint_training(config, objective, loaded, template, groups, held_out)
    findings += lint_untrained_end(loaded, template, lora=config.lora_r > 0)
    enforce(findings, partial(tell, run))


def lint_training(
    config: TrainConfig,
    objective: Objective | None,
    loaded: LoadedModel,
    template: ChatTemplate,
    groups: Sequence[Group],
    held_out: Sequence[Group] = (),
) -> list[Finding]:
    """Everything that settings, tokenizer and tokenized rows show; the model may be without values."""
    tokenizer: Any = loaded.tokenizer
    size = sum(p.numel() for p in loaded.model.parameters())
    return [
        *lint_settings(config, objective, num_parameters=size),
        *lint_template(template),
        *lint_groups(groups, special_tokens(tokenizer, template.end), held_out=held_out),
        *lint_boundary(groups, tokenizer),
        *lint_end(loaded, template),
        *lint_data_settings(config, objective, groups, num_positions=max_positions(loaded.model.config)),
    ]


def check_start(
    config: TrainConfig,
    objective: Objective,
    run: Run,
    model: PackedModel,
    groups: Sequence[Group],
    *,
    num_steps: int,
    done: int,
    reference: Reference | None,
) -> None:
    """Look at the model and the schedule right before the first step, or where a run goes on.

    Raises:
        ConfigError: a trap that makes the training worthless.
    """
    size = sum(p.numel() for p in model.hf.parameters())
    findings = lint_schedule(config, num_steps, done=done, objective=objective, num_parameters=size)
    findings += lint_weights(model)
    if not done and model.head is not None and isinstance(config, RewardConfig):
        findings += lint_head(model.head, config.seed_of_head)
    own = getattr(config, "reference", "auto") in ("auto", "start")
    if not findings and own and "reference_logprobs" in objective.needs and (not done or reference):
        findings += lint_reference_values(model, groups, reference)
    enforce(findings, partial(tell, run))


def check_online(
    config: TrainConfig,
    objective: Objective,
    run: Run,
    model: PackedModel,
    loaded: LoadedModel,
    template: ChatTemplate,
) -> None:
    """Look at the settings and the weights of a stage that learns from its own samples.

    Raises:
        ConfigError: a trap that makes the training worthless.
    """
    size = sum(p.numel() for p in model.parameters())
    findings = lint_settings(config, objective, num_parameters=size) + lint_weights(model)
    findings += lint_end(loaded, template)
    findings += lint_untrained_end(loaded, template, lora=config.lora_r > 0)
    enforce(findings, partial(tell, run))


def saved_template(loaded: LoadedModel) -> ChatTemplate | None:
    """The template a model was trained with here, None for a model from elsewhere."""
    folder = loaded.path
    return load_saved(folder) if folder is not None and (folder / TEMPLATE_FILE).is_file() else None


def agreed_template(loaded: LoadedModel, choice: str | TemplateChoice = "tokenizer") -> ChatTemplate:
    """The template to use with a model: the one it was trained with, which another may not replace.

    Args:
        loaded: the model.
        choice: what the recipe asks for; `tokenizer` takes the model's, with the arguments of training.

    Returns:
        The template, the same at inference as in training.

    Raises:
        ConfigError: AL209, another template or other arguments than the model was trained with.
    """
    choice, saved = TemplateChoice.of(choice), saved_template(loaded)
    if saved is None:
        return load_template(choice.name, loaded.tokenizer, choice.kwargs)
    if choice.name != "tokenizer" or choice.kwargs:
        # What is not asked for is as in training, the date too.
        asked = saved.with_kwargs(choice.kwargs)
        if choice.name != "tokenizer":
            asked = load_template(choice.name, loaded.tokenizer, {**saved.kwargs, **choice.kwargs})
        try:
            check_same(saved, asked)
        except ModelError as error:
            fix = "leave chat_template out, which takes the model's"
            raise ConfigError(str(Finding("AL209", "error", str(error), fix))) from error
    return saved
