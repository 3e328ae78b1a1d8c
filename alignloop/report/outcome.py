"""The end of a run for people: what came out, and what to do next; for terminal, report, card and Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignloop.config.registry import StageProduct, find_stage
from alignloop.errors import ConfigError
from alignloop.report.figures import Figure, figures
from alignloop.report.folder import RunFolder, mapping, read_run
from alignloop.report.sentences import reads_metrics, tell
from alignloop.runs import Run

Next = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Outcome:
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


def outcome(run: RunFolder) -> Outcome:
    """What came out of a finished run.

    Args:
        run: its folder, read with its metrics where `sentences.reads_metrics` says so.

    Returns:
        Sentences and figures from the results, and the next commands.
    """
    commands = _NEXT.get(product(run.stage), _report)(run, shlex.quote(str(run.path)))
    found = figures(mapping(run.info.get("results")))
    return Outcome(run.stage, tuple(tell(run)), found, tuple(commands))


def product(stage: str) -> StageProduct | None:
    """What a stage makes; None for a name that no stage of this version has."""
    try:
        return find_stage(stage).makes
    except ConfigError:
        return None


def outcome_of(path: str | Path) -> Outcome:
    """What came out of the run in a folder; only the files that its sentences need are read.

    Raises:
        RunError: no run there, or its run.json is damaged.
    """
    wanted = ("metrics",) if reads_metrics(Run.open(path).stage) else ()
    return outcome(read_run(path, rows=wanted))


def overall(stages: Sequence[tuple[str, Outcome]]) -> list[str]:
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


def _report(run: RunFolder, folder: str) -> Next:
    return [(f"alignloop report {folder}", "curves, samples and lineage as a page")]


def _policy(run: RunFolder, folder: str) -> Next:
    found = re.search(r"^model_name_or_path: *(\S.*?) *$", run.recipe, re.MULTILINE)
    start = f" before={shlex.quote(found[1].strip(chr(39) + chr(34)))}" if found else ""
    return [
        (f"alignloop chat {folder}", "talk to the model"),
        (f"alignloop evaluate dataset=PROMPTS{start} after={folder}", "compare it with its start"),
        *_report(run, folder),
    ]


def _scorer(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop reward-bench reward_model={folder} dataset=PAIRS", "examine it on judged rows"),
        (f"alignloop train best-of-n reward_model={folder} dataset=PROMPTS", "train on the answers it likes"),
        *_report(run, folder),
    ]


def _to_judge(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop label import PROJECT {folder}", "let people judge the answers"),
        (f"alignloop run feedback dataset={folder}", "let a simulated annotator judge them"),
    ]


def _to_train(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop train reward dataset={folder}", "train a reward model on the judgements"),
        (f"alignloop train dpo dataset={folder}", "train the policy on them directly"),
    ]


def _to_imitate(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop data check {folder}", "what the rows hold"),
        (f"alignloop train sft dataset={folder}", "train on them"),
    ]


def _to_ask(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop sample dataset={folder}", "answers to these prompts"),
        (f"alignloop train grpo dataset={folder}", "learn to keep to their constraints"),
    ]


def _compared(run: RunFolder, folder: str) -> Next:
    found = re.search(r"^after: *(\S.*?) *$", run.recipe, re.MULTILINE)
    after = found[1].strip("'\"").removesuffix("/model") if found else ""
    talk = [(f"alignloop chat {shlex.quote(after)}", "talk to the model")] if after else []
    return [*_report(run, folder), *talk]


def _to_people(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop label serve {folder}/label", "let people compare the answers"),
        *_report(run, folder),
    ]


_NEXT: Mapping[StageProduct | None, Callable[[RunFolder, str], Next]] = {
    "policy": _policy,
    "reward model": _scorer,
    "prompts": _to_ask,
    "answers": _to_judge,
    "demonstrations": _to_imitate,
    "judgements": _to_train,
    "comparison": _compared,
    "verdict": _to_people,
    "table": _report,
}
"""Next commands after a stage by what it makes."""
