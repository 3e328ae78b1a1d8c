"""Data parallelism under torchrun: every rank takes its share of a step's groups.

Sums over ranks, never means of means: denominators are counted over all ranks before the forward
pass and gradients are added, so n ranks give the gradient of one. All ranks compute alike; the first
one alone writes.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alignloop.errors import AlignLoopError, EngineError
from alignloop.foreign import loads

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""Ranks wait for the first one, which may score or judge for hours; a rank that died is noticed at once."""


def start() -> None:
    """Join the process group torchrun describes; nothing without torchrun.

    Tensors on CPUs go through gloo, those on GPUs through nccl; each rank takes the GPU of its number.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    # its threads, alive while Python ends, would now and then abort the process
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first_rank() -> bool:
    """Whether this process writes; True without a process group."""
    return world()[0] == 0


def wait_for_all() -> None:
    """Until every rank is here: what the first one wrote is there for all."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on some rank, so that all of them stop at the same step."""
    return float(add_over_ranks(torch.tensor(float(flag)))) > 0


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` returns on the first rank, which alone calls it; the others wait for the answer.

    Args:
        work: returns what JSON can hold.

    Returns:
        The first rank's answer, on every rank.

    Raises:
        AlignLoopError: what `work` raised; an EngineError with its text on the other ranks.
    """
    rank, ranks = world()
    if ranks == 1:
        return work()
    told: dict[str, Any] = {}
    failed: AlignLoopError | None = None
    if rank == 0:
        try:
            told = {"answer": work()}
        except AlignLoopError as error:
            failed, told = error, {"error": str(error)}
    told = gathered(told)[0]
    if failed is not None:
        raise failed
    if "error" in told:
        raise EngineError(told["error"])
    return told["answer"]


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
    text = json.dumps(value).encode()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(text)]))
    room = int(max(sizes))
    parts = [torch.zeros(room, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, torch.frombuffer(bytearray(text.ljust(room)), dtype=torch.uint8))
    return [loads(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


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
