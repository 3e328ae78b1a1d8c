"""The tables and pictures of bench/objectives.py, from its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from alignloop.evaluation.bootstrap import Interval, mean_interval, rate_interval
from alignloop.evaluation.winrate import win_rate
from alignloop.io import write_whole
from bench.picture import picture

Result = Mapping[str, Any]
START = "start"
CURVES = (
    ("Loss", ("loss",)),
    ("Log-probability, nats per completion", ("chosen_logprob", "rejected_logprob")),
    ("Reward", ("chosen_reward", "rejected_reward")),
    ("Correlation with the tokens", ("quality_tokens_correlation", "length_tokens_correlation")),
)
"""Title and metrics of each plot of a picture; the means over seeds."""


def policy_row(results: Sequence[Result], starts: Mapping[int, Result]) -> dict[str, Any]:
    """One policy over its seeds: every answer is a value, prompts are the sampled unit.

    A win is an answer whose gold reward is above that of the start model's answer to the same prompt,
    drawn with the same random numbers; equal ones are ties, ½.
    """
    gold, wins, tokens, kl, prompts = [], [], [], [], []
    for result in results:
        start = starts[result["seed"]]["gold"]
        for number, row in enumerate(result["gold"]):
            gold += row
            pairs = zip(row, start[number][: len(row)], strict=True)
            wins += [0.5 + 0.5 * ((new > old) - (new < old)) for new, old in pairs]
            tokens += result["tokens"][number]
            kl += result.get("kl", [[0.0] * len(r) for r in result["gold"]])[number]
            prompts += [number] * len(row)
    return {
        "gold": _plain(rate_interval(gold, prompts)),
        "win_rate": _plain(win_rate(wins, prompts)),
        "tokens": _plain(mean_interval(tokens, prompts, method="wilson", bounds=(0, max(tokens)))),
        "kl": _plain(mean_interval(kl, prompts)) if any(kl) else None,
    }


def reward_row(results: Sequence[Result], starts: Mapping[int, Result]) -> dict[str, Any]:
    """One reward model over its seeds: does it order the start model's answers as the gold reward does?"""
    right, prompts, best, which = [], [], [], []
    for result in results:
        for number, scores in enumerate(result["scores"]):
            gold = starts[result["seed"]]["gold"][number]
            best.append(gold[int(np.argmax(scores))])
            which.append(number)
            for i, j in combinations(range(len(scores)), 2):
                if gold[i] != gold[j]:
                    right.append(0.5 + 0.5 * np.sign((scores[i] - scores[j]) * (gold[i] - gold[j])))
                    prompts.append(number)
    accuracy = _plain(rate_interval(right, prompts)) if len(set(prompts)) > 1 else None
    return {"accuracy": accuracy, "best": _plain(rate_interval(best, which)), "pairs": len(right)}


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for each name, in order of appearance."""
    starts = {r["seed"]: r for r in results if r["name"] == START}
    rows = []
    for name in dict.fromkeys(r["name"] for r in results):
        own = [r for r in results if r["name"] == name and r["seed"] in starts]
        if not own:
            continue
        made = (reward_row if own[0]["kind"] == "reward" else policy_row)(own, starts)
        row = {"name": name, "kind": own[0]["kind"], "seeds": [r["seed"] for r in own], **made}
        if name != START:
            row["objective"] = own[0]["objective"]
            row["steps"] = len(own[0]["history"])
            for key in ("train_s", "train_cpu_s", "peak_memory_gb"):
                row[key] = float(np.median([r[key] for r in own]))
        rows.append(row)
    return rows


def _interval(found: Mapping[str, float] | None, form: str) -> str:
    if found is None:
        return "–"
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Policies, then reward models, as Markdown."""
    lines = [
        "| objective | gold pass rate | win rate against the start | tokens | KL, nats per answer "
        "| training s | peak GB | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in (r for r in rows if r["kind"] == "policy"):
        cells = [r["name"], _interval(r["gold"], ".3f")]
        cells.append("–" if r["name"] == START else _interval(r["win_rate"], ".3f"))
        cells += [_interval(r["tokens"], ".1f"), _interval(r["kl"], ".2f"), *_cost(r), _seeds(r)]
        lines.append("| " + " | ".join(cells) + " |")
    rewards = [r for r in rows if r["kind"] == "reward"]
    if rewards:
        lines += [
            "",
            "| reward objective | held-out pairs in the gold order | gold pass rate of its best answer ",
        ]
        lines[-1] += "| training s | peak GB | seeds |"
        lines.append("|---|---|---|---|---|---|")
    for r in rewards:
        cells = [
            r["name"],
            _interval(r["accuracy"], ".3f"),
            _interval(r["best"], ".3f"),
            *_cost(r),
            _seeds(r),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost(row: Mapping[str, Any]) -> list[str]:
    if "train_s" not in row:
        return ["–", "–"]
    return [f"{row['train_s']:.0f}", f"{row['peak_memory_gb']:.2f}"]


def _seeds(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row["seeds"]))


def curve(results: Sequence[Result]) -> str:
    """Learning curves of one objective, averaged over its seeds."""
    plots = []
    for title, names in CURVES:
        lines = {}
        for name in names:
            rows = [[step.get(name, np.nan) for step in r["history"]] for r in results]
            means = np.mean(rows, axis=0)
            label = name.split("_")[0]
            if np.isfinite(means).any():
                lines[label] = [(float(k), float(m)) for k, m in enumerate(means, 1)]
        if lines:
            plots.append((title, "step", lines))
    return picture(plots)


def write(results: Sequence[Result], described: Mapping[str, Any], docs: Path) -> None:
    """objectives.md and .json in docs/results, one SVG for each objective in docs/objectives/img."""
    rows = summary(results)
    folder, images = docs / "results", docs / "objectives" / "img"
    text = table(rows)
    sizes, model = results[0]["sizes"], results[0]["model"]
    record = {"machine": dict(described), "model": model, "sizes": sizes, "rows": rows}
    write_whole(folder / "objectives.json", [json.dumps(record, ensure_ascii=False, indent=1) + "\n"])
    write_whole(folder / "objectives.md", [_page(text, rows, described, model, sizes)])
    for row in rows:
        if row["name"] != START:
            own = [r for r in results if r["name"] == row["name"]]
            write_whole(images / f"{row['name']}.svg", [curve(own)])


def _page(
    text: str, rows: Sequence[Mapping[str, Any]], described: Mapping[str, Any], model: str, sizes: Result
) -> str:
    steps = max((row.get("steps", 0) for row in rows), default=0)
    where = ", ".join(f"{name} {value}" for name, value in described.items())
    settings = "\n".join(f"- `{row['name']}`: `{row['objective']}`" for row in rows if row["name"] != START)
    seeds = " ".join(str(seed) for seed in sorted({seed for row in rows for seed in row["seeds"]}))
    return f"""# Offline objectives compared

`python bench/objectives.py --seeds {seeds}`, then with `--write`; {where}.

{model} learns to obey instructions that a program can check. It answered {sizes["prompts"]} prompts
{sizes["samples"]} times (temperature 1, at most {sizes["tokens"]} tokens); a **simulated annotator** judged
the answers (the gold reward, {sizes["noise"]:.0%} of the judgements flipped). Every objective got the same
pairs in its own form, 16 judged completions a step (SFT: the chosen half), {steps} steps, learning rate
{sizes["learning_rate"]:g} with linear decay, full fine-tuning in float32. There is one learning rate for
all: rates tuned for each objective could change the order. Evaluated on {sizes["eval_prompts"]} prompts with
topics and wordings of their own. Intervals are 95 %, prompts are the sampled unit; each rests on all seeds of
its row.

{text}

A win is an obeyed instruction where the start model's answer, drawn with the same random numbers, did not
obey; equal answers are ties and count ½. KL is that of the policy to the start, on the policy's own
samples. Memory is the peak of the training process: weights, gradients, AdamW's moments and activations;
reference log-probs were computed once beforehand.

{settings}
"""
