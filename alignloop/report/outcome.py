"""The end of a run for people: what came out, and what to do next; for terminal, report, card and Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignloop.config.registry import StageProduct, find_stage
from alignloop.errors import ConfigError
from alignloop.report.figures import Figure, figures
from alignloop.report.folder import RunFolder, read_run
from alignloop.report.sentences import reads_metrics, tell
from alignloop.runs import Run

Next = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The end of a run.

    Attributes:
        stage: what ran.
        lines: sentences, the most important first.
        figures: every number of the results with its interval.
        commands: what may be typed next, each with what it is for.
    """

    stage: str
    lines: tuple[str, ...]
    figures: tuple[Figure, ...]
    commands: tuple[tuple[str, str], ...]

    @property
    def headline(self) -> str:
        """The most important sentence, "" if there is none."""
        return self.lines[0] if self.lines else ""


def outcome(run: RunFolder) -> RunOutcome:
    """What came out of a finished run.

    Args:
        run: its folder, read with its metrics where `sentences.reads_metrics` says so.

    Returns:
        Sentences and figures from the results, and the next commands.
    """
    found = figures(run.all_results)
    return RunOutcome(run.stage, tuple(tell(run)), found, tuple(_next_commands(run)))


def product(stage: str) -> StageProduct | None:
    """What a stage makes; None for a name that no stage of this version has."""
    try:
        return find_stage(stage).makes
    except ConfigError:
        return None


def outcome_of(path: str | Path) -> RunOutcome:
    """What came out of the run in a folder; only the files that its sentences need are read.

    Raises:
        RunError: no run there, or its run.json is damaged.
    """
    wanted = ("metrics",) if reads_metrics(Run.open(path).stage) else ()
    return outcome(read_run(path, rows=wanted))


def overall(stages: Sequence[tuple[str, RunOutcome]]) -> list[str]:
    """The verdict on a pipeline: the sentences of its last evaluation, or that there is none.

    Args:
        stages: the stages' names and outcomes, in order.

    Returns:
        One to five sentences.
    """
    for name, found in reversed(stages):
        if product(found.stage) in _VERDICTS and found.lines:
            return [f"Verdict ({name}): {found.lines[0]}", *found.lines[1:]]
    trained = [name for name, found in stages if product(found.stage) in _MODELS]
    if not trained:
        return []
    return [
        f"Verdict: none yet, because no stage compares {trained[-1]} with its start; "
        "add a stage evaluate, or compare by hand."
    ]


_VERDICTS = ("comparison", "verdict")
_MODELS = ("policy", "reward model", None)


_REPORT = ("alignloop report {folder}", "curves, samples and lineage as a page")
_POLICY = (
    ("alignloop chat {folder}", "talk to the model"),
    ("alignloop evaluate dataset=PROMPTS{start} after={folder}", "compare it with its start"),
    _REPORT,
)
_SCORER = (
    ("alignloop reward-bench reward_model={folder} dataset=PAIRS", "examine it on judged rows"),
    ("alignloop train best-of-n reward_model={folder} dataset=PROMPTS", "train on the answers it likes"),
    _REPORT,
)
_TO_TRAIN = (
    ("alignloop train reward dataset={folder}", "train a reward model on the judgements"),
    ("alignloop train dpo dataset={folder}", "train the policy on them directly"),
)
_NEXT: Mapping[StageProduct | None, Sequence[tuple[str, str]]] = {
    "policy": _POLICY,
    "reward model": _SCORER,
    "judgements": _TO_TRAIN,
    "answers": (
        ("alignloop label import PROJECT {folder}", "let people judge the answers"),
        ("alignloop run feedback dataset={folder}", "let a simulated annotator judge them"),
    ),
    "demonstrations": (
        ("alignloop data check {folder}", "what the rows hold"),
        ("alignloop train sft dataset={folder}", "train on them"),
    ),
    "prompts": (
        ("alignloop sample dataset={folder}", "answers to these prompts"),
        ("alignloop train grpo dataset={folder}", "learn to keep to their constraints"),
    ),
    "comparison": (_REPORT, ("alignloop chat {after}", "talk to the model")),
    "verdict": (("alignloop label serve {folder}/label", "let people compare the answers"), _REPORT),
    "table": (_REPORT,),
}
"""What may be typed next after a stage, by what it makes, and why.

`{folder}` is the run's, `{start}` names the model it started from, `{after}` is the model that was judged.
"""


def _next_commands(run: RunFolder) -> Next:
    start, after = run.recipe_value("model_name_or_path"), run.recipe_value("after").removesuffix("/model")
    words = {
        "folder": shlex.quote(str(run.path)),
        "start": f" before={shlex.quote(start)}" if start else "",
        "after": shlex.quote(after),
    }
    found = _NEXT.get(product(run.stage), (_REPORT,))
    known = [pair for pair in found if after or "{after}" not in pair[0]]
    return [(command.format(**words), purpose) for command, purpose in known]
