"""What commands say last: the next commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

Commands = Sequence[tuple[str, str]]
"""Commands, each with what it is for."""


def print_next(commands: Commands) -> None:
    """Commands to copy, each with what it is for; nothing for none."""
    if not commands:
        return
    print("next:")
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        print(f"  {command:{width}}  # {purpose}")


_TRAINED_BY: dict[str, tuple[tuple[str, str], ...]] = {
    "document": (("train pretrain dataset={}", "train on the texts"),),
    "demonstration": (("train sft dataset={} eval_fraction=0.1", "train on them"),),
    "preference": (
        ("train dpo dataset={} eval_fraction=0.1", "train the policy on them"),
        ("train reward dataset={} eval_fraction=0.1", "train a reward model on them"),
    ),
    "label": (("train kto dataset={} eval_fraction=0.1", "train the policy on them"),),
    "ranking": (("train listwise dataset={} eval_fraction=0.1", "train the policy on them"),),
    "rating": (("train regression dataset={} eval_fraction=0.1", "train a reward model on them"),),
    "prompt": (("sample dataset={}", "let a model answer them"),),
}


def after_data(
    kind: str, file: str | Path, columns: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """What to do with a file of records of a kind, [] for a kind that nothing trains on.

    Args:
        kind: of its records.
        file: the file.
        columns: {field: column} where names differ.

    Returns:
        Commands, each with what it is for.
    """
    named = f" columns={shlex.quote(json.dumps(columns, ensure_ascii=False))}" if columns else ""
    return [
        (f"alignloop {words.format(shlex.quote(str(file)))}{named}", purpose)
        for words, purpose in _TRAINED_BY.get(kind, ())
    ]
