"""What came out of a run, in one to five sentences, and what to do next; for terminal and report."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alignloop.evaluation.bootstrap import rate_interval
from alignloop.objectives import registry as objectives
from alignloop.report.folder import Json, RunFolder, ends_of, mapping, number, text
from alignloop.report.scale import rounded

LOG_2 = math.log(2)
HARDLY = 0.01
"""A DPO loss that moved by less than this many nats says that the model is nearly what it was."""

Results = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run for people.

    Attributes:
        lines: sentences, the most important first.
        commands: what may be typed next, each with what it is for.
    """

    lines: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]


def outcome(run: RunFolder) -> Outcome:
    """What came out of a finished run.

    Args:
        run: its folder.

    Returns:
        Sentences from the results, and the next commands. A stage without sentences of its own gets its
        first numbers.
    """
    results = mapping(run.info.get("results"))
    offline = (_preference, _policy) if run.stage in objectives.names() else (_first_numbers, _report)
    tell, proceed = _STAGES.get(run.stage, offline)
    lines = tell(run, results) or _numbers(results)
    folder = shlex.quote(str(run.path))
    return Outcome(tuple(lines), tuple(proceed(run, folder)))


def _first_numbers(run: RunFolder, results: Results) -> list[str]:
    return _numbers(results)


def _numbers(results: Results) -> list[str]:
    found = [
        f"{name} {rounded(value)}" for name, one in results.items() if (value := number(one)) is not None
    ]
    return [", ".join(found[:5])] if found else []


def _value(results: Results, name: str) -> float | None:
    return number(results.get(name))


def _with(value: float, interval: tuple[float, float] | None, *, percent: bool = False) -> str:
    """A value with its 95 % interval."""
    scale, unit = (100, " %") if percent else (1, "")
    shown = f"{rounded(round(scale * value, 1) if percent else value)}{unit}"
    if interval is None:
        return shown
    low, high = (f"{scale * end:.1f}" if percent else rounded(end) for end in interval)
    return f"{shown} [{low}, {high}]"


def _share(value: float, count: float | None) -> tuple[float, float] | None:
    """Wilson's interval of a share of `count` independent rows."""
    if not count or count < 2 or not 0 <= value <= 1:
        return None
    right = round(value * count)
    found = rate_interval([1.0] * right + [0.0] * (int(count) - right))
    return found.low, found.high


def _against_chance(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    if interval[0] > 0.5:
        return ": better than chance"
    return ": worse than chance" if interval[1] < 0.5 else ": not told apart from chance"


def _undecided(interval: tuple[float, float] | None) -> str:
    if interval is None or interval[0] <= 0.5 <= interval[1]:
        return "undecided"
    return "better" if interval[0] > 0.5 else "worse"


def _first_and_last(run: RunFolder, name: str) -> tuple[float, float] | None:
    """Means of a metric over the first and the last tenth of the logged rows."""
    values = [value for row in run.metrics if (value := number(row.get(name))) is not None]
    if len(values) < 2:
        return None
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def _steps(results: Results) -> str:
    steps = _value(results, "num_steps")
    return f"{rounded(steps)} steps" if steps is not None else "training"


def _imitation(run: RunFolder, results: Results) -> list[str]:
    lines = []
    moved = _first_and_last(run, "loss")
    if moved is not None:
        rows = _value(mapping(results.get("data")), "used")
        of = f" on {rounded(rows)} rows" if rows is not None else ""
        lines.append(
            f"Training loss {rounded(moved[0])} → {rounded(moved[1])} nats per token in "
            f"{_steps(results)}{of}."
        )
    held = _value(results, "eval_loss")
    if held is not None:
        perplexity = f" (perplexity {rounded(math.exp(held))})" if held < 50 else ""
        lines.append(f"Held-out loss {rounded(held)} nats per token{perplexity}.")
    else:
        lines.append(_nothing_held_out())
    return lines


def _nothing_held_out() -> str:
    return "No rows were held out, so nothing says how it does on others: set eval_fraction or eval_dataset."


def _preference(run: RunFolder, results: Results) -> list[str]:
    lines = []
    accuracy, held = _value(results, "eval_accuracy"), _value(results, "eval_loss")
    if accuracy is not None:
        interval = _share(accuracy, _value(results, "eval_rows"))
        lines.append(
            f"Held-out accuracy {_with(accuracy, interval, percent=True)}{_against_chance(interval)}; "
            f"margin {rounded(_value(results, 'eval_margin'))}."
        )
    elif held is not None:
        lines.append(f"Held-out loss {rounded(held)}.")
    moved = _first_and_last(run, "loss")
    if moved is not None:
        lines.append(f"Training loss {rounded(moved[0])} → {rounded(moved[1])} in {_steps(results)}.")
        if abs(moved[0] - LOG_2) < HARDLY and abs(moved[1] - moved[0]) < HARDLY:
            lines.append(
                "The model hardly moved: raise learning_rate, or train longer (num_train_epochs, max_steps)."
            )
    if accuracy is None and held is None and moved is not None:
        lines.append(_nothing_held_out())
    return lines


def _reward(run: RunFolder, results: Results) -> list[str]:
    held = mapping(results.get("held_out"))
    accuracy, pairs = _value(held, "accuracy"), _value(held, "pairs")
    if accuracy is None:
        return [*_preference(run, results)]
    interval = ends_of(held.get("accuracy_interval"))
    lines = [
        f"Held-out accuracy {_with(accuracy, interval, percent=True)} on {rounded(pairs)} pairs"
        f"{_against_chance(interval)}."
    ]
    longer = _value(held, "accuracy_if_longer_wins")
    if longer is not None:
        lines.append(f"Always preferring the longer answer would get {100 * longer:.1f} %.")
    if interval is not None and interval[0] <= 0.5:
        lines.append("Do not judge or train with it yet: more pairs, more epochs or a higher rate may help.")
    return lines


def _online(run: RunFolder, results: Results) -> list[str]:
    lines = []
    for name, label in (("gold", "Gold reward"), ("reward", "Reward")):
        moved = _first_and_last(run, name)
        if moved is not None:
            where = f"first and last tenth of {_steps(results)}"
            lines.append(f"{label} {rounded(moved[0])} → {rounded(moved[1])} ({where}).")
    kl = _value(results, "kl")
    if kl is not None:
        lines.append(f"KL from the start {rounded(kl)} nats per answer.")
    ended = text(results.get("ended_by"))
    return [*lines, *([f"It ended early: {ended}."] if ended else [])]


def _answers(run: RunFolder, results: Results) -> list[str]:
    count, prompts = _value(results, "num_answers"), _value(results, "num_prompts")
    if count is None:
        return []
    empty = _value(results, "empty_answers")
    words = rounded(_value(results, "mean_words"))
    line = f"{rounded(count)} answers to {rounded(prompts)} prompts, {words} words on average"
    return [f"{line}{f', {rounded(empty)} empty' if empty else ''}."]


def _judgements(run: RunFolder, results: Results) -> list[str]:
    count = _value(results, "num_judgements")
    if count is None:
        return []
    who = {"simulated": "a simulated annotator", "ai": "AI judges"}.get(text(results.get("origin")), "judges")
    lines = [f"{rounded(count)} judgements by {who}."]
    same = _value(results, "consistent_share")
    if same is not None:
        lines.append(f"{100 * same:.1f} % of the verdicts stay the same when the answers change places.")
    return lines


_SIDES = {"gold_pass_rate": "gold pass rate", "kl": "KL", "perplexity": "perplexity", "length": "length"}


def _evaluation(run: RunFolder, results: Results) -> list[str]:
    lines = []
    for name, rate in results.items():
        if name.startswith("win_rate") and isinstance(rate, Mapping):
            value = _value(rate, "value")
            judge = name.removeprefix("win_rate").strip("_").replace("_", " ") or "gold"
            judge = "the reward model" if judge == "reward" else judge
            if value is not None:
                interval = ends_of(rate.get("interval"))
                lines.append(
                    f"Win rate against the start by {judge}: {_with(value, interval, percent=True)} "
                    f"on {rounded(_value(rate, 'n'))} prompts: {_undecided(interval)}."
                )
    changes = [
        change
        for name, row in mapping(results.get("metrics")).items()
        if (change := _change(_SIDES.get(name, ""), mapping(row)))
    ]
    return [*lines, *([f"Changes: {'; '.join(changes)}."] if changes else [])]


def _change(label: str, row: Results) -> str:
    before, after = _value(row, "before"), _value(row, "after")
    if not label or before is None or after is None:
        return ""
    unit = text(row.get("unit"))
    if unit == "share":
        return f"{label} {100 * before:.1f} → {100 * after:.1f} %"
    return f"{label} {rounded(before)} → {rounded(after)} {unit}"


def _compared(run: RunFolder, results: Results) -> list[str]:
    names = results.get("models")
    models = names if isinstance(names, list) else []
    lines = []
    wins = results.get("win_rates")
    for row in wins if isinstance(wins, list) else []:
        entry = mapping(row)
        value, interval = _value(entry, "value"), ends_of(entry.get("interval"))
        if value is not None:
            lines.append(
                f"{text(entry.get('model'))} against {text(entry.get('against'))} on "
                f"{text(entry.get('set'))} by {text(entry.get('judge'))}: win rate "
                f"{_with(value, interval, percent=True)}: {_undecided(interval)}."
            )
    more = len(lines) - 4
    lines = lines[:4] + ([f"{more} more in the report."] if more > 0 else [])
    return lines or ([f"{len(models)} models compared; the table is in the report."] if models else [])


def _verdict(run: RunFolder, results: Results) -> list[str]:
    said, more = text(results.get("text")), results.get("sentences")
    return [text(one) for one in more] if isinstance(more, list) else [said] if said else []


def _divided(run: RunFolder, results: Results) -> list[str]:
    rows, held, prompts = (_value(results, f"num_{n}") for n in ("rows", "held_out", "held_out_prompts"))
    longer = _value(results, "chosen_longer")
    if rows is None or longer is None:
        return []
    return [
        f"{rounded(rows)} pairs to train on, {rounded(held)} held out ({rounded(prompts)} prompts); the "
        f"chosen answer is the longer one in {100 * longer:.1f} %."
    ]


Next = list[tuple[str, str]]


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


def _to_people(run: RunFolder, folder: str) -> Next:
    return [
        (f"alignloop label serve {folder}/label", "let people compare the answers"),
        *_report(run, folder),
    ]


_Told = Callable[[RunFolder, Results], list[str]]
_STAGES: Mapping[str, tuple[_Told, Callable[[RunFolder, str], Next]]] = {
    "pretrain": (_imitation, _policy),
    "sft": (_imitation, _policy),
    "reward": (_reward, _scorer),
    "sample": (_answers, _to_judge),
    "feedback": (_judgements, _to_train),
    "judge": (_judgements, _to_train),
    "evaluate": (_evaluation, _report),
    "compare": (_compared, _report),
    "audit": (_verdict, _report),
    "split": (_divided, _report),
    "verdict": (_verdict, _to_people),
    **dict.fromkeys(
        ("ppo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp"), (_online, _policy)
    ),
    **dict.fromkeys(
        ("average_rewards", "reward_bench", "constitution", "loop", "mix", "refusals", "instructions"),
        (_first_numbers, _report),
    ),
    **dict.fromkeys(("best_of_n", "iterate", "interpolate"), (_first_numbers, _policy)),
}
"""Sentences and next commands of each stage that is not named after an objective of preferences."""
