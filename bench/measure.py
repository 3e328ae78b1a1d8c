"""What benchmarks measure with: step times, peak memory, matrix-product rate, the machine's description."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignloop.machine import cpu_name, memory_gb

ROOT = Path(__file__).resolve().parent.parent
TRL_PLAIN: Mapping[str, Any] = {
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
"""What TRL is told in every benchmark: the other side's optimizer in float32 on the CPU, and no files."""


def matmul_rate(
    device: str = "cpu", *, size: int = 0, repeats: int = 8, library: str = "best"
) -> tuple[float, float]:
    """Matrix-product rate of this process, of its best product: FLOP/s and FLOP per CPU second.

    float32 on a CPU; bfloat16 on a GPU, whose rate per CPU second is given as that per second.

    Args:
        device: cpu or cuda.
        size: rows and columns of both matrices; 0 chooses by device.
        repeats: products to try of each library.
        library: `mkl` (`torch.mm`), `onednn` (what AlignLoop's layers use, twice as fast on AMD processors),
            or `best` of the two.
    """
    import torch

    from alignloop.model.onednn import linear

    size = size or (2048 if device == "cpu" else 8192)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    products = {"mkl": torch.mm, "onednn": linear}
    wall, cpu = [], []
    for product in products.values() if library == "best" else [products[library]]:
        product(a, b)
        for _ in range(repeats):
            finish(device)
            started, cpu_started = time.perf_counter(), time.process_time()
            product(a, b)
            finish(device)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - cpu_started)
    rate = 2 * size**3 / min(wall)
    return rate, 2 * size**3 / min(cpu) if device == "cpu" else rate


def finish(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def peak_memory_gb(device: str) -> float:
    """The process's highest resident set on a CPU, the highest allocation on a GPU, GB (10⁹ bytes)."""
    if device == "cpu":
        return memory_gb(peak=True)
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def count_tokens(embedding: Any, method: str) -> Callable[[], int]:
    """Counts the places of all passes through a policy's embedding, padding included; returns the reading.

    Passes without gradient are left out, they are a LoRA policy's own reference; but KTO's mismatched
    completions belong to the step, whichever way a side runs them.
    """
    import torch

    total = 0

    def add(_module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal total
        if torch.is_grad_enabled() or method.startswith("kto"):
            total += arguments[0].numel()

    embedding.register_forward_pre_hook(add)
    return lambda: total


def child(module: str, arguments: Sequence[str], *, threads: int, passive: bool = True) -> Any:
    """Run `python -m module arguments` with so many threads and return the JSON of its last line.

    Threads that spin while they wait, as they do by default, would count as work where processor time is
    measured or the machine is not idle; `passive` ones sleep, which makes small operations slower.

    Raises:
        RuntimeError: the process failed; its last words are in the message.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    if passive:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> dict[str, Any]:
    """What numbers were measured on."""
    import torch
    import transformers

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
