"""Memory and time of loss and vocabulary head: log-probs over slices against full logits.

    python bench/memory_head.py --json

4 096 counted tokens, a vocabulary of 49 152, hidden size 576, float32, forward and backward into the
hidden states and the head. Each form runs in a process of its own; `memory` is its peak above what
it held before, `without gradient` that less the head's own gradient, which both must return.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import child, machine, memory_gb

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
    before, started, cpu_started = memory_gb("VmRSS"), time.perf_counter(), time.process_time()
    if form == "slices":
        logprobs, _ = token_logprobs(hidden, weight, targets)
    else:
        logprobs = F.log_softmax(F.linear(hidden, weight), -1).gather(1, targets[:, None])[:, 0]
    loss = -logprobs.mean()
    loss.backward()
    return {
        "memory_gb": memory_gb() - before,
        "without_gradient_gb": memory_gb() - before - weight.numel() * 4 / 1e9,
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu_started,
        "loss": float(loss.detach()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--hidden-size", type=int, default=576)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--form", choices=FORMS, help="run one form in this process")
    options = parser.parse_args()
    if options.form:
        print(json.dumps(run(options.form, options.tokens, options.vocabulary, options.hidden_size)))
        return
    sizes = ["--tokens", str(options.tokens), "--vocabulary", str(options.vocabulary)]
    sizes += ["--hidden-size", str(options.hidden_size)]
    forms = {f: child("bench.memory_head", ["--form", f, *sizes], threads=options.threads) for f in FORMS}
    ratio = forms["full"]["memory_gb"] / forms["slices"]["memory_gb"]
    result = {"machine": machine(options.threads), "forms": forms, "memory_ratio": ratio, "target_ratio": 8}
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print("| form | memory GB | without gradient GB | s | CPU s | loss |\n|---|---|---|---|---|---|")
    for name, r in forms.items():
        print(
            f"| {name} | {r['memory_gb']:.3f} | {r['without_gradient_gb']:.3f} | {r['wall_s']:.2f} "
            f"| {r['cpu_s']:.2f} | {r['loss']:.6f} |"
        )
    print(f"\nfull logits take {ratio:.1f} times the memory (aim: at least 8)")


if __name__ == "__main__":
    main()
