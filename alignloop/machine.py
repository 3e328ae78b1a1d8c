"""Facts of this machine that need no heavy library: where the cache is, whether bfloat16 is fast."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where converted models and reference log-probs live: $ALIGNLOOP_CACHE, else ~/.cache/alignloop."""
    return Path(os.environ.get("ALIGNLOOP_CACHE") or Path.home() / ".cache" / "alignloop")


def bf16_is_native() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (else they run ~100× slower)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags for flag in (" avx512_bf16", " amx_bf16", " bf16"))
