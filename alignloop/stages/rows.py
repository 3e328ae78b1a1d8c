"""Rows of a training stage, read, tokenized and divided: for the stage itself, its dry run and `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from alignloop.config import HeldOutConfig, SFTConfig, TrainConfig
from alignloop.config.fields import fixed
from alignloop.data.chat import ChatTemplate
from alignloop.data.columns import Dataset, read_records
from alignloop.data.packing import Group
from alignloop.data.tokenize import Encoder, Tokenized, attributes_of, tokenize, with_attributes
from alignloop.model.load import LoadedModel
from alignloop.objectives.base import Objective
from alignloop.progress import busy
from alignloop.runs import Run
from alignloop.stages.checks import tell, tell_notes
from alignloop.stages.defaults import counted_records
from alignloop.stages.held_out import hold_out
from alignloop.stages.lint import enforce
from alignloop.stages.lint_template import lint_texts


class Records(NamedTuple):
    """Records of a stage: to train on, and to hold out where the recipe names some.

    `attributes`: what ratings score, the outputs of a reward model's head in this order.
    """

    data: Dataset
    held: Dataset | None
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageRows:
    """Tokenized rows of a stage, to train on and held out, and what they were made of."""

    data: Dataset
    tokenized: Tokenized
    groups: list[Group]
    held_out: list[Group]
    encoder: Encoder


def kinds_of(config: TrainConfig, objective: Objective | None) -> tuple[str, ...]:
    """Kinds of records that a stage trains on, of which a data set has one."""
    return objective.records if objective is not None else config.kinds or ()


def read_rows(config: HeldOutConfig, objective: Objective | None = None, run: Run | None = None) -> Records:
    """Training and held-out records.

    Args:
        config: the recipe.
        objective: its loss, None for supervised stages.
        run: told of dropped rows and of what was not read; None tells nobody.

    Returns:
        The records; ratings score all attributes of the training data.

    Raises:
        DataError: rows that are unusable, or of another kind.
    """
    with busy("reading the data set"):
        data = counted_records(config, kinds_of(config, objective))
    held = None
    if config.eval_dataset is not None:
        with busy("reading the held-out rows"):
            held = read_records(config.eval_dataset, data.kind, config.columns, config.strict)
    if run is not None:
        for name, one in (("dataset", data), ("eval_dataset", held)):
            if one is not None:
                run.set_rows(name, len(one.records))
        note_dropped(run, "dataset", data.dropped)
        tell_notes(run, "dataset", data.notes)
    attributes = attributes_of(data.records)
    if attributes:
        data = replace(data, records=with_attributes(data.records, attributes))
        held = held and replace(held, records=with_attributes(held.records, attributes))
    return Records(data, held, attributes)


def training_encoder(config: TrainConfig, loaded: LoadedModel, template: ChatTemplate) -> Encoder:
    """The encoder a training stage uses."""
    return Encoder(
        loaded.tokenizer,  # pyright: ignore[reportArgumentType]
        template,
        config.max_length,
        config.overlength,
        config.special_tokens_in_content,
    )


def tokenized_rows(
    config: HeldOutConfig,
    records: Records,
    encoder: Encoder,
    run: Run | None = None,
    *,
    split_seed: int | None = None,
) -> StageRows:
    """Tokenize the records and hold out a share of their prompts, unless the recipe names rows to hold out.

    Args:
        config: the recipe.
        records: as `read_rows` gives them.
        encoder: of the model and its template.
        run: told of dropped and shortened rows, and stopped by traps in the texts; None tells nobody.
        split_seed: chooses the held-out prompts, the recipe's seed if None.

    Returns:
        The rows.

    Raises:
        ConfigError: the texts hold a trap that makes the training worthless.
        DataError: nothing is left to train on.
    """
    turns: dict[str, Any] = {}
    if isinstance(config, SFTConfig):
        turns = {"train_on": config.train_on, "train_on_prompt": not config.completion_only}
    made = tokenized(config, records.data, encoder, run, **turns)
    seed = config.seed if split_seed is None else split_seed
    groups, held_out = hold_out(made.groups, fixed(config.eval_fraction), seed)
    if records.held is not None:
        held_out = tokenized(config, records.held, encoder, run, **turns).groups
    return StageRows(records.data, made, groups, held_out, encoder)


def arranged(rows: StageRows, objective: Objective, seed: int) -> tuple[list[Group], list[Group]]:
    """Rows to train on and held-out rows as the objective reads them; none where too few are held out."""
    enough = len(rows.held_out) >= objective.fewest_rows
    held_out = objective.arranged(rows.held_out, seed) if enough else []
    return objective.arranged(rows.groups, seed), held_out


def tokenized(
    config: TrainConfig, data: Dataset, encoder: Encoder, run: Run | None = None, **turns: Any
) -> Tokenized:
    """Tokenize one data set; see `tokenized_rows`, and `tokenize` for what `turns` may hold."""
    with busy(f"tokenizing {len(data.records)} rows"):
        result = tokenize(data.records, encoder, **turns)
        findings = lint_texts(data.records, encoder) if run is not None else []
    if run is None:
        return result
    enforce(findings, partial(tell, run))
    note_dropped(run, "tokenization", result.dropped)
    for what, count in result.left_out.items():
        if what == "thoughts" and encoder.template.found.closes:
            continue  # the linter tells of these
        tell(run, f"{count} rows hold {what}, which chat template '{encoder.template.name}' does not render")
    if result.truncated:
        tell(run, f"{result.truncated} rows were shortened to max_length={config.max_length}")
    return result


def note_dropped(run: Run, name: str, dropped: Sequence[Exception]) -> None:
    """Say in the run how many rows were dropped, and the first of them."""
    if dropped:
        tell(run, f"{name}: {len(dropped)} rows dropped; first: {dropped[0]}")
