"""docs/results/quickstart.md from the runs of bench/quickstart.py."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

_HEAD = """# Quickstart, by seed and type

```
scripts/quickstart --seed 42            # and 1, 2, 3, 4; dtype=float32 where bfloat16 is fast
python bench/quickstart.py --work DIR --seeds 42 1 2 3 4 --write
```

SmolLM2-135M-Instruct learns to obey instructions that a program can check: six kinds of constraint, prompts
in training and in evaluation with topics and wordings of their own. It is trained on demonstrations (its own
drafts, corrected by a simulated editor), answers each prompt five times, and a simulated annotator who errs
judges the answers. A reward model and DPO learn from that. 200 held-out prompts are answered greedily by the
start model, after SFT and after DPO. 95 % intervals. A gold win is an answer that obeys where the start's
does not; both or neither is half a win.

"""

_COLUMNS = (
    "| seed | gold pass rate: start | SFT | DPO | gain in points | win rate by gold | "
    "by the reward model | reward model, held-out accuracy (pairs) | perplexity: start | SFT | DPO |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def page(found: dict[str, Any]) -> str:
    """The page as Markdown, from the content of quickstart.json."""
    text = _HEAD
    for dtype in sorted({row["dtype"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["dtype"] == dtype]
        text += f"## {dtype}\n\n{_COLUMNS}" + "".join(map(_line, rows)) + "\n" + _summary(rows) + "\n"
    text += _times(found)
    machines = dict.fromkeys(_machine(row) for row in (*found["rows"], *found["timed"]))
    return text + "\n" + "".join(f"The figures are of: {one}.\n" for one in machines)


def _machine(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row["machine"].items() if name != "load_average")


def _line(row: Row) -> str:
    gold, perplexity = list(row["gold"].values()), list(row["perplexity"].values())
    cells = [
        str(row["seed"]),
        *(f"{100 * value:.1f} %" for value in gold),
        _between([100 * value for value in row["gain"]], "{:+.1f}"),
        _between(row["win"]),
        _between(row["win_by_reward"]),
        f"{_between(row['reward_accuracy'])} ({row['reward_pairs']})",
        *(f"{value:.1f}" for value in perplexity),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _between(numbers: Sequence[float], form: str = "{:.3f}") -> str:
    value, low, high = (form.format(one) for one in numbers)
    return f"{value} [{low}, {high}]"


def _summary(rows: Sequence[Row]) -> str:
    above = sum(row["win"][1] > 0.5 for row in rows)
    learned = sum(row["reward_accuracy"][1] > 0.5 for row in rows)
    rises = [100 * (list(row["perplexity"].values())[-1] / row["perplexity"]["start"] - 1) for row in rows]
    return (
        f"The win rate's interval lies above one half in {above} of {len(rows)}, the reward model's in "
        f"{learned} of {len(rows)}. Median gain {100 * median(row['gain'][0] for row in rows):.1f} points, "
        f"median win rate {median(row['win'][0] for row in rows):.3f}; held-out perplexity changes by "
        f"{min(rises):+.1f} to {max(rises):+.1f} %.{_spent(rows)}\n"
    )


def _spent(rows: Sequence[Row]) -> str:
    times = [row["wall_s"] for row in rows if row["threads"] == 1 and row["wall_s"] is not None]
    if not times:
        return ""
    return (
        f" With one thread beside other work a run took {min(times):.0f} to {max(times):.0f} s, all included."
    )


def _times(found: dict[str, Any]) -> str:
    if not found["timed"]:
        return ""
    names = list(found["timed"][0]["stages"])
    head = ["type", "seed", "from command to table", *names]
    text = "## Time\n\nAlone on the machine, all cores, the model's file there already; seconds.\n\n"
    text += "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n"
    for row in found["timed"]:
        stages = [f"{row['stages'].get(name, 0):.0f}" for name in names]
        text += "| " + " | ".join([row["dtype"], str(row["seed"]), f"{row['wall_s']:.0f}", *stages]) + " |\n"
    return text
