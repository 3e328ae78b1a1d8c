"""AlignLoop's side of a comparison: the project's own packing, engine, objective, optimizer and loop.

Run by bench/vs_trl.py as a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignloop.data.packing import Completion, Group, collate
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.compiled import compile_layers
from alignloop.model.load import load_model
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.objectives.base import Inputs, Objective
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import GRPO
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.sft import SFT
from alignloop.training.loop import Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from alignloop.training.reference import adapter_reference, frozen_reference
from bench.measure import count_tokens, finish, matmul_rate, peak_memory_gb
from bench.workload import Architecture, Shape, make_steps, useful_flops, useful_tokens

LORA = LoraSettings(r=16, alpha=32.0)
BETA = 0.1
KL_BETA = 0.04


@dataclass(frozen=True)
class TokenMeanORPO(ORPO):
    """ORPO whose NLL is a mean over the step's tokens, as TRL's is, instead of over pairs."""

    def _nll(self, inputs: Inputs, logprob: Tensor, tokens: Tensor) -> Tensor:
        mean_tokens = inputs.extras["step_tokens"]
        return super()._nll(inputs, logprob, tokens) * (tokens + inputs.extras["prompt_tokens"]) / mean_tokens


def objective_of(method: str) -> Objective:
    """The objective a method trains with; its fields are TRL's settings on the other side."""
    objectives: dict[str, Any] = {
        "sft": SFT(),
        "reward": BradleyTerry(),
        "ranking": BradleyTerry(),
        "dpo": DPO(beta=BETA),
        "ipo": IPO(beta=BETA),
        "orpo": TokenMeanORPO(lam=BETA, nll="prompt_and_completion"),
        "kto": KTO(beta=BETA),
        "grpo": GRPO(beta=KL_BETA),
    }
    return objectives.get(method) or objectives[method.split("-")[0]]


def learning_rate_of(method: str) -> float:
    """Constant rate: full fine-tuning small enough that rounding does not grow, LoRA as is usual."""
    return 1e-4 if method == "dpo-lora" else 1e-6


def seed_adapter(model: torch.nn.Module) -> None:
    """Give the A matrices of a LoRA adapter the same values on both sides."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)


def reward_head(hidden_size: int) -> ScalarHead:
    """A scalar head whose bias stays zero, as transformers' sequence classifiers have none."""
    head = ScalarHead(hidden_size)
    head.bias.requires_grad_(False)
    return head


def architecture(model: Any) -> Architecture:
    """Sizes of a loaded transformers model, for `useful_flops`."""
    config = model.config
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    layers = sum(p.numel() for p in model.parameters() if id(p) not in outside)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    return Architecture(layers, config.vocab_size, config.hidden_size, config.num_hidden_layers, width)


def build(
    method: str,
    model_name: str,
    token_budget: int,
    num_steps: int,
    *,
    device: str = "cpu",
    compiled: bool = False,
) -> tuple[Trainer, Architecture]:
    """A trainer with everything in place for `method`; on a GPU the matrix products are bfloat16."""
    hf = load_model(model_name, dtype="float32", device=device).model
    sizes = architecture(hf)
    head = reward_head(hf.config.hidden_size).to(device) if method in ("reward", "ranking") else None
    if method == "dpo-lora":
        peft = add_adapter(hf, LORA)
        seed_adapter(peft)
    products = None if device == "cpu" else torch.bfloat16
    model = PackedModel(hf, head=head, autocast=products)
    reference = None
    if method == "dpo-lora":
        reference = adapter_reference(model, peft)
    elif method in ("dpo", "ipo", "kto", "grpo"):
        frozen = load_model(model_name, dtype="float32", device=device).model
        reference = frozen_reference(PackedModel(frozen, autocast=products))
    settings = OptimizerSettings(learning_rate=learning_rate_of(method), lr_scheduler_type="constant")
    optimizer = build_optimizer(model.parameters(), settings)
    if compiled:
        compile_layers(hf)
    return Trainer(
        model,
        optimizer,
        settings,
        num_steps,
        token_budget=token_budget,
        unsplit=max(token_budget, 4096),
        reference=reference,
    ), sizes


def prepared(method: str, trainer: Trainer, groups: Sequence[Group]) -> list[Group]:
    """What a data pipeline or a rollout has at hand before the step: cached and sampled log-probs."""
    names = {
        "dpo-precomputed": "reference_logprobs",
        "kto-cached": "reference_logprobs",
        "grpo": "old_logprobs",
    }
    if method == "orpo":
        totals = [g.values["prompt_tokens"] + len(g.completions[0].ids) for g in groups]
        return [replace(g, values={**g.values, "step_tokens": np.mean(totals)}) for g in groups]
    if method not in names:
        return list(groups)
    result = []
    for group in groups:
        batch = collate([group])
        with torch.no_grad():
            logprobs = trainer.model(batch).logprobs.cpu().numpy()
        completions = tuple(
            Completion(c.ids, c.mask, {**c.values, names[method]: row[: len(c.ids)]})
            for c, row in zip(group.completions, logprobs, strict=True)
        )
        result.append(replace(group, completions=completions))
    return result


def run(
    method: str,
    *,
    model_name: str,
    num_steps: int,
    seed: int = 0,
    token_budget: int = 4096,
    scale: float = 1.0,
    shape: Shape | None = None,
    device: str = "cpu",
    compiled: bool = False,
) -> dict[str, Any]:
    """Train `num_steps` steps and report seconds, losses, tokens, FLOPs and memory."""
    trainer, sizes = build(method, model_name, token_budget, num_steps, device=device, compiled=compiled)
    objective = objective_of(method)
    vocab_size = min(40_000, sizes.vocab_size)
    drawn = make_steps(method, num_steps, seed=seed, scale=scale, vocab_size=vocab_size, shape=shape)
    steps = [prepared(method, trainer, groups) for groups in drawn]
    seconds, cpu_seconds, losses, computed = [], [], [], []
    count = count_tokens(trainer.model.hf.get_input_embeddings(), method)
    for groups in steps:
        started, cpu_started, before = time.perf_counter(), time.process_time(), count()
        losses.append(train_step(trainer, objective, groups).metrics["loss"])
        finish(device)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        computed.append(count() - before)
    return {
        "side": "alignloop",
        "step_s": seconds,
        "step_cpu_s": cpu_seconds,
        "losses": losses,
        "peak_memory_gb": peak_memory_gb(device),
        "useful_tokens": [useful_tokens(groups) for groups in steps],
        "useful_flops": [useful_flops(method, groups, sizes) for groups in steps],
        "computed_tokens": computed,
        "token_budget": token_budget,
    }


def shape_of(text: str) -> Shape:
    """`groups,completions,prompt,completion` as a shape."""
    groups, completions, prompt, completion = text.split(",")
    return Shape(int(groups), int(completions), float(prompt), float(completion))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--shape", type=shape_of, help="instead of the method's own: see workload.Shape")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="torch.compile for the layers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before = matmul_rate(options.device)
    result = run(
        options.method,
        model_name=options.model,
        num_steps=options.steps,
        seed=options.seed,
        token_budget=options.token_budget,
        scale=options.scale,
        shape=options.shape,
        device=options.device,
        compiled=options.compile,
    )
    rates = np.mean([before, matmul_rate(options.device)], axis=0)
    result |= {"matmul_flops_per_s": rates[0], "matmul_flops_per_cpu_s": rates[1]}
    print(json.dumps({**result, "mkl_flops_per_s": matmul_rate(options.device, library="mkl")[0]}))


if __name__ == "__main__":
    main()
