"""The page of `bench/architectures.py`: its lines as tables, its sentences of refusal, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import zoo

COLUMNS = ("log-probs", "gradient", "greedy decode", "sampled log-probs")
CHOICES = "other choices"


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

    rows = [
        "| architecture | rows | " + " | ".join((*COLUMNS, CHOICES)) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for line in lines:
        cells = " | ".join(short(line[name]) for name in ("rows", *COLUMNS, CHOICES))
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

Tiny random models with windows, chunks and trained lengths shorter than the rows, saved in float32 and loaded
in the type. Log-probs of completions (largest distance, nats), gradient (relative), greedy decode and
log-probs of sampled tokens (largest distance, nats) against `model(...)` on unpadded rows in the next wider
type. "packed": each prompt runs once for its completions; "padded": each completion with its whole prompt;
"alone": those one at a time. What is refused is refused with the sentence below the table; a number farther
off than rounding (six times the model's own largest distance, plus 1/16 √ε of the log-probs' spread) would
read WRONG.

A model with experts or indexed tokens jumps where two scores are nearly equal, so distances are measured with
the choices that were made given to the wider computation. "Other choices" are those it would have made
otherwise, one for each token and router of the trained rows and of the sampled ones; one whose scores lie
farther apart than rounding by the same bound would read WRONG.
"""
    ]
    for dtype, lines in results.items():
        packed = sum(line["rows"] == "packed" for line in lines)
        padded = sum(line["rows"].startswith("padded") for line in lines)
        alone = sum(line["rows"].startswith("alone") for line in lines)
        refused = sum(line["rows"] == "refused" for line in lines)
        sampling = sum("refused" not in line["greedy decode"] for line in lines)
        parts.append(
            f"## {dtype}\n\n{len(lines)} lines: {packed} train on packed rows, {padded} on padded rows, "
            f"{alone} on rows that run alone, {refused} are refused; the local engine generates with "
            f"{sampling}. Wrong: {', '.join(wrong(lines)) or 'none'}.\n\n{table(lines)}\n"
        )
    rest = "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in left_out.items())
    parts.append(f"## Entries of transformers' list without a line\n\n{rest}\n")
    return "\n".join(parts)
