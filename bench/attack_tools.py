"""What attacks are told with, and a child process whose time and memory are known."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Found:
    """One row of the page.

    Attributes:
        attack: what was attacked.
        tried: how.
        happened: what came of it, one sentence.
        figure: what was measured, with units.
        held: whether it is as it should be.
    """

    attack: str
    tried: str
    happened: str
    figure: str
    held: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a child process did: exit code, outputs, seconds, peak memory in MiB."""

    code: int
    out: str
    err: str
    seconds: float
    peak_mib: float

    @property
    def one_sentence(self) -> bool:
        """Whether it ended with exit code 2 and one line that is no traceback."""
        lines = self.err.strip().splitlines()
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.err

    @property
    def figure(self) -> str:
        """Seconds and peak memory."""
        return f"{self.seconds:.1f} s, {self.peak_mib:.0f} MiB"


def child(
    arguments: Sequence[str], *, timeout_s: float = 600.0, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Run a Python program: `arguments` are those after `python`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **(environment or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=env
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() - began > timeout_s:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Outcome(process.returncode, texts[0], texts[1], seconds, usage.ru_maxrss / 1024)


def mib_of(pid: int, field: str = "VmHWM") -> float:
    """Peak memory of a running process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0
