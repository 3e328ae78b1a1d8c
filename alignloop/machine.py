"""The machine without heavy libraries: cache folder, rank, kind of processor, memory of this process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from functools import cache
from pathlib import Path


def cache_dir() -> Path:
    """Where converted models and reference log-probs live: $ALIGNLOOP_CACHE, else ~/.cache/alignloop."""
    return Path(os.environ.get("ALIGNLOOP_CACHE") or Path.home() / ".cache" / "alignloop")


def process_rank() -> int:
    """Number of this process among those that torchrun started; 0, the one that writes, without it."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 0


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo, {} where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_is_intel() -> bool:
    """Whether this is a processor that Intel's MKL is made for; False where nobody tells."""
    return _cpuinfo().get("vendor_id") == "GenuineIntel"


def bf16_instructions() -> list[str]:
    """Instruction set extensions of this CPU for bfloat16, sorted; none where the system does not tell."""
    cpu = _cpuinfo()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return sorted({"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags))


def bf16_is_native() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (else they run ~100× slower)."""
    return bool(bf16_instructions())


def release_memory() -> None:
    """Give memory of dropped models back to the system.

    Models are parts of reference cycles, and the C library keeps freed blocks; neither is looked after
    while a stage allocates only a few, very large, objects.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def reset_peak_memory() -> None:
    """Let `peak_memory_gb` count from now on (Linux; elsewhere the peak is the process's)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def memory_gb(*, peak: bool = False) -> float:
    """Resident memory of this process in GB (10⁹ bytes), now or at its peak; 0 where nobody tells."""
    field = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(field)), 0.0)
