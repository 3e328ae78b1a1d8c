"""float32 matrix products of a linear layer, GFLOP/s: MKL (PyTorch's own), oneDNN, and MKL with weights
packed beforehand, by rows and shape.

    python bench/linears.py [--threads 2] [--json]

Shapes are those of SmolLM2-135M. Which library is faster depends on the processor's maker, which decides
what `alignloop.model.onednn` uses. Every layer has weights of its own, so that they come from memory.
Packed weights are for one number of rows and take as much memory again; AlignLoop does not use them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576))
"""Outputs and inputs: query and output, key and value, gate and up, down, vocabulary."""
ROWS = (4, 16, 64, 128, 256, 512, 1024)


def rates(rows: int, outputs: int, inputs: int, *, layers: int, repeats: int) -> dict[str, float]:
    """GFLOP/s of each way, the best of some repeats."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(1, rows, inputs)
    weights = [torch.randn(outputs, inputs) for _ in range(layers)]
    packed = [torch.ops.mkl._mkl_reorder_linear_weight(weight, rows) for weight in weights]
    products: dict[str, Callable[[int], torch.Tensor]] = {
        "mkl": lambda i: F.linear(x, weights[i]),
        "onednn": lambda i: torch.ops.mkldnn._linear_pointwise(x, weights[i], None, "none", [], ""),
        "packed": lambda i: torch.ops.mkl._mkl_linear(x, packed[i], weights[i], None, rows),
    }
    best = dict.fromkeys(products, float("inf"))
    with torch.no_grad():
        for _ in range(repeats):
            for name, product in products.items():
                started = time.perf_counter()
                for layer in range(layers):
                    product(layer)
                best[name] = min(best[name], time.perf_counter() - started)
    return {name: 2 * rows * outputs * inputs * layers / seconds / 1e9 for name, seconds in best.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows and shapes."""
    import torch

    from bench.measure import machine

    torch.set_num_threads(options.threads)
    found = []
    for rows in options.rows:
        for outputs, inputs in SHAPES:
            layers = 2 if outputs > 2000 else options.layers
            row = rates(rows, outputs, inputs, layers=layers, repeats=options.repeats)
            found.append({"rows": rows, "outputs": outputs, "inputs": inputs, **row})
    return {"machine": machine(options.threads), "products": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print("| rows | layer | MKL | oneDNN | MKL, packed |\n|---|---|---|---|---|")
    for row in report["products"]:
        layer = f"{row['inputs']} → {row['outputs']}"
        cells = " | ".join(f"{row[way]:.0f}" for way in ("mkl", "onednn", "packed"))
        print(f"| {row['rows']} | {layer} | {cells} |")


if __name__ == "__main__":
    main()
