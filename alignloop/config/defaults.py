"""What data and model decide where a recipe says `auto`: share held out, batch, learning rate. Pure functions.

| key | auto |
|---|---|
| `eval_fraction` | 0.1, fewer of more than 5 000 rows (500 rows suffice for an interval of ± 4 points); 0 with an `eval_dataset` or fewer than 20 prompts |
| `per_device_train_batch_size` | the largest power of two from 4 (KTO: 8) to 64 with which the rows that are left make 60 steps, over `gradient_accumulation_steps` |
| `learning_rate` | `RATES` by method, size of the model and LoRA |

Rows count before those that are longer than `max_length` are dropped. A value in the recipe, on the
command line or in a call always wins. `stages.defaults` counts rows and parameters
and says what was decided; the numbers stand in the run's recipe.yaml, the reasons in its run.json.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from alignloop.config.fields import AUTO, fixed
from alignloop.config.sections import HeldOutConfig, TrainConfig
from alignloop.objectives import registry as objectives

STEPS = 60
"""Fewest optimizer steps that a batch is chosen for, and what the warning AL213 measures a run against."""
HELD_OUT_SHARE, HELD_OUT_ROWS, FEWEST_PROMPTS = 0.1, 500, 20
SMALLEST_BATCH, LARGEST_BATCH = 4, 64


class Rate(NamedTuple):
    """Learning rates of full fine-tuning and of LoRA adapters."""

    full: float
    lora: float


SIZES = (20_000_000, 500_000_000, 3_000_000_000)
"""Parameters that divide the columns of `RATES`."""
RATES: Mapping[str, tuple[Rate, Rate, Rate, Rate]] = {
    "sft": (Rate(5e-4, 2e-3), Rate(2e-5, 2e-4), Rate(2e-5, 2e-4), Rate(1e-5, 1e-4)),
    "preference": (Rate(5e-4, 1e-3), Rate(2e-5, 1e-4), Rate(5e-6, 5e-5), Rate(1e-6, 1e-5)),
    "orpo": (Rate(5e-4, 2e-3), Rate(2e-5, 1e-4), Rate(8e-6, 8e-5), Rate(5e-6, 5e-5)),
    "reward": (Rate(1e-4, 5e-4), Rate(2e-5, 1e-4), Rate(1e-5, 5e-5), Rate(5e-6, 2e-5)),
}
"""By method: models below 20 M parameters, below 500 M, below 3 B, and above. docs/results/rates.md says
which are measured; the last two columns are the papers' rates, kept low."""


class Decision(NamedTuple):
    """What was decided for a key, and why."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class RunSize:
    """What decisions rest on.

    Attributes:
        num_rows: rows to train on and to hold out, as the stage's objective counts them.
        num_prompts: different prompts among them.
        num_parameters: of the model, without adapters.
    """

    num_rows: int
    num_prompts: int
    num_parameters: int


def open_keys(config: Any) -> list[str]:
    """Keys of a configuration that are `auto` and that `decide` decides."""
    return [key for key in _KEYS if getattr(config, key, None) == AUTO]


_KEYS = ("eval_fraction", "per_device_train_batch_size", "learning_rate", "reward_learning_rate")


def family(config: TrainConfig, objective_name: str = "") -> str:
    """The row of `RATES` for a stage.

    Args:
        config: its keys.
        objective_name: file of its objective, "" for none.

    Returns:
        A key of `RATES`.
    """
    return objective_name if config.rates == "preference" and objective_name in RATES else config.rates


def usual_rate(family_name: str, num_parameters: int, *, lora: bool) -> float:
    """The rate that `RATES` has for a method, a size and LoRA."""
    column = sum(num_parameters >= size for size in SIZES)
    found = RATES[family_name][column]
    return found.lora if lora else found.full


def decide(config: TrainConfig, objective_name: str, facts: RunSize) -> dict[str, Decision]:
    """The numbers for a configuration's keys that are `auto`.

    Args:
        config: a stage that trains on stored rows, or on rows that it makes itself.
        objective_name: file of its objective, "" for none.
        facts: of its data and model.

    Returns:
        A decision for each open key; nothing for keys that have a number.
    """
    found: dict[str, Decision] = {}
    wanted, name = open_keys(config), family(config, objective_name)
    share = config.eval_fraction if isinstance(config, HeldOutConfig) else 0.0
    if isinstance(config, HeldOutConfig) and share == AUTO:
        found["eval_fraction"] = _held_out(config, facts)
        share = found["eval_fraction"].value
    if "per_device_train_batch_size" in wanted:
        found["per_device_train_batch_size"] = _batch(config, objective_name, facts, fixed(share))
    for key, row in (("learning_rate", name), ("reward_learning_rate", "reward")):
        if key in wanted:
            found[key] = _rate(config, row, facts)
    return found


def _held_out(config: HeldOutConfig, facts: RunSize) -> Decision:
    if config.eval_dataset is not None:
        return Decision(0.0, "eval_dataset is held out")
    if facts.num_prompts < FEWEST_PROMPTS:
        return Decision(0.0, f"{facts.num_prompts} prompts are too few to hold any out")
    share = min(HELD_OUT_SHARE, round(HELD_OUT_ROWS / facts.num_rows, 4))
    return Decision(share, f"about {round(share * facts.num_rows)} of {facts.num_rows} rows, by prompt")


def _batch(config: TrainConfig, objective_name: str, facts: RunSize, share: float) -> Decision:
    seen = (1 - share) * facts.num_rows * config.num_train_epochs
    least = SMALLEST_BATCH
    if objective_name in objectives.names():
        least = objectives.load(objective_name).smallest_batch
    rows = least
    while rows < LARGEST_BATCH and seen / (2 * rows) >= STEPS:
        rows *= 2
    steps = max(1, round(seen / rows))
    each = max(1, rows // config.gradient_accumulation_steps)
    times = "" if each == rows else f" (× {config.gradient_accumulation_steps} accumulated)"
    epochs = f"{config.num_train_epochs:g} epoch{'s' if config.num_train_epochs != 1 else ''}"
    return Decision(each, f"about {steps} steps of {rows} rows{times} in {epochs}")


def _rate(config: TrainConfig, name: str, facts: RunSize) -> Decision:
    lora = config.lora_r > 0
    value = usual_rate(name, facts.num_parameters, lora=lora)
    trained = f"LoRA of rank {config.lora_r}" if lora else "all weights"
    label = {"sft": "SFT", "reward": "a reward model", "orpo": "ORPO"}.get(name, "preferences")
    size = f"{facts.num_parameters / 1e6:.3g} M parameters"
    return Decision(value, f"{label}, {size}, {trained}: table in docs/results/rates.md")
