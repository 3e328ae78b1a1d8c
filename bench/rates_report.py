"""docs/results/rates.md from the cells of bench/rates.py: defaults, what of them is measured, every cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from alignloop.config.defaults import RATES, SIZES, STEPS, Rate
from alignloop.io import write_whole

Row = dict[str, Any]
METHODS = {
    "dpo": "DPO",
    "ipo": "IPO",
    "kto": "KTO",
    "orpo": "ORPO",
    "sft": "SFT",
    "reward": "reward model",
}
_FAMILIES = {
    "preference": "DPO, IPO, KTO, SimPO, rankings",
    "sft": "SFT, best-of-n",
    "reward": "reward models",
}

_HEAD = """# Learning rates

`learning_rate: auto`, the default of every stage that trains on rows, takes this table. Full
fine-tuning, then LoRA (rank 16) in brackets. `python bench/rates.py` measures the cells below,
`--write` writes this page.

"""

_MEASURED = """
**What is measured.** Full fine-tuning of SmolLM2-135M (second column) at 2e-5, one rate and no search:
SFT, DPO, IPO, KTO, ORPO, SimPO, rankings and reward models, three seeds of 21 steps, all of whose win
rates but SimPO's lie above one half ([objectives.md](objectives.md)); SFT, and DPO at 1.5e-5, three
seeds ([quickstart.md](quickstart.md)); a reward model on human judgements, one seed
([hh_reward.md](hh_reward.md)). That another rate would be worse is not shown by these. The first column
follows the cells below, the lowest loss of each row (DPO with LoRA: between two cells that differ by
less than their error). **Not measured here**: the last two columns (the papers' rates, kept low), LoRA
in the second column (five to ten times the full rate; one run in [my-pairs](../guide/my-pairs.md)
aside), and every cell that shows a dash.
"""

_CELLS = """
## Cells

{task}

Held-out loss, and accuracy on held-out pairs where the method has one; the lowest loss of a row is
bold. {machine}

Seeds: {seeds}. One seed tells rates apart that differ several-fold in their effect, nothing finer:
{pairs} held-out rows give accuracy ± {error:.0f} points.
"""

_TASK = """The quickstart's task: SmolLM2-135M answers instructions that a program can check, the gold reward
with 5 % of mistakes judges pairs of its answers, and all methods train on the same pairs in their own form,
held out by prompt. Steps of 4 pairs (KTO: 8 labels), cosine decay, a tenth of warm-up; {steps}. `small`
has {small:.1f} M parameters and has read this task's own texts only, so it writes badly and its SFT
loss hardly depends on the rate; it stands for models far below 20 M parameters."""


def write(found: dict[str, Any], file: Path) -> None:
    """Write the page.

    Args:
        found: content of rates.json.
        file: the page.
    """
    write_whole(file, [page(found)])


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    text = _HEAD + defaults_table() + _MEASURED
    rows: list[Row] = found["rows"]
    if not rows:
        return text
    facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    held = max(row["rows"] or 0 for row in rows if row["accuracy"] is not None)
    steps = {row["model"]: row.get("steps", STEPS) for row in rows}
    task = _TASK.format(
        steps=", ".join(f"{count} steps of {model}" for model, count in sorted(steps.items())),
        small=found["parameters"].get("small", 0) / 1e6,
    )
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    text += _CELLS.format(task=task, machine=facts + ".", seeds=seeds, pairs=held, error=98 / held**0.5)
    for model in sorted({row["model"] for row in rows}):
        for lora in (False, True):
            chosen = [row for row in rows if row["model"] == model and bool(row["lora_r"]) == lora]
            if chosen:
                kind = "LoRA of rank 16" if lora else "all weights"
                dtype = "float32" if model == "small" else "bfloat16"
                text += f"\n### {model}, {kind}, {dtype}\n\n" + cells_table(chosen)
    return text


def defaults_table() -> str:
    """The defaults by method and size."""
    ends = [f"{size / 1e6:g} M" if size < 1e9 else f"{size / 1e9:g} B" for size in SIZES]
    names = [f"below {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), "above"]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for family, rates in RATES.items():
        label = _FAMILIES.get(family, family.upper())
        lines.append(f"| {label} | " + " | ".join(_shown(one) for one in rates) + " |")
    return "\n".join(lines) + "\n"


def _shown(one: Rate) -> str:
    return f"{one.full:g} ({one.lora:g})"


def cells_table(rows: Sequence[Row]) -> str:
    """Methods by rates; several seeds of a cell are averaged."""
    rates = sorted({row["rate"] for row in rows})
    lines = ["| | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for method, label in METHODS.items():
        cells = [[row for row in rows if row["method"] == method and row["rate"] == rate] for rate in rates]
        losses = [_mean(cell, "loss") for cell in cells]
        best = min((loss for loss in losses if loss is not None), default=None)
        shown = []
        for cell, loss in zip(cells, losses, strict=True):
            accuracy = _mean(cell, "accuracy")
            text = "–" if loss is None else f"**{loss:.3f}**" if loss == best else f"{loss:.3f}"
            shown.append(text + (f" ({100 * accuracy:.0f} %)" if accuracy is not None else ""))
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _mean(cell: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in cell if row[name] is not None]
    return sum(values) / len(values) if values else None
