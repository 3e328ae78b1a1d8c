"""Runs the numerical tests as other processors would: older instruction sets, other numbers of threads.

    scripts/test --processors                            every setting, all five folders
    scripts/test --processors --only sse avx2            two of them
    scripts/test --processors --folders model training   fewer folders

PyTorch, oneDNN and MKL take the best instructions that a processor has; environment variables keep them
from it. Other instructions and threads round and sum in another order, so a test that hangs on that
fails here before it fails on somebody's machine. Settings beyond this processor are left out and said so.
Prints a table and the failed tests; exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("model", "training", "objectives", "rl", "stages")
CAPABILITIES = ("default", "avx2", "avx512")
"""What ATEN_CPU_CAPABILITY can ask for, from the least; PyTorch does not check that the processor has it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One stand-in: PyTorch's, oneDNN's and MKL's instructions at most, and threads."""

    aten: str
    onednn: str
    mkl: str
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make it so."""
        return {
            "ATEN_CPU_CAPABILITY": self.aten,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not keep others from the processor
        }


SETTINGS = {
    "sse": Setting("default", "SSE41", "SSE4_2", 1),
    "sse-2": Setting("default", "SSE41", "SSE4_2", 2),
    "avx2": Setting("avx2", "AVX2", "AVX2", 1),
    "avx2-2": Setting("avx2", "AVX2", "AVX2", 2),
    "avx512": Setting("avx512", "AVX512_CORE", "AVX512", 1),
    "bf16": Setting("avx512", "AVX512_CORE_BF16", "AVX512", 1),
    "amx": Setting("avx512", "AVX512_CORE_AMX", "AVX512", 1),
    "amx-2": Setting("avx512", "AVX512_CORE_AMX", "AVX512", 2),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a setting's run gave; `crashed` is pytest's exit code where it could not finish, else 0."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    names: tuple[str, ...]
    crashed: int

    @property
    def fine(self) -> bool:
        """Whether tests ran and none failed."""
        return not self.failed and not self.crashed and self.passed > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="which settings")
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=list(FOLDERS), help="of tests/")
    parser.add_argument("--processes", type=int, default=2, help="at once, for settings of one thread")
    options = parser.parse_args()
    most = _capability()
    print(f"{'setting':<9} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}", flush=True)
    results: dict[str, Result] = {}
    for name in options.only:
        setting = SETTINGS[name]
        if CAPABILITIES.index(setting.aten) > CAPABILITIES.index(most):
            print(f"{name:<9} left out: this processor has {most} only")
            continue
        result = results[name] = _run(setting, options.folders, options.processes)
        note = f"  pytest ended with {result.crashed}" if result.crashed else ""
        counts = f"{result.passed:>7} {result.failed:>7} {result.skipped:>8}"
        print(f"{name:<9} {counts} {result.seconds:>8.0f}{note}", flush=True)
    for name, result in results.items():
        for test in result.names:
            print(f"{name}: {test}")
    return int(not results or not all(result.fine for result in results.values()))


def _capability() -> str:
    """The best of `CAPABILITIES` that PyTorch finds on this processor."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    plain = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    found = done.stdout.strip().lower()
    return found if found in CAPABILITIES else "default"


def _run(setting: Setting, folders: Sequence[str], processes: int) -> Result:
    spread = ["-n", str(processes), "--dist", "load"] if setting.threads == 1 and processes > 1 else []
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *spread, *(f"tests/{folder}" for folder in folders)],
        cwd=ROOT,
        env=os.environ | setting.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return read(done.stdout, done.returncode, time.monotonic() - started)


def read(output: str, code: int, seconds: float) -> Result:
    """Counts and names from what pytest printed.

    Args:
        output: all of it; its last lines are the summary.
        code: pytest's exit code, 0 or 1 where it came to its end.
        seconds: how long it ran.
    """
    lines = output.splitlines()
    names = tuple(line for line in lines if line.startswith(("FAILED ", "ERROR ")))
    last = next((line for line in reversed(lines) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)
    }
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    crashed = code if code not in (0, 1) or not last else 0
    return Result(counts.get("passed", 0), failed, counts.get("skipped", 0), seconds, names, crashed)


if __name__ == "__main__":
    sys.exit(main())
