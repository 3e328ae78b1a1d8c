"""Memory and time of loss and vocabulary head: log-probs over slices against full logits.

    python bench/memory_head.py --output docs/results

512 to 4 096 counted tokens, a vocabulary of 49 152, hidden size 576, float32, forward and backward into
the hidden states and the head. Each form runs in a process of its own; `memory` is its peak above what
it held before, `without gradient` that less the head's own gradient, which both must return.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from alignloop.machine import memory_gb
from bench.measure import child, machine
from bench.picture import picture

FORMS = ("slices", "full")


def run(form: str, tokens: int, vocabulary: int, hidden_size: int) -> dict[str, float]:
    """One forward and backward pass of a form, in this process."""
    import torch
    import torch.nn.functional as F

    from alignloop.model.logprobs import token_logprobs

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, hidden_size, generator=generator) / hidden_size**0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    token_logprobs(hidden[:8], weight[:256], targets[:8] % 256)[0].sum().backward()  # loads the libraries
    hidden.grad = weight.grad = None
    before, started, cpu_started = memory_gb(), time.perf_counter(), time.process_time()
    if form == "slices":
        logprobs, _ = token_logprobs(hidden, weight, targets)
    else:
        logprobs = F.log_softmax(F.linear(hidden, weight), -1).gather(1, targets[:, None])[:, 0]
    loss = -logprobs.mean()
    loss.backward()
    return {
        "memory_gb": memory_gb(peak=True) - before,
        "without_gradient_gb": memory_gb(peak=True) - before - weight.numel() * 4 / 1e9,
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu_started,
        "loss": float(loss.detach()),
    }


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """Forms and sizes as Markdown."""
    lines = ["| tokens | form | memory GB | without gradient GB | s | CPU s | loss |"]
    lines.append("|---|---|---|---|---|---|---|")
    for point in points:
        for name in FORMS:
            r = point[name]
            cells = [str(point["tokens"]), name, f"{r['memory_gb']:.3f}", f"{r['without_gradient_gb']:.3f}"]
            cells += [f"{r['wall_s']:.2f}", f"{r['cpu_s']:.2f}", f"{r['loss']:.6f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sentence(points: Sequence[Mapping[str, Any]]) -> str:
    """The ratio at the largest size."""
    last = points[-1]
    ratio = last["full"]["memory_gb"] / last["slices"]["memory_gb"]
    return (
        f"At {last['tokens']} counted tokens full logits take {ratio:.1f} times the memory (aim: at least 8)."
    )


def write(points: Sequence[Mapping[str, Any]], described: Mapping[str, Any], folder: Path) -> None:
    """memory_head.md, .json and .svg."""
    where = ", ".join(f"{name} {value}" for name, value in described.items())
    text = "# Memory of loss and vocabulary head\n\n`python bench/memory_head.py --output docs/results`; "
    text += f"{where}.\n"
    text += f"\n![memory over counted tokens](memory_head.svg)\n\n{table(points)}\n\n{sentence(points)}\n"
    lines = {form: [(p["tokens"], p[form]["memory_gb"]) for p in points] for form in FORMS}
    write_whole(folder / "memory_head.md", [text])
    write_whole(folder / "memory_head.svg", [picture([("Memory, GB", "counted tokens", lines)])])
    record = {"machine": dict(described), "points": list(points)}
    write_whole(folder / "memory_head.json", [json.dumps(record, indent=1) + "\n"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--hidden-size", type=int, default=576)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for table, numbers and picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--form", choices=FORMS, help="run one form in this process")
    options = parser.parse_args()
    if options.form:
        print(json.dumps(run(options.form, options.tokens[0], options.vocabulary, options.hidden_size)))
        return
    sizes = ["--vocabulary", str(options.vocabulary), "--hidden-size", str(options.hidden_size)]
    points = []
    for tokens in options.tokens:
        point: dict[str, Any] = {"tokens": tokens}
        for form in FORMS:
            arguments = ["--form", form, "--tokens", str(tokens), *sizes]
            point[form] = child("bench.memory_head", arguments, threads=options.threads)
        points.append(point)
    described = machine(options.threads)
    print(json.dumps({"machine": described, "points": points}) if options.json else table(points))
    print(sentence(points), file=sys.stderr)
    if options.output:
        write(points, described, options.output)


if __name__ == "__main__":
    main()
