"""Facts about this machine and process, without importing anything heavy."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from alignloop.machine import cpu_name


def environment() -> dict[str, Any]:
    """What a run records of where it ran: {python, torch, transformers, cpu, threads, device, memory_gb, os}.

    `threads` and `device` are what the process was started with; a stage that chooses others says so
    with `Run.set_environment`.
    """
    return {
        "python": platform.python_version(),
        "torch": version_of("torch"),
        "transformers": version_of("transformers"),
        "cpu": cpu_name(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "") or num_cores()),
        "device": "cpu",
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "os": os_name(),
    }


@cache
def version_of(package: str) -> str:
    """Version of an installed package, "" if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def num_cores() -> int:
    """Cores this process may use, which a container can limit."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or the container's limit if that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def os_name() -> str:
    """Name and version of the operating system."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.platform())
    except OSError:
        return platform.platform()


def process_start(pid: int) -> str:
    """When a process started, as an opaque text, "" if there is no such process.

    With the process id it tells a running process from a later one that was given the same id.
    """
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
        return "" if fields[0] == "Z" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace").strip()


def is_alive(pid: int, started: str) -> bool:
    """Whether the process that had this id at that start time still runs."""
    return process_start(pid) == started != ""
