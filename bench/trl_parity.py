"""TRL 1.16 against AlignLoop, objective by objective: the losses, and the first steps of whole trainers.

    python bench/trl_parity.py [--model smollm2-135m-instruct] [--case NAME] [--json]

*losses*: both sides get the same log-probs (bench/trl_losses.py); they may differ by 1e-6.
*first steps*: both sides get the same tokens and the same model; TRL's own trainer makes one step, then
AlignLoop's; their losses may differ by 1e-4. The policy's weights are moved away from the reference's
beforehand, by the same amounts on both sides, so that the reference counts. Exit code 1 if a difference
is too large.

Where TRL computes something else by design, the case says what was made equal: its RPO term and ORPO's NLL
are means over the tokens of a micro-batch (AlignLoop: over pairs), its DPO ignores `label_smoothing`
unless the loss is `robust`, its IPO divides by the completion's tokens (`reduction: mean`), and its GRPO
weights the KL with the importance ratio unless `use_bias_correction_kl` is off (`unbiased_kl`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn
from transformers.utils import logging as hf_logging

from alignloop.data.packing import Group
from alignloop.model.load import load_model
from alignloop.objectives.base import Objective
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import GRPO
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.sft import SFT
from alignloop.objectives.simpo import SimPO
from alignloop.training.loop import train_step
from bench import our_side, trl_side
from bench.our_side import TokenMeanORPO
from bench.trl_losses import CASES as LOSSES
from bench.workload import make_steps

LOSS_TOLERANCE, STEP_TOLERANCE = 1e-6, 1e-4
Groups = list[Group]


@dataclass(frozen=True)
class Case:
    """One trainer of TRL and the objective that should give its loss.

    Attributes:
        method: workload of bench/workload.py, which also chooses AlignLoop's set-up.
        objective: AlignLoop's.
        settings: what TRL's configuration needs to be the same objective.
        trainer: method of bench/trl_side.py if it is not the workload's.
        equalised: changes the groups where TRL's definition differs.
        distance: noise that moves the policy, in standard deviations of each weight.
    """

    method: str
    objective: Objective
    settings: Mapping[str, Any] = field(default_factory=dict)
    trainer: str = ""
    equalised: Callable[[Groups], Groups] = list
    distance: float = 0.3


def with_equal_chosen(groups: Groups) -> Groups:
    """Chosen completions cut to the shortest: then a mean over tokens is one over pairs."""
    shortest = min(len(g.completions[0].ids) for g in groups)
    result = []
    for group in groups:
        chosen, rejected = group.completions
        cut = replace(chosen, ids=chosen.ids[:shortest], mask=chosen.mask[:shortest])
        result.append(replace(group, completions=(cut, rejected)))
    return result


def without_reference(groups: Groups) -> Groups:
    """Reference log-probs of zero, as TRL's CPO has none."""
    return [
        replace(
            g,
            completions=tuple(
                replace(c, values={"reference_logprobs": np.zeros(len(c.ids), np.float32)})
                for c in g.completions
            ),
        )
        for g in groups
    ]


def with_margins(groups: Groups) -> Groups:
    """A margin for each pair."""
    return [replace(g, values={**g.values, "margin": 0.25 * i}) for i, g in enumerate(groups)]


CASES: dict[str, Case] = {
    "sft": Case("sft", SFT()),
    "sft packed": Case("sft-packed", SFT()),
    "reward": Case("reward", BradleyTerry()),
    "reward centring": Case("reward", BradleyTerry(centring=0.01), {"center_rewards_coefficient": 0.01}),
    "reward margin": Case("reward", BradleyTerry(), equalised=with_margins),
    "dpo": Case("dpo", DPO(beta=0.1)),
    "dpo lora": Case("dpo-lora", DPO(beta=0.1)),
    "dpo loss=hinge": Case("dpo", DPO(beta=0.3, loss="hinge"), {"loss_type": ["hinge"], "beta": 0.3}),
    "dpo loss=robust": Case(
        "dpo",
        DPO(beta=0.3, loss="robust", label_smoothing=0.2),
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
    ),
    "dpo label_smoothing (CPO)": Case(
        "dpo",
        DPO(beta=0.3, label_smoothing=0.2),
        {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.2},
        trainer="simpo",
        equalised=without_reference,
    ),
    "dpo rpo_alpha": Case(
        "dpo",
        DPO(beta=0.1, rpo_alpha=0.5),
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        equalised=with_equal_chosen,
    ),
    "ipo reduction=mean": Case("ipo", IPO(beta=0.1)),
    "kto": Case(
        "kto",
        KTO(beta=0.1, desirable_weight=1.3, undesirable_weight=0.9),
        {"desirable_weight": 1.3, "undesirable_weight": 0.9},
    ),
    "orpo": Case("orpo", TokenMeanORPO(lam=0.1, nll="prompt_and_completion")),
    "simpo": Case("dpo", SimPO(beta=2.5, gamma=1.4), {"beta": 2.5, "simpo_gamma": 1.4}, trainer="simpo"),
    "ranking": Case("ranking", BradleyTerry()),
    # ratio and k3 are powers of e: far away a rounding of the log-probs would be a difference
    "grpo": Case(
        "grpo",
        GRPO(beta=our_side.KL_BETA, unbiased_kl=False),
        {"use_bias_correction_kl": False},
        distance=0.05,
    ),
    "grpo unbiased_kl": Case(
        "grpo",
        GRPO(beta=our_side.KL_BETA, unbiased_kl=True),
        {"use_bias_correction_kl": True},
        distance=0.05,
    ),
}


def move(model: nn.Module, distance: float) -> None:
    """Change the layers' weights (under LoRA the B matrices, which start at zero) by seeded noise."""
    named = [(name, p) for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2]
    adapters = [(name, p) for name, p in named if "lora_B" in name]
    for name, parameter in adapters or named:
        seed = zlib.crc32(name[name.index(".layers.") :].encode())
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        scale = 0.02 if adapters else distance * float(parameter.detach().std())
        with torch.no_grad():
            parameter.add_(scale * noise)


def groups_of(case: Case, scale: float, vocab_size: int) -> Groups:
    """The step that both sides make."""
    (groups,) = make_steps(case.method, 1, scale=scale, vocab_size=vocab_size)
    return case.equalised(groups)


def trl_loss(case: Case, model: str, scale: float) -> float:
    """Loss of the first step of TRL's trainer."""
    loaded = load_model(model, dtype="float32", device="cpu")
    groups = groups_of(case, scale, min(40_000, loaded.model.config.vocab_size))
    hf_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        trainer = trl_side.build(case.trainer or case.method, loaded, [groups], 0, folder, case.settings)
        move(trainer.model, case.distance)
        trainer.train()
    return trainer.losses[0]


def own_loss(case: Case, model: str, scale: float) -> float:
    """Loss of AlignLoop's first step."""
    trainer, sizes = our_side.build(case.method, model, 4096, 1)
    groups = groups_of(case, scale, min(40_000, sizes.vocab_size))
    groups = our_side.prepared(case.method, trainer, groups)
    move(trainer.model, case.distance)
    return float(train_step(trainer, case.objective, groups).metrics["loss"])


def compared(kind: str, name: str, theirs: float, own: float, tolerance: float) -> dict[str, Any]:
    """One row of the table."""
    difference = abs(theirs - own)
    row = {"kind": kind, "objective": name, "trl": theirs, "alignloop": own}
    return row | {"difference": difference, "equal": difference <= tolerance}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| compared | objective | TRL | AlignLoop | difference |", "|---|---|---|---|---|"]
    lines += [
        "| {kind} | {objective} | {trl:.7f} | {alignloop:.7f} | {difference:.1e} |".format(**r) for r in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--case", action="append", choices=CASES, help="only this first step; repeatable")
    parser.add_argument("--scale", type=float, default=0.3, help="factor of the benchmark's lengths")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    rows = [compared("loss", name, *pair(), LOSS_TOLERANCE) for name, pair in LOSSES.items()]
    for name in options.case or CASES:
        print(name, file=sys.stderr, flush=True)
        pair = [side(CASES[name], options.model, options.scale) for side in (trl_loss, own_loss)]
        rows.append(compared("first step", name, *pair, STEP_TOLERANCE))
    if options.json:
        tolerances = {"loss": LOSS_TOLERANCE, "first step": STEP_TOLERANCE}
        print(json.dumps({"model": options.model, "tolerances": tolerances, "rows": rows}, indent=1))
    else:
        print(table(rows))
    return int(not all(row["equal"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
