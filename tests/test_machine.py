"""Memory of this process, as the system counts it."""

import sys

import pytest
import torch

from alignloop.machine import memory_gb, release_memory, reset_peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_counts_from_its_reset_and_cycles_are_given_back() -> None:
    release_memory()
    reset_peak_memory()
    before = memory_gb()
    holder: list[object] = [torch.ones(50_000_000)]  # 0.2 GB
    holder.append(holder)
    assert memory_gb() - before == pytest.approx(0.2, abs=0.05)
    del holder
    release_memory()
    assert memory_gb() - before == pytest.approx(0.0, abs=0.05)
    assert memory_gb(peak=True) - before == pytest.approx(0.2, abs=0.05)
    reset_peak_memory()
    assert memory_gb(peak=True) - before == pytest.approx(0.0, abs=0.05)
