"""Data parallelism under torchrun: every rank takes its share of a step's groups.

Sums over ranks, never means of means: denominators are counted over all ranks before the forward
pass and gradients are added, so n ranks give the gradient of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def start() -> None:
    """Join the process group torchrun describes (gloo on CPUs, nccl on GPUs); nothing without torchrun."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(items: Sequence[T]) -> list[T]:
    """This rank's items of a step: every n-th, so that the ranks' loads are alike."""
    rank, ranks = world()
    return list(items[rank::ranks])


def add_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place; itself without a process group."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, in their order; each is what JSON can hold. [value] without a group."""
    if not dist.is_initialized():
        return [value]
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    text = json.dumps(value).encode()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(text)], device=device))
    room = int(max(sizes))
    parts = [torch.zeros(room, dtype=torch.uint8, device=device) for _ in sizes]
    own = torch.frombuffer(bytearray(text.ljust(room)), dtype=torch.uint8).to(device)
    dist.all_gather(parts, own)
    return [
        json.loads(part[: int(size)].cpu().numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)
    ]


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum of the gradients over ranks, one flat message for each dtype. Missing gradients count as 0."""
    if not dist.is_initialized():
        return
    trainable = [p for p in parameters if p.requires_grad]
    for dtype in sorted({p.dtype for p in trainable}, key=str):
        chosen = [p for p in trainable if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in chosen])
        dist.all_reduce(flat)
        for p, grad in zip(chosen, flat.split([p.numel() for p in chosen]), strict=True):
            p.grad = grad.view_as(p)
