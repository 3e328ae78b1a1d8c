"""Every text decoder of transformers: AlignLoop's numbers beside the model's own.

    python bench/architectures.py [--dtype float32 bfloat16] [--only NAME …] [--json] [--output docs/results]

Tiny random models (`bench/zoo.py`). Own numbers come from `model(...)` on unpadded rows, one at a time:
log-probs of completions and their gradient, the greedy decode token by token, the log-probs of sampled
tokens. Each is compared with the same model in the next wider type, where that runs; a number is wrong if
it is farther off than rounding: six times the model's own distance in this type, plus 1/16 √ε of the
log-probs' spread. Exit code 1 if any is.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.data.files import write_whole
from alignloop.data.packing import Group, collate, completion
from alignloop.errors import AlignLoopError, ModelError, first_line
from alignloop.model.cast import cast
from alignloop.model.generate import generate
from alignloop.model.head import FOREIGN
from alignloop.model.packed import PackedModel
from alignloop.model.rope import length_kinds
from alignloop.model.sampling import SamplingParams
from bench import zoo
from bench.measure import machine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32}
COLUMNS = ("log-probs", "gradient", "greedy decode", "sampled log-probs")
PROMPTS, COMPLETIONS = (20, 5), ((7, 9), (6,))
"""Tokens of the groups' prompts and completions: rows longer than the zoo's windows and trained lengths."""
NEW_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Side:
    """What one way of computing gives: log-probs of all completion tokens, and the gradient of their mean."""

    logprobs: Tensor
    gradient: Tensor


@dataclass(frozen=True, slots=True)
class Scale:
    """How far numbers may be off: spread of the log-probs over the vocabulary, the type's precision."""

    spread: float
    eps: float

    def limit(self, own: float, size: float) -> float:
        """Farthest distance that counts as rounding, from the model's own distance and a number's size."""
        return 6 * own + self.eps**0.5 / 16 * size


def groups() -> list[Group]:
    """Two groups of random tokens, the first with two completions."""
    generator = np.random.default_rng(1)
    made = []
    for prompt, lengths in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = [generator.integers(3, 100, size).astype(np.int32) for size in (prompt, *lengths)]
        made.append(Group(ids[0], tuple(completion(x) for x in ids[1:]), len(made)))
    return made


def own_logprobs(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """The model's own log-probs of a completion, from one unpadded row, float32 or wider (tokens,)."""
    row = torch.tensor([[*prompt, *ids]])
    logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def own_side(model: Any) -> Side:
    """Log-probs and gradient by the model itself."""
    rows = [
        own_logprobs(model, g.prompt_ids.tolist(), c.ids.tolist()) for g in groups() for c in g.completions
    ]
    return side(torch.cat(rows), model)


def side(logprobs: Tensor, model: Any) -> Side:
    """A side from log-probs that the gradient goes through."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(logprobs.mean(), parameters, allow_unused=True)
    zero = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return Side(logprobs.detach().double(), torch.cat([g.flatten() for g in zero]).double())


def packed_side(packed: PackedModel) -> Side:
    """Log-probs and gradient by AlignLoop."""
    batch = collate(groups())
    logprobs = packed(batch).logprobs
    assert logprobs is not None
    return side(logprobs[batch.mask], packed.hf)


def wider(model: Any, run: Callable[[Any], Any]) -> Any:
    """What `run` gives on the model in the next wider type; on the model itself where that does not run."""
    try:
        other = copy.deepcopy(model)
        cast(other, WIDER[model.dtype])
        return run(other)
    except FOREIGN:
        return run(model)


def trained(model: Any) -> tuple[dict[str, str], str]:
    """The cells of log-probs and gradient, and how rows run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        packed = PackedModel(copy.deepcopy(model))
    try:
        own = own_side(model)
    except FOREIGN as error:
        raise ModelError(f"{type(model).__name__} itself fails on these rows: {first_line(error)}") from error
    exact, scale = wider(model, own_side), scale_of(model)
    ours = packed_side(packed)
    off, base = (float((x.logprobs - exact.logprobs).square().mean().sqrt()) for x in (ours, own))
    size = exact.gradient.norm()
    ratio, base_ratio = (float((x.gradient - exact.gradient).norm() / size) for x in (ours, own))
    cells = {
        "log-probs": cell(off, scale.limit(base, scale.spread)),
        "gradient": cell(ratio, scale.limit(base_ratio, 1.0)),
    }
    said = [str(w.message) for w in caught if "padded rows" in str(w.message)]
    reason = said[0].removeprefix(f"{type(model).__name__} ").split("; padded")[0] if said else ""
    return cells, f"padded: {reason}" if said else "packed"


def scale_of(model: Any) -> Scale:
    """The model's own scale."""
    with torch.no_grad():
        row = torch.from_numpy(groups()[0].prompt_ids).long()[None]
        table = model(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1)
    return Scale(float(table.std(-1).mean()), torch.finfo(model.dtype).eps)


def sampled(model: Any) -> dict[str, str]:
    """The cells of generation; a refusal is the cell."""
    prompts = [g.prompt_ids.tolist() for g in groups()]
    scale = scale_of(model)
    try:
        params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, eos=())
        decoded = generate(copy.deepcopy(model), None, prompts, params)
        params = SamplingParams(max_tokens=NEW_TOKENS, seed=3, eos=())
        drawn = generate(copy.deepcopy(model), None, prompts, params, n=2)
    except AlignLoopError as error:
        return dict.fromkeys(COLUMNS[2:], f"refused: {error}")
    except FOREIGN as error:
        return dict.fromkeys(COLUMNS[2:], f"WRONG: {type(error).__name__}: {first_line(error)}")
    with torch.no_grad():
        greedy = [compare_greedy(model, p, d[0].ids, scale) for p, d in zip(prompts, decoded, strict=True)]
        rows = [(p, one) for p, several in zip(prompts, drawn, strict=True) for one in several]
        exact = wider(model, lambda m: torch.cat([own_logprobs(m, p, one.ids) for p, one in rows]).double())
        own = torch.cat([own_logprobs(model, p, one.ids) for p, one in rows]).double()
    ours = torch.tensor([x for _, one in rows for x in one.logprobs], dtype=torch.float64)
    off, base = (float((x - exact).square().mean().sqrt()) for x in (ours, own))
    worst = max(greedy, key=("same", "same but for a tie").index) if not any("W" in g for g in greedy) else ""
    return {
        "greedy decode": worst or next(g for g in greedy if "W" in g),
        "sampled log-probs": cell(off, scale.limit(base, scale.spread)),
    }


def compare_greedy(model: Any, prompt: Sequence[int], ids: Sequence[int], scale: Scale) -> str:
    """Whether tokens are the model's own most probable ones; after a tie the rows differ rightly."""
    first = 0
    if length_kinds(model) is None:  # one row says it for all tokens, each place looks back only
        row = torch.tensor([[*prompt, *ids]])
        best = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
        if best == list(ids):
            return "same"
        first = next(place for place, pair in enumerate(zip(best, ids, strict=True)) if pair[0] != pair[1])
    for place in range(first, len(ids)):
        token, row = ids[place], torch.tensor([[*prompt, *ids[:place]]])
        logprobs = model(input_ids=row, use_cache=False).logits[0, -1].float().log_softmax(-1)
        best = int(logprobs.argmax())
        if token != best:
            gap = float(logprobs[best] - logprobs[token])
            exact = wider(model, lambda m, row=row: m(input_ids=row, use_cache=False).logits[0, -1].double())
            own = float((logprobs.double() - exact.log_softmax(-1)).abs().max())
            near = gap <= 2 * scale.limit(own, scale.spread)
            return "same but for a tie" if near else f"WRONG: token {place} is {gap:.2g} nats below the best"
    return "same"


def cell(off: float, limit: float) -> str:
    """A distance as it is shown."""
    return f"{off:.0e}" if off <= limit else f"WRONG: {off:.2g}, {limit:.0e} would be rounding"


def row(name: str, dtype: torch.dtype) -> dict[str, str]:
    """One line of the table."""
    model = zoo.tiny(name, dtype=dtype)
    line = {"architecture": name, "class": type(model).__name__}
    try:
        cells, rows = trained(model)
    except AlignLoopError as error:
        cells, rows = dict.fromkeys(COLUMNS[:2], f"refused: {error}"), "refused"
    except FOREIGN as error:
        text = f"WRONG: {type(error).__name__}: {first_line(error)}"
        cells, rows = dict.fromkeys(COLUMNS[:2], text), "crashed"
    try:
        return line | {"rows": rows} | cells | sampled(model)
    except FOREIGN as error:  # the model itself does not run
        text = f"refused: {first_line(error)}" if rows == "refused" else f"WRONG: {first_line(error)}"
        return line | {"rows": rows} | cells | dict.fromkeys(COLUMNS[2:], text)


def wrong(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Architectures with a number that is neither right nor refused."""
    return [line["architecture"] for line in lines if any("WRONG" in str(v) for v in line.values())]


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """The lines as a table; sentences of refusal below it, numbered where they are longer than a cell."""
    notes: dict[str, int] = {}

    def short(text: str) -> str:
        if len(text) <= 24:
            return text
        kind, _, sentence = text.partition(": ")
        return f"{kind} [{notes.setdefault(sentence, len(notes) + 1)}]"

    rows = ["| architecture | rows | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for line in lines:
        cells = " | ".join(short(line[name]) for name in ("rows", *COLUMNS))
        rows.append(f"| {line['architecture']} | {cells} |")
    sentences = [f"{number}. {sentence}" for sentence, number in notes.items()]
    return "\n".join([*rows, "", *sentences])


def page(results: Mapping[str, Sequence[Mapping[str, str]]], described: Mapping[str, Any]) -> str:
    """docs/results/architectures.md."""
    where = ", ".join(f"{name} {value}" for name, value in described.items())
    left_out: dict[str, list[str]] = {}
    for name, reason in zoo.SKIPPED.items():
        left_out.setdefault(reason, []).append(name)
    parts = [
        f"""# Every text decoder of transformers

`python bench/architectures.py --output docs/results`; {where}.

Tiny random models with windows, chunks and trained lengths shorter than the rows. Log-probs of completions
(root mean square, nats), gradient (relative), greedy decode and log-probs of sampled tokens (nats) against
`model(...)` on unpadded rows in the next wider type. "packed": each prompt runs once for its completions;
"padded": each completion with its whole prompt. What is refused is refused with the sentence below the table;
a number farther off than rounding (six times the model's own, plus 1/16 √ε of the log-probs' spread) would
read WRONG.
"""
    ]
    for dtype, lines in results.items():
        packed = sum(line["rows"] == "packed" for line in lines)
        padded = sum(line["rows"].startswith("padded") for line in lines)
        refused = sum(line["rows"] == "refused" for line in lines)
        sampling = sum("refused" not in line["greedy decode"] for line in lines)
        parts.append(
            f"## {dtype}\n\n{len(lines)} lines: {packed} train on packed rows, {padded} on padded rows, "
            f"{refused} are refused; the local engine generates with {sampling}. Wrong: "
            f"{', '.join(wrong(lines)) or 'none'}.\n\n{table(lines)}\n"
        )
    rest = "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in left_out.items())
    parts.append(f"## Entries of transformers' list without a line\n\n{rest}\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--only", choices=zoo.names(), nargs="+", metavar="NAME", help="these architectures")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, help="folder for architectures.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    results: dict[str, list[dict[str, str]]] = {}
    for dtype in options.dtype:
        results[dtype] = []
        for name in options.only or zoo.names():
            results[dtype].append(row(name, DTYPES[dtype]))
            print(f"{dtype} " + " | ".join(results[dtype][-1].values()), file=sys.stderr, flush=True)
    described = machine(options.threads)
    if options.output:
        write_whole(options.output / "architectures.md", [page(results, described)])
    if options.json:
        print(json.dumps({"machine": described, "results": results}))
    else:
        print("\n\n".join(f"{dtype}\n{table(lines)}" for dtype, lines in results.items()))
    return 1 if any(wrong(lines) for lines in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
