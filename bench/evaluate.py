"""Evaluation: two models on held-out prompts, `alignloop evaluate` against transformers' `generate`.

    python -m bench.evaluate [--prompts 200] [--tokens 64] [--threads 2] [--rounds 1] [--json]

Both sides answer every prompt greedily with both models and measure length, gold pass rate and the
log-ratio of the two models on the second one's answers, in float32, each in a process of its own whose
whole time counts, loading included; they take turns, and nothing that one run kept is found by another.
transformers' side sorts prompts by length, pads them on the left and uses the fastest of --batch-sizes,
found beforehand on some of the prompts; the second model's log-probs of its own answers come from the
logits that `generate` returns, so that only the first one has to read them. It computes no intervals and
writes no report. Prompts are AlignLoop's instruction task, a third of them with a passage of text before
the question. Without --after the second model is the first with a little noise on its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import ROOT, child, machine

TARGET = 1 / 3
"""Greatest share of transformers' time aimed at."""
TRIAL = 64
"""Prompts on which batch sizes are tried."""
NOISE = 0.02
"""Standard deviation of a weight's relative change in the second model."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", default="smollm2-135m-instruct")
    parser.add_argument("--after", default="", help="another model of the same kind; empty makes one")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, help="folder for evaluate.md and evaluate.json")
    parser.add_argument("--side", choices=("trial", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write_prompts(path: Path, number: int) -> None:
    """The prompts both sides answer, 20 to 200 tokens long."""
    from alignloop.data.columns import record_to_row
    from alignloop.data.instructions import documents, instruction_prompts
    from alignloop.io import write_whole

    texts = [document.text for document in documents("eval")]
    prompts = instruction_prompts("eval", number, 0)
    for place in range(0, number, 3):
        (message,) = prompts[place].prompt
        content = f"{texts[place // 3 % len(texts)]}\n\n{message.content}"
        prompts[place] = replace(prompts[place], prompt=(replace(message, content=content),))
    write_whole(path, (json.dumps(record_to_row(p), ensure_ascii=False) + "\n" for p in prompts))


def models(before: str, after: str, scratch: Path) -> tuple[str, str]:
    """Both as folders, so that neither side converts or downloads; the second made if it is not given."""
    from alignloop.model.load import load_model
    from alignloop.model.save import save_model

    first = load_model(before, dtype="float32", device="cpu")
    folder = str(first.path or before)
    if after:
        return folder, str(load_model(after, dtype="float32", device="cpu").path or after)
    import torch

    generator = torch.Generator().manual_seed(0)
    for weight in first.model.parameters():
        weight.data *= 1 + NOISE * torch.randn(weight.shape, generator=generator)
    save_model(first.model, first.tokenizer, scratch / "after")
    return folder, str(scratch / "after")


class Transformers:
    """One model as a script over transformers would use it.

    Arguments:
        name: of the model.
        prompts: records.
        batch_size: of generation and of log-probs.
        tokens: longest answer.
    """

    def __init__(self, name: str, prompts: Sequence[Any], *, batch_size: int, tokens: int) -> None:
        from alignloop.model.load import load_model
        from alignloop.stages.common import inference_encoder

        loaded = load_model(name, dtype="float32", device="cpu")
        self.encoder = inference_encoder(loaded, "tokenizer")
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.batch_size, self.tokens = batch_size, tokens
        self.prompts = [self.encoder.prompt(prompt.prompt).tolist() for prompt in prompts]

    def answers(self, *, logprobs: bool = False) -> tuple[list[list[int]], list[float]]:
        """Greedy answers as token ids, the end token included, and the log-prob of each, nats, if wanted."""
        found: list[list[int]] = [[] for _ in self.prompts]
        sums = [0.0] * len(self.prompts)
        ends = self.model.generation_config.eos_token_id  # pyright: ignore[reportOptionalMemberAccess]
        ends = set(ends if isinstance(ends, list) else [ends])
        for rows in self._batches([len(prompt) for prompt in self.prompts]):
            batch = self._padded([self.prompts[row] for row in rows])
            made = self.model.generate(  # pyright: ignore[reportCallIssue]
                **batch,
                do_sample=False,
                max_new_tokens=self.tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                output_logits=logprobs,
                return_dict_in_generate=True,
            )
            for row, ids in zip(rows, made.sequences[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
                found[row] = ids[: end + 1]
            if logprobs:
                tokens = self.model.compute_transition_scores(  # pyright: ignore[reportCallIssue]
                    made.sequences, made.logits, normalize_logits=True
                )
                for place, row in enumerate(rows):
                    sums[row] = float(tokens[place, : len(found[row])].sum())
        return found, sums

    def logprobs(self, answers: Sequence[Sequence[int]]) -> list[float]:
        """Log-prob of each answer, nats."""
        import torch

        found = [0.0] * len(answers)
        whole = [[*p, *a] for p, a in zip(self.prompts, answers, strict=True)]
        for rows in self._batches([len(ids) for ids in whole]):
            batch = self._padded([whole[row] for row in rows])
            longest = max(len(answers[row]) for row in rows)
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.no_grad():
                logits = self.model(**batch, position_ids=positions, logits_to_keep=longest + 1).logits
            chosen = batch["input_ids"][:, -longest:, None]
            tokens = torch.log_softmax(logits[:, :-1], -1).gather(-1, chosen).squeeze(-1)
            for place, row in enumerate(rows):
                found[row] = float(tokens[place, longest - len(answers[row]) :].sum())
        return found

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _padded(self, rows: Sequence[Sequence[int]]) -> Any:
        return self.tokenizer.pad(
            {"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt"
        )


def read(path: Path) -> list[Any]:
    """The prompts."""
    from alignloop.data.columns import read_records

    return list(read_records(str(path), kind="prompt").records)


def trial(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds that transformers takes for the first prompts, by batch size."""
    prompts, seconds = read(chosen.dataset)[:TRIAL], {}
    for size in chosen.batch_sizes:
        side = Transformers(chosen.before, prompts, batch_size=size, tokens=chosen.tokens)
        began = time.perf_counter()
        side.answers()
        seconds[str(size)] = time.perf_counter() - began
    return seconds


def with_transformers(chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything `alignloop evaluate` measures, by transformers alone."""
    from alignloop.rl.verifiers import VERIFIERS

    prompts, (size,) = read(chosen.dataset), chosen.batch_sizes
    sides = [
        Transformers(name, prompts, batch_size=size, tokens=chosen.tokens)
        for name in (chosen.before, chosen.after)
    ]
    before, after = sides
    said, own = after.answers(logprobs=True)
    answers = [before.answers()[0], said]
    texts = [
        [str(side.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in given]
        for side, given in zip(sides, answers, strict=True)
    ]
    ratios = zip(own, before.logprobs(said), strict=True)
    gold = VERIFIERS["constraints"]
    return {
        "answers": texts,
        "tokens": sum(len(ids) for given in answers for ids in given),
        "kl": statistics.mean(new - old for new, old in ratios),
        "gold_pass_rate": [
            statistics.mean(gold(t, p) == 1.0 for t, p in zip(given, prompts, strict=True)) for given in texts
        ],
    }


def with_alignloop(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`alignloop evaluate` in a process of its own; what its run folder says."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(chosen.threads)}
    # `alignloop evaluate` keeps answers under their models' content and would find an earlier run's.
    environment["ALIGNLOOP_CACHE"] = str(folder.with_name(f"{folder.name}-cache"))
    settings = {
        "before": chosen.before, "after": chosen.after, "dataset": chosen.dataset, "output_dir": folder,
        "num_prompts": chosen.prompts, "max_new_tokens": chosen.tokens, "dtype": "float32", "device": "cpu",
        "num_threads": chosen.threads,
    }  # fmt: skip
    command = [sys.executable, "-m", "alignloop", "evaluate"]
    done = subprocess.run(
        [*command, *(f"{key}={value}" for key, value in settings.items())],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"alignloop evaluate failed:\n{done.stderr[-2000:]}")
    metrics = json.loads((folder / "run.json").read_text(encoding="utf-8"))["results"]["metrics"]
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    rates = metrics["gold_pass_rate"]
    return {
        "answers": [[row[key] for row in samples] for key in ("completion_before", "completion")],
        "kl": metrics["kl"]["after"],
        "gold_pass_rate": [rates["before"], rates["after"]],
    }


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn, and whether they found the same."""
    ours, theirs, found = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after = models(chosen.before, chosen.after, folder)
        data = folder / "prompts.jsonl"
        write_prompts(data, chosen.prompts)
        same = argparse.Namespace(**vars(chosen) | {"before": before, "after": after, "dataset": data})
        arguments = ["--before", before, "--after", after, "--tokens", str(chosen.tokens)]
        arguments += ["--dataset", str(data)]
        sizes = [str(size) for size in chosen.batch_sizes]
        side = partial(child, "bench.evaluate", threads=chosen.threads, passive=False)
        trials = side([*arguments, "--side", "trial", "--batch-sizes", *sizes])
        best = min(trials, key=trials.__getitem__)
        for turn in range(chosen.rounds):
            began = time.perf_counter()
            other = side([*arguments, "--side", "transformers", "--batch-sizes", best])
            theirs.append(time.perf_counter() - began)
            began = time.perf_counter()
            found = [with_alignloop(same, folder / f"run-{turn}"), other]
            ours.append(time.perf_counter() - began)
    return summary(chosen, trials, ours, theirs, *found)


def summary(
    chosen: argparse.Namespace,
    trials: dict[str, float],
    ours: Sequence[float],
    theirs: Sequence[float],
    found: dict[str, Any],
    other: dict[str, Any],
) -> dict[str, Any]:
    """Medians, their ratio, and the agreement of the two sides."""
    pairs = [
        a == b
        for mine, his in zip(found["answers"], other["answers"], strict=True)
        for a, b in zip(mine, his, strict=True)
    ]
    share = statistics.median(ours) / statistics.median(theirs)
    return {
        "models": [chosen.before, chosen.after or f"the same with {NOISE:.0%} noise"],
        "prompts": chosen.prompts,
        "longest": chosen.tokens,
        "tokens": other["tokens"],
        "alignloop_s": round(statistics.median(ours), 2),
        "transformers_s": round(statistics.median(theirs), 2),
        "share": round(share, 3),
        "target_met": share <= TARGET,
        "batch_size": int(min(trials, key=trials.__getitem__)),
        "trial_s": {size: round(seconds, 2) for size, seconds in trials.items()},
        "runs_s": {"alignloop": list(ours), "transformers": list(theirs)},
        "equal_answers": statistics.mean(pairs),
        "kl": [found["kl"], other["kl"]],
        "gold_pass_rate": [found["gold_pass_rate"], other["gold_pass_rate"]],
        "machine": machine(chosen.threads),
    }


def page(report: dict[str, Any], command: str) -> str:
    """docs/results/evaluate.md."""
    where = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    tried = ", ".join(f"{size}: {seconds} s" for size, seconds in report["trial_s"].items())
    met = "met" if report["target_met"] else "missed"
    return f"""# Evaluation against transformers' generate

```
{command}
```

{where}. Models {" and ".join(report["models"])}, {report["prompts"]} prompts, answers up to
{report["longest"]} tokens, greedy, {report["tokens"]} tokens in all. Both sides: answers of both
models, length, gold pass rate, log-ratio of the models on the second one's answers; whole processes, loading
included. transformers pads on the left in batches of {report["batch_size"]}, the fastest on {TRIAL} prompts
({tried}).

| side | seconds | equal answers | log-ratio | gold pass rate |
|---|---|---|---|---|
| transformers | {report["transformers_s"]} | | {report["kl"][1]:.5f} | {report["gold_pass_rate"][1]} |
| alignloop evaluate | {report["alignloop_s"]} | {report["equal_answers"]:.1%} | {report["kl"][0]:.5f} \
| {report["gold_pass_rate"][0]} |

Share of transformers' time: {report["share"]:.2f}; the target, at most {TARGET:.2f}, is {met}.
"""


def main() -> None:
    """Measure, print, write."""
    chosen = options()
    if chosen.side is not None:
        run = {"trial": trial, "transformers": with_transformers}[chosen.side]
        print(json.dumps(run(chosen), ensure_ascii=False))
        return
    report = measure(chosen)
    command = f"python -m bench.evaluate {' '.join(sys.argv[1:])}".strip()
    if chosen.output is not None:
        from alignloop.io import write_whole

        write_whole(chosen.output / "evaluate.md", [page(report, command)])
        write_whole(chosen.output / "evaluate.json", [json.dumps(report, indent=1) + "\n"])
    print(json.dumps(report, ensure_ascii=False) if chosen.json else page(report, command))


if __name__ == "__main__":
    sys.exit(main())
