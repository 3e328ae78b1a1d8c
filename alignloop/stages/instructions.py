"""The data of the quickstart's task, made here so that nothing has to be downloaded."""

from __future__ import annotations

from typing import Any

from alignloop.config import InstructionsConfig
from alignloop.data.columns import write_records
from alignloop.data.instructions import documents, instruction_prompts
from alignloop.judges.edits import demonstrations
from alignloop.runs import Run
from alignloop.stages.answers import ANSWERS_FILE


def instructions(config: InstructionsConfig, run: Run) -> dict[str, Any]:
    """Write prompts with checkable instructions, demonstrations of them, or plain texts.

    Args:
        config: which of them, how many, and whether for training or for held-out evaluation.
        run: the run folder; receives `data/rows.jsonl`.

    Returns:
        Results for run.json.
    """
    if config.content == "prompts":
        kinds = config.kinds or None
        rows: list[Any] = list(
            instruction_prompts(config.split, config.num_rows, config.seed, kinds, languages=config.languages)
        )
    elif config.content == "demonstrations":
        rows = list(demonstrations(config.num_rows, config.seed, config.kinds))
    else:
        rows = list(documents(config.split))
    (run.path / "data").mkdir(exist_ok=True)
    write_records(run.path / ANSWERS_FILE, rows)
    return {"num_rows": len(rows), "content": config.content, "split": config.split}
