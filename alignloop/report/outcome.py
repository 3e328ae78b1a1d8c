"""The end of a run for people: what came out, and what to do next; for terminal, report, card and Python."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignloop.objectives import registry as objectives
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
    offline = _policy if run.stage in objectives.names() else _report
    commands = _NEXT.get(run.stage, offline)(run, shlex.quote(str(run.path)))
    found = figures(run.all_results)
    return RunOutcome(run.stage, tuple(tell(run)), found, tuple(commands))


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
        if found.stage in _VERDICTS and found.lines:
            return [f"Verdict ({name}): {found.lines[0]}", *found.lines[1:]]
    trained = [name for name, found in stages if found.stage not in _WITHOUT_MODEL]
    if not trained:
        return []
    return [
        f"Verdict: none yet, because no stage compares {trained[-1]} with its start; "
        "add a stage evaluate, or compare by hand."
    ]


_VERDICTS = ("verdict", "evaluate", "compare", "audit", "reward_bench")
_WITHOUT_MODEL = ("sample", "feedback", "judge", "instructions", "mix", "split", "constitution", *_VERDICTS)


def _report(run: RunFolder, folder: str) -> Next:
    return [(f"alignloop report {folder}", "curves, samples and lineage as a page")]


def _policy(run: RunFolder, folder: str) -> Next:
    found = run.recipe_value("model_name_or_path")
    start = f" before={shlex.quote(found)}" if found else ""
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
    after = run.recipe_value("after").removesuffix("/model")
    talk = [(f"alignloop chat {shlex.quote(after)}", "talk to the model")] if after else []
    return [*_report(run, folder), *talk]


def _to_people(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop label serve {folder}/label", "let people compare the answers"),
        *_report(run, folder),
    ]


_NEXT: Mapping[str, Callable[[RunFolder, str], Next]] = {
    **dict.fromkeys(("pretrain", "sft", "best_of_n", "iterate", "interpolate", "loop"), _policy),
    **dict.fromkeys(("ppo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp"), _policy),
    **dict.fromkeys(("reward", "average_rewards"), _scorer),
    **dict.fromkeys(("feedback", "judge", "mix"), _to_train),
    "sample": _to_judge,
    "constitution": _to_imitate,
    "instructions": _to_ask,
    "evaluate": _compared,
    "verdict": _to_people,
    **dict.fromkeys(("compare", "audit", "reward_bench", "refusals", "split"), _report),
}
"""Next commands of each stage that is not named after an objective of preferences."""
