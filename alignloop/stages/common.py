"""What the training stages share: a prepared model, tokenized data, and the fitting of one to the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from alignloop.config import (
    HeldOutConfig,
    StageConfig,
    TrainConfig,
    may_change,
    path_values,
)
from alignloop.config.fields import fixed
from alignloop.data.chat import ChatTemplate
from alignloop.data.packing import Group
from alignloop.data.template_choice import TemplateChoice
from alignloop.data.tokenize import Encoder
from alignloop.errors import RunError
from alignloop.machine import cache_dir
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.compiled import compile_layers
from alignloop.model.endings import end_turns
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.precision import Precision, spread_weights, training_precision
from alignloop.model.save import save_model
from alignloop.objectives.base import Objective
from alignloop.progress import Progress, busy
from alignloop.runs import Run, find_inputs
from alignloop.runs.continuation import refuse_other_origin
from alignloop.stages.checks import agreed_template, check_data, check_settings, check_start, tell
from alignloop.stages.held_out import measure_held_out
from alignloop.stages.stopping import stop_requests
from alignloop.stages.summaries import summary_of_steps
from alignloop.training.checkpoint import Restored, load_checkpoint, save_checkpoint
from alignloop.training.distributed import any_rank, on_first_rank, wait_for_all
from alignloop.training.loop import Reference, Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from alignloop.training.stream import GroupStream, rows_digest


@dataclass(slots=True)
class Prepared:
    """A model ready to train, and how to encode text for it."""

    loaded: LoadedModel
    model: PackedModel
    template: ChatTemplate
    peft: PeftModel | None


def inference_encoder(
    loaded: LoadedModel, chat_template: str | TemplateChoice = "tokenizer", max_length: int = 4096
) -> Encoder:
    """The encoder for answers, with the template of training; the model's turns end with that template's.

    Raises:
        ConfigError: `chat_template` differs from the template the model was trained with.
    """
    made = scoring_encoder(loaded, chat_template, max_length)
    end_turns(loaded.model, loaded.tokenizer, made.template)  # pyright: ignore[reportArgumentType]
    return made


def scoring_encoder(
    loaded: LoadedModel, chat_template: str | TemplateChoice = "tokenizer", max_length: int = 4096
) -> Encoder:
    """The encoder of a model that scores, such as an adapter on a policy's base; its ends stay as they are.

    Raises:
        ConfigError: `chat_template` differs from the template the model was trained with.
    """
    template, choice = agreed_template(loaded, chat_template), TemplateChoice.of(chat_template)
    return Encoder(loaded.tokenizer, template, max_length, "truncate", choice.special_tokens)  # pyright: ignore[reportArgumentType]


def set_threads(num_threads: int) -> None:
    """Use this many CPU threads; 0 leaves the choice to PyTorch."""
    if num_threads:
        torch.set_num_threads(num_threads)


def prepare(config: TrainConfig, *, num_outputs: int = 0, freeze_base: bool = False) -> Prepared:
    """Load the model for training, with LoRA and a scalar head where asked for.

    The types are those of `base_precision`.
    """
    with busy(f"preparing {config.model_name_or_path}"):
        return _prepared(config, num_outputs, freeze_base)


def _prepared(config: TrainConfig, num_outputs: int, freeze_base: bool) -> Prepared:
    check_settings(config)
    set_threads(config.num_threads)
    torch.manual_seed(config.seed)
    loaded = load_trained(config, config.model_name_or_path, grow=config.adds_embeddings)
    template = agreed_template(loaded, config.template)
    end_turns(loaded.model, loaded.tokenizer, template)
    if config.gradient_checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name is not in every supported version
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    head = None
    if num_outputs:
        size = loaded.model.config.get_text_config().hidden_size
        head = ScalarHead(size, num_outputs, seed=config.seed).to(loaded.model.device)
    model = PackedModel(loaded.model, head=head, autocast=base_precision(config).autocast)
    peft = None
    settings = lora_settings(config)
    if settings is not None:
        peft = add_adapter(loaded.model, settings, seed=config.seed)
    elif freeze_base:
        loaded.model.requires_grad_(False)
    if config.torch_compile:
        compile_layers(loaded.model)
    return Prepared(loaded, model, template, peft)


def load_trained(config: TrainConfig, source: str, *, grow: bool = False) -> LoadedModel:
    """A model that the stage trains, in the types of `base_precision`."""
    kind = base_precision(config)
    loaded = load_model(source, dtype=kind.weights_name, device=config.device, seed=config.seed, grow=grow)
    if kind.rounds_what_trains:
        spread_weights(loaded.model)
    return loaded


def lora_settings(config: TrainConfig) -> LoraSettings | None:
    """The recipe's adapters, None if all weights train."""
    if not config.lora_r:
        return None
    return LoraSettings(config.lora_r, config.lora_alpha, config.lora_dropout, config.lora_target_modules)


def base_precision(config: TrainConfig) -> Precision:
    """The types of the recipe's model, which its reference, critic and reward models on it share."""
    return training_precision(config.dtype, config.device, weights_train=config.trains_base)


def fit(
    config: TrainConfig,
    objective: Objective,
    run: Run,
    prepared: Prepared,
    groups: Sequence[Group],
    *,
    held_out: Sequence[Group] = (),
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Train on groups with checkpoints, logs and a progress bar; resumes from the run's last checkpoint.

    Returns:
        Means of the last tenth of the logged steps, and `eval_*` of the held-out groups after the last
        step with number and intervals; read from metrics.jsonl, so they do not depend on where a run stopped.

    Raises:
        KeyboardInterrupt: after a checkpoint was written.
    """
    stream = data_order(config, groups)
    trainer = _trainer(config, prepared, stream.num_steps, reference)
    parts: dict[str, Any] = {
        "modules": {"model": prepared.model},
        "optimizers": {"model": trainer.optimizer},
    }
    trained_on = {"origin": run.origin, "rows": rows_digest(groups)}
    restored = load_checkpoint(run.checkpoints, **parts)
    if restored is not None:
        check_origin(run, restored, trained_on, stream.num_steps)
        trainer.step = restored.step
        for skipped in restored.skipped:
            tell(run, f"damaged checkpoint passed over: {skipped}")
    steps = {"num_steps": stream.num_steps, "done": trainer.step}
    with busy("checking the model and the first rows"):
        check_start(config, objective, run, prepared.model, groups, **steps, reference=reference)
    every = config.eval_steps if isinstance(config, HeldOutConfig) else 0
    run.rewind(trainer.step)  # an attempt that was killed may have written more than it saved
    with (
        stop_requests() as stop,
        Progress(stream.num_steps, description=run.stage, start=trainer.step) as progress,
    ):
        while trainer.step < stream.num_steps:
            report = train_step(trainer, objective, stream.step_groups(trainer.step))
            metrics = {**report.metrics, "epoch": stream.epoch(trainer.step)}
            last = trainer.step == stream.num_steps
            if held_out and (last or (every and trainer.step % every == 0)):
                with progress.doing(f"evaluating {len(held_out)} held-out rows"):
                    metrics |= measure_held_out(trainer, objective, held_out, config.seed)
            if last or trainer.step % config.logging_steps == 0:
                run.log(trainer.step, **metrics)
            progress.update(trainer.step, **metrics)
            due = config.save_steps and trainer.step % config.save_steps == 0 and not last
            stopped = any_rank(stop.is_set())
            if due or stopped:
                more = {"state": trained_on, "keep": config.save_total_limit}
                save_checkpoint(run.checkpoints, step=trainer.step, **more, **parts)
            if stopped:
                raise KeyboardInterrupt
    return summary_of_steps(list(run.metrics()), stream.num_steps, held_out_rows=len(held_out))


def check_origin(run: Run, restored: Restored, wanted: Mapping[str, Any], num_steps: int) -> None:
    """Refuse a checkpoint that was trained with other settings or on other rows than the run's own.

    Args:
        run: the run that goes on.
        restored: the checkpoint; one without an origin was written by an earlier version.
        wanted: {"origin", "rows"} of the run.
        num_steps: optimizer steps of the run.

    Raises:
        RunError: naming what differs, or that the run would have ended before this step.
    """

    def check() -> None:
        name = f"{run.checkpoints}/step-{restored.step:08d}"
        refuse_other_origin(name, restored.state, wanted, run.may_change)
        if restored.step > num_steps:
            raise RunError(
                f"{name} has made {restored.step} steps already and the recipe asks for {num_steps}; raise "
                "max_steps or num_train_epochs, or go on from an earlier checkpoint"
            )

    on_first_rank(check)


def check_rows(
    config: TrainConfig,
    objective: Objective,
    run: Run,
    prepared: Prepared,
    groups: Sequence[Group],
    held_out: Sequence[Group] = (),
) -> None:
    """Look for silent traps in the tokenized rows; see `checks.check_data`."""
    with busy("looking for traps in the rows"):
        check_data(config, objective, run, prepared.loaded, prepared.template, groups, held_out)


def _trainer(config: TrainConfig, prepared: Prepared, num_steps: int, reference: Reference | None) -> Trainer:
    """A trainer at step 0 with the recipe's optimizer."""
    settings = optimizer_settings(config, num_steps)
    return Trainer(
        prepared.model,
        build_optimizer(prepared.model.parameters(), settings),
        settings,
        num_steps,
        token_budget=config.tokens_per_pass(prepared.model.device.type),
        unsplit=config.tokens_unsplit(prepared.model.device.type),
        reference=reference,
    )


def data_order(config: TrainConfig, groups: Sequence[Group]) -> GroupStream:
    """The recipe's epochs over the groups."""
    per_step = fixed(config.per_device_train_batch_size) * config.gradient_accumulation_steps
    return GroupStream(
        groups, per_step, config.num_train_epochs, config.max_steps, config.seed, config.shuffle
    )


def optimizer_settings(config: TrainConfig, num_steps: int) -> OptimizerSettings:
    """The recipe's optimizer keys; warm-up as steps."""
    return OptimizerSettings(
        learning_rate=fixed(config.learning_rate),
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps or round(config.warmup_ratio * num_steps),
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
    )


def save_policy(prepared: Prepared, folder: Path) -> None:
    """The trained model as a plain folder: the adapter under LoRA, else all weights; plus its template.

    Of several ranks, which all call it, the first one writes.
    """
    if prepared.model.shared_prefix:
        prepared.model.restore_attention()
    model = prepared.loaded.model if prepared.peft is None else prepared.peft
    with busy("saving the model"):
        on_first_rank(
            lambda: save_model(model, prepared.loaded.tokenizer, folder, extra=prepared.template.save)
        )


@contextmanager
def part_of(folder: Path, *, stage: str, config: StageConfig, name: str = "") -> Iterator[Run]:
    """A run of its own within a stage's run, such as a round; taken up if it was begun before.

    When it ends it is complete for every rank.
    """
    keys = config.model_dump(mode="json")
    inputs, parents = find_inputs(path_values(config), within=folder)
    with Run.create(
        folder,
        stage=stage,
        config=keys,
        seed=config.seed,
        inputs=inputs,
        parents=parents,
        name=name,
        may_change=may_change(type(config)),
    ) as part:
        yield part
    wait_for_all()


def reference_cache() -> Path:
    """Where reference log-probs are cached."""
    return cache_dir() / "reference"
