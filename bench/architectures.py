"""Every text decoder of transformers: AlignLoop's numbers beside the model's own.

    python bench/architectures.py [--dtype float32 bfloat16] [--only NAME …] [--json] [--output docs/results]

Tiny random models (`bench/zoo.py`), saved in float32 and loaded in the type, as `load_model` does it. Own
numbers come from `model(...)` on unpadded rows, one at a time: log-probs of completions and their gradient,
the greedy decode token by token, the log-probs of sampled tokens. Each is compared with the same model in the
next wider type, where that runs, given the choices of experts and indexed tokens that were made
(`bench/choices.py`); a number is wrong if it is farther off than rounding: six times the model's own largest
distance in this type, plus 1/16 √ε of the log-probs' spread. A choice is wrong if what it took lies farther
below what it should have taken than the same bound on scores. Exit code 1 if anything is.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.data.packing import Group, collate, completion
from alignloop.errors import AlignLoopError, ModelError, first_line
from alignloop.io import write_whole
from alignloop.model.cast import cast
from alignloop.model.generate import generate
from alignloop.model.head import FOREIGN
from alignloop.model.layouts import padded
from alignloop.model.packed import PackedModel
from alignloop.model.rope import length_kinds
from alignloop.model.sampling import SamplingParams
from bench import zoo
from bench.architectures_report import CHOICES, COLUMNS, page, table, wrong
from bench.choices import Count, Given, Pass, farthest, noted, of_row
from bench.measure import machine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32}
PROMPTS, COMPLETIONS = (20, 5), ((7, 9), (6,))
"""Tokens of the groups' prompts and completions: rows longer than the zoo's windows and trained lengths."""
NEW_TOKENS = 12

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompts and completions, a pair for each row."""


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


def own_rows(model: Any, rows: Rows, given: Sequence[Given] = ()) -> tuple[list[Tensor], list[Pass]]:
    """The model's own log-probs of completions, with choices given for each row if any are; its passes."""
    found: list[Tensor] = []
    passes: list[Pass] = []
    for number, (prompt, ids) in enumerate(rows):
        with noted(model) as notes:
            notes.given = list(given[number]) if given else []
            found.append(own_logprobs(model, prompt, ids))
        passes += notes.passes[:1]
    return found, passes


def known(passes: Sequence[Pass], places: Sequence[Sequence[tuple[int, int]]], lengths: Sequence[int]) -> Any:
    """The choices of rows whose tokens are at these places of passes; none where a model makes none."""
    rows = [of_row(passes, row, length) for row, length in zip(places, lengths, strict=True)]
    return rows if all(rows) else []


@dataclass(frozen=True, slots=True)
class Exact:
    """A computation in the wider type, given the choices of ours and of the model's own.

    Attributes:
        ours, own: what it gives, given the choices of either.
        wrong: sentence of a choice that is no rounding, or "".
        count: choices of ours.
    """

    ours: Any
    own: Any
    wrong: str
    count: Count


def exactly(model: Any, rows: Rows, given: Sequence[Given], own: Sequence[Pass], run: Any) -> Exact:
    """What `run(model, rows, given)` gives in the wider type.

    Args:
        model: the model.
        rows: prompts and completions.
        given: our choices, none where there are none.
        own: the model's own passes over the rows in its type.
        run: gives a result and the passes that led to it.
    """
    own_given = (
        known(
            own,
            [[(n, i) for i in range(len(p) + len(c))] for n, (p, c) in enumerate(rows)],
            [len(p) + len(c) for p, c in rows],
        )
        if given
        else []
    )
    ours, passes = wider(model, lambda m: run(m, rows, given))
    count, base = Count(), 0.0
    other = ours
    if given:
        other, others = wider(model, lambda m: run(m, rows, own_given))
        for one in passes:
            count.add(one)
        base = farthest(own, others)
    limit = Scale(count.spread, torch.finfo(model.dtype).eps).limit(base, count.spread)
    far = f"WRONG: a choice lies {count.margin:.2g} below, {limit:.0e} would be rounding"
    return Exact(ours, other, far if count.margin > limit else "", count)


def own_side(model: Any, rows: Rows, given: Sequence[Given] = ()) -> tuple[Side, list[Pass]]:
    """Log-probs and gradient by the model itself, and its passes."""
    found, passes = own_rows(model, rows, given)
    return side(torch.cat(found), model), passes


def side(logprobs: Tensor, model: Any) -> Side:
    """A side from log-probs that the gradient goes through."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(logprobs.mean(), parameters, allow_unused=True)
    zero = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return Side(logprobs.detach().double(), torch.cat([g.flatten() for g in zero]).double())


def packed_side(packed: PackedModel) -> tuple[Side, list[Given]]:
    """Log-probs and gradient by AlignLoop, and its choices for each completion's row."""
    batch = collate(groups())
    with noted(packed.hf) as notes:
        logprobs = packed(batch).logprobs
    assert logprobs is not None
    places: list[list[tuple[int, int]]] = []
    ids, mask, _, _ = padded(batch)
    for span in batch.segments.spans:
        start = span.start + span.prompt_length
        for length in span.lengths:
            number, whole = len(places), range(span.prompt_length + length)
            if packed.layout == "packed":
                row = [*range(span.start, span.start + span.prompt_length), *range(start, start + length)]
                places.append([(0, i) for i in row])
            elif packed.layout == "padded":
                places.append([(0, number * ids.shape[1] + i) for i in whole])
            else:
                places.append([(number, i) for i in whole])
            start += length
    one_pass = len(notes.passes) == (len(places) if packed.layout == "alone" else 1)
    given = known(notes.passes, places, mask.sum(1).tolist()) if one_pass else []
    return side(logprobs[batch.mask], packed.hf), given


def wider(model: Any, run: Callable[[Any], Any]) -> Any:
    """What `run` gives on the model in the next wider type; on the model itself where that does not run."""
    try:
        other = copy.deepcopy(model)
        cast(other, WIDER[model.dtype])
        return run(other)
    except FOREIGN:
        return run(model)


def trained(model: Any) -> tuple[dict[str, str], str, Count]:
    """The cells of log-probs and gradient, how rows run, and how choices fell."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        packed = PackedModel(copy.deepcopy(model))
    rows = [(g.prompt_ids.tolist(), c.ids.tolist()) for g in groups() for c in g.completions]
    try:
        own, passes = own_side(copy.deepcopy(model), rows)  # some keep the last row's state, graph and all
    except FOREIGN as error:
        raise ModelError(f"{type(model).__name__} itself fails on these rows: {first_line(error)}") from error
    ours, given = packed_side(packed)
    exact, scale = exactly(model, rows, given, passes, own_side), scale_of(model)
    pairs = ((ours, exact.ours), (own, exact.own))
    off, base = (float((a.logprobs - b.logprobs).abs().max()) for a, b in pairs)
    ratio, base_ratio = (float((a.gradient - b.gradient).norm() / b.gradient.norm()) for a, b in pairs)
    cells = {
        "log-probs": exact.wrong or cell(off, scale.limit(base, scale.spread)),
        "gradient": cell(ratio, scale.limit(base_ratio, 1.0)),
    }
    said = [str(w.message) for w in caught if "instead, which" in str(w.message)]
    if not said:
        return cells, packed.layout, exact.count
    reason = said[0].removeprefix(f"{type(model).__name__} ").rsplit("; ", 1)[0]
    return cells, f"{packed.layout}: {reason}", exact.count


def scale_of(model: Any) -> Scale:
    """The model's own scale."""
    with torch.no_grad():
        row = torch.from_numpy(groups()[0].prompt_ids).long()[None]
        table = model(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1)
    return Scale(float(table.std(-1).mean()), torch.finfo(model.dtype).eps)


def sampled(model: Any) -> tuple[dict[str, str], Count]:
    """The cells of generation, a refusal being the cell, and how choices fell."""
    prompts = [g.prompt_ids.tolist() for g in groups()]
    scale, copied = scale_of(model), copy.deepcopy(model)
    try:
        params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, eos=())
        decoded = generate(copied, None, prompts, params)
        params = SamplingParams(max_tokens=NEW_TOKENS, seed=3, eos=())
        with noted(copied) as notes:
            drawn = generate(copied, None, prompts, params, n=2)
    except AlignLoopError as error:
        return dict.fromkeys(COLUMNS[2:], f"refused: {error}"), Count()
    except FOREIGN as error:
        return dict.fromkeys(COLUMNS[2:], f"WRONG: {type(error).__name__}: {first_line(error)}"), Count()
    rows = [(p, one.ids) for p, several in zip(prompts, drawn, strict=True) for one in several]
    with torch.no_grad():
        greedy = [compare_greedy(model, p, d[0].ids, scale) for p, d in zip(prompts, decoded, strict=True)]
        own, passes = own_rows(model, rows)
        exact = exactly(model, rows, engine_choices(notes.passes, rows), passes, own_rows)
    ours = torch.tensor(
        [x for several in drawn for one in several for x in one.logprobs], dtype=torch.float64
    )
    off, base = (
        float((a - torch.cat(b).double()).abs().max())
        for a, b in ((ours, exact.ours), (torch.cat(own).double(), exact.own))
    )
    worst = max(greedy, key=("same", "same but for a tie").index) if not any("W" in g for g in greedy) else ""
    return {
        "greedy decode": worst or next(g for g in greedy if "W" in g),
        "sampled log-probs": exact.wrong or cell(off, scale.limit(base, scale.spread)),
    }, exact.count


def engine_choices(passes: Sequence[Pass], rows: Rows) -> list[Given]:
    """The engine's choices for each row: prompts run first, side by side, then all rows token by token."""
    prompts = list(dict.fromkeys(tuple(prompt) for prompt, _ in rows))
    first = [token for prompt in prompts for token in prompt]
    steps = [[ids[t] for _, ids in rows] for t in range(len(rows[0][1]) - 1)]
    if [one.ids.tolist() for one in passes] != [first, *steps]:
        return []
    starts = {prompt: sum(len(p) for p in prompts[:i]) for i, prompt in enumerate(prompts)}
    places = [
        [(0, starts[tuple(prompt)] + i) for i in range(len(prompt))]
        + [(1 + t, number) for t in range(len(steps))]
        for number, (prompt, _) in enumerate(rows)
    ]
    return known(passes, places, [len(prompt) + len(ids) for prompt, ids in rows])


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
    counts: list[Count] = []
    try:
        cells, rows, count = trained(model)
        counts.append(count)
    except AlignLoopError as error:
        cells, rows = dict.fromkeys(COLUMNS[:2], f"refused: {error}"), "refused"
    except FOREIGN as error:
        text = f"WRONG: {type(error).__name__}: {first_line(error)}"
        cells, rows = dict.fromkeys(COLUMNS[:2], text), "crashed"
    try:
        generated, count = sampled(model)
        counts.append(count)
    except FOREIGN as error:  # the model itself does not run
        text = f"refused: {first_line(error)}" if rows == "refused" else f"WRONG: {first_line(error)}"
        generated = dict.fromkeys(COLUMNS[2:], text)
    made, others = (sum(getattr(c, name) for c in counts) for name in ("made", "others"))
    return line | {"rows": rows} | cells | generated | {CHOICES: f"{others} of {made}" if made else "–"}


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
    transformers.logging.disable_progress_bar()
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
