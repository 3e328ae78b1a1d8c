"""The comparison of types: its statistics, and one method run to its end on the tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import bfloat16, bfloat16_report


def run(dtype, seed, value):
    return {"method": "dpo", "dtype": dtype, "seed": seed, "figures": {"eval_loss": value}, "cpu_s": 60.0}


def test_seeds_that_both_types_have_are_compared() -> None:
    runs = [run("float32", seed, value) for seed, value in enumerate((1.0, 2.0, 3.0))]
    runs += [run("bfloat16", seed, value) for seed, value in enumerate((1.5, 2.25, 3.0))]
    runs.append(run("float32", 3, 100.0))  # its other half was not run
    (row,) = bfloat16_report.compared(runs)
    assert (row["seeds"], row["range"], row["inside"]) == (3, (1.0, 3.0), True)
    # differences 0.5, 0.25, 0: mean 0.25, deviation 0.25, t of two degrees 4.30
    assert row["paired"] == pytest.approx((0.25, 4.30 * 0.25 / 3**0.5))
    assert row["float32"][0] == pytest.approx(2.0)
    runs[3] = run("bfloat16", 0, 9.0)
    assert not bfloat16_report.compared(runs)[0]["inside"]  # a mean of 4.75


def test_a_method_in_both_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "found.json"
    words = ["--out", str(out), "--model", "tiny", "--seeds", "1", "--steps", "1", "--methods", "ipo"]
    monkeypatch.setattr(sys, "argv", ["bfloat16.py", *words, "--eval-rows", "8", "--max-length", "256"])
    bfloat16.main()
    found = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert [(row["dtype"], row["seed"]) for row in found] == [("float32", 0), ("bfloat16", 0)]
    losses = [row["figures"]["eval_loss"] for row in found]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert "| ipo | eval_loss | 1 |" in capsys.readouterr().out


def test_emulated_products_are_those_of_bfloat16() -> None:
    """In a process of its own: the products stay replaced."""
    code = """
import torch
from bench.emulated_bfloat16 import emulate
torch.manual_seed(0)
a, b = torch.randn(3, 9, 64).bfloat16(), torch.randn(3, 64, 7).bfloat16()
bias = torch.randn(9, 7).bfloat16()
biases = bias.expand(3, 9, 7)
ask = lambda: [a[0] @ b[0], torch.addmm(bias, a[0], b[0], alpha=0.5), a @ b, torch.baddbmm(biases, a, b)]
exact = [one.double() for one in (a[0], b[0], bias)]
before = ask()
emulate()
for own, made in zip(before, ask(), strict=True):
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, own, rtol=2**-7, atol=2**-7)  # a rounding of the result
want = (exact[0] @ exact[1]).float().bfloat16()
assert (ask()[0] != want).float().mean() < 0.05  # float32 sums round the other way now and then
x, w = torch.randn(4, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
with torch.autocast("cpu", torch.bfloat16):
    y = torch.nn.functional.linear(x, w)
y.float().sum().backward()
assert y.dtype == torch.bfloat16
torch.testing.assert_close(w.grad, x.detach().bfloat16().float().sum(0).expand(5, 8), rtol=2**-6, atol=2**-6)
torch.testing.assert_close(torch.eye(2) @ torch.ones(2, 2), torch.ones(2, 2))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent.parent)
