"""What ranks tell each other. This process is one of two gloo ranks, a second one is started beside it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from alignloop.errors import AlignLoopError, RunError
from alignloop.objectives.base import Mean
from alignloop.training import distributed
from alignloop.training.loop import _of_all_ranks

RANKS = 2
TEXTS = ["", "an answer, and a longer one than the other rank's: ä 한"]


def exchange(folder: Path) -> dict[str, Any]:
    """What one rank does and gets; both call this at the same time."""
    distributed.start()
    distributed.start()  # the second call changes nothing
    rank, ranks = distributed.world()
    called: list[int] = []

    def work() -> list[Any]:
        called.append(rank)
        return ["answer", rank]

    def fail() -> None:
        raise RunError(f"no room on rank {rank}")

    found: dict[str, Any] = {
        "world": [rank, ranks, distributed.is_first_rank()],
        "share": distributed.share("abcde"),
        "any": [distributed.any_rank(flag) for flag in (rank == 0, rank == 1, False)],
        "sum": distributed.add_over_ranks(torch.tensor([rank + 1.0, 10.0])).tolist(),
        "gathered": distributed.gathered({"rank": rank, "text": TEXTS[rank]}),
        "on first": [distributed.on_first_rank(work), called],
        "gradients": gradients(rank),
        "metrics": metrics(rank),
    }
    try:
        distributed.on_first_rank(fail)
    except AlignLoopError as error:
        found["failed"] = [type(error).__name__, str(error)]
    if rank == 0:
        time.sleep(0.3)
        (folder / "written").touch()
    distributed.wait_for_all()
    found["written"] = (folder / "written").exists()
    return found


def gradients(rank: int) -> list[list[float] | None]:
    """Of two types and shapes; the second has one on the first rank only, the last is frozen."""
    parameters = [
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(torch.zeros(1, 2)),
        nn.Parameter(torch.zeros(1, dtype=torch.float64)),
        nn.Parameter(torch.zeros(1), requires_grad=False),
    ]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    parameters[1].grad = torch.tensor([[5.0, 7.0]]) if rank == 0 else None
    parameters[2].grad = torch.tensor([0.1 + rank], dtype=torch.float64)
    distributed.add_gradients(parameters[:1])  # one type alone, then all
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    distributed.add_gradients(parameters)
    assert [p.grad.shape for p in parameters[:3] if p.grad is not None] == [(2,), (1, 2), (1,)]
    return [None if p.grad is None else p.grad.flatten().tolist() for p in parameters]


def metrics(rank: int) -> dict[str, list[float]]:
    """Sums and counts: of both ranks, and of one only."""
    own = {"both": Mean(torch.tensor(1.0 + rank), torch.tensor(2.0 + rank))}
    if rank == 0:
        own["first"] = Mean(torch.tensor(3.0), torch.tensor(4.0))
    return {name: [float(mean.sum), float(mean.count)] for name, mean in _of_all_ranks(own).items()}


SECOND = """
import json, sys
from pathlib import Path
from tests.training.test_ranks import exchange
print("RESULT", json.dumps(exchange(Path(sys.argv[1]))))
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that torchrun sets, but for the rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}


@pytest.mark.parametrize("rank", range(RANKS))
def test_both_ranks_know_what_they_should(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", SECOND, str(tmp_path)],
        env={**environment, "RANK": str(1 - rank)},
        stdout=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setenv("RANK", str(rank))
    try:
        own = exchange(tmp_path)
    finally:
        distributed._leave()
        if sys.exc_info()[0] is not None:
            other.kill()
        output = other.communicate(timeout=120)[0]
    assert other.returncode == 0
    assert not dist.is_initialized()
    first, second = sorted([own, json.loads(output.split("RESULT", 1)[1])], key=lambda found: found["world"])
    assert [first.pop("world"), second.pop("world")] == [[0, 2, True], [1, 2, False]]
    assert [first.pop("share"), second.pop("share")] == [["a", "c", "e"], ["b", "d"]]
    assert first.pop("failed") == ["RunError", "no room on rank 0"]
    assert second.pop("failed") == ["EngineError", "no room on rank 0"]
    assert [first["on first"].pop(), second["on first"].pop()] == [[0], []]  # who worked
    assert first == second
    assert first == {
        "any": [True, True, False],
        "sum": [3.0, 20.0],
        "gathered": [{"rank": 0, "text": TEXTS[0]}, {"rank": 1, "text": TEXTS[1]}],
        "on first": [["answer", 0]],
        "gradients": [[3.0, 6.0], [5.0, 7.0], [0.1 + 1.1], None],
        "metrics": {"both": [3.0, 5.0], "first": [3.0, 4.0]},
        "written": True,
    }


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without torchrun's variables nor with half of them is a group joined."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setenv(name, "1")
        distributed.start()
        assert not dist.is_initialized()
    assert distributed.world() == (0, 1)
    assert distributed.is_first_rank()
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.gathered({"a": 1}) == [{"a": 1}]
    assert distributed.on_first_rank(lambda: 7) == 7
    assert [distributed.any_rank(flag) for flag in (True, False)] == [True, False]
    assert distributed.add_over_ranks(torch.tensor([2.0])).tolist() == [2.0]
    distributed.wait_for_all()
    parameter = nn.Parameter(torch.zeros(1))
    distributed.add_gradients([parameter])
    assert parameter.grad is None
    with pytest.raises(RunError, match="the disk is full"):
        distributed.on_first_rank(lambda: (_ for _ in ()).throw(RunError("the disk is full")))


@pytest.mark.parametrize(("local", "device"), [("1", 1), ("3", 1), (None, 0)])
def test_each_rank_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, local: str | None, device: int
) -> None:
    """With two GPUs, ranks 1 and 3 take the second; tensors on CPUs still travel, so both backends start."""
    started: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", started.append)
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, timeout: started.extend([backend, timeout])
    )
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    distributed.start()
    assert started == [device, "cpu:gloo,cuda:nccl", timedelta(days=7)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    started.clear()
    distributed.start()
    assert started == ["gloo", timedelta(days=7)]


def test_a_group_is_left_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of the group that outlive Python would now and then abort the process."""
    at_exit: list[Any] = []
    monkeypatch.setattr(distributed.atexit, "register", at_exit.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.start()
    left: list[bool] = []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(True))
    for joined in (False, True):
        monkeypatch.setattr(dist, "is_initialized", lambda joined=joined: joined)
        for leave in at_exit:
            leave()
        assert left == [True] * joined
