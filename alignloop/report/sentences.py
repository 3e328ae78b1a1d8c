"""What came out of each stage, in one to five sentences, the most important first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from alignloop.config.registry import find_stage, offline_stage
from alignloop.config.rl import OnlineConfig
from alignloop.errors import ConfigError
from alignloop.evaluation.bootstrap import mean_interval, rate_interval
from alignloop.report.figures import first_figures, with_interval
from alignloop.report.folder import RunFolder
from alignloop.report.names import name_of
from alignloop.report.scale import rounded
from alignloop.runs.evaluation_results import (
    BeforeAfter,
    Compared,
    Evaluated,
    MetricsCompared,
    PairsVerdict,
    Revised,
    RewardExamined,
    WinRow,
)
from alignloop.runs.json_values import Span, number
from alignloop.runs.results import (
    Answered,
    DataRead,
    Estimate,
    JudgementsMade,
    PairsSplit,
    RewardTrained,
    Trained,
    read_results,
)

LOG_2 = math.log(2)
HARDLY = 0.01
"""A DPO loss that moved by less than this many nats says that the model is nearly what it was."""
_ENOUGH = 5
"""Logged rows whose mean gets an interval."""

Teller = Callable[[RunFolder], list[str]]


def tell(run: RunFolder) -> list[str]:
    """Sentences about a finished run; of a stage without sentences of its own its first numbers.

    Args:
        run: its folder, with metrics for stages in `READS_METRICS`.

    Returns:
        One to five sentences, [] where there is nothing to say.
    """
    return _teller(run.stage)(run) or _first_numbers(run)


def reads_metrics(stage: str) -> bool:
    """Whether the sentences of a stage need metrics.jsonl."""
    return _teller(stage) in (_imitation, _preference, _reward, _online, _best_of_n)


def _teller(stage: str) -> Teller:
    """The sentences of a stage: its own, those of its kind, or those in its results."""
    if stage in _STAGES:
        return _STAGES[stage]
    try:
        spec = find_stage(stage)
    except ConfigError:
        return _verdict
    if issubclass(spec.config, OnlineConfig):
        return _online
    return _preference if spec.config is offline_stage().config else _verdict


def _first_numbers(run: RunFolder) -> list[str]:
    found = [f"{label} {shown}" for label, shown in first_figures(run.all_results, 5)]
    return [", ".join(found)] if found else []


def _share(value: float, count: float | None) -> Span | None:
    """Wilson's interval of a share of `count` independent rows."""
    if not count or count < 2 or not 0 <= value <= 1:
        return None
    right = round(value * count)
    found = rate_interval([1.0] * right + [0.0] * (int(count) - right))
    return found.low, found.high


def _against_chance(interval: Span | None) -> str:
    against = Estimate(interval=interval).against_half
    return {"": "", "undecided": ": not told apart from chance"}.get(against, f": {against} than chance")


def _mean(found: Estimate) -> str:
    return with_interval(found.value or 0.0, found.interval)


def _first_and_last(run: RunFolder, name: str) -> tuple[str, str, float, float] | None:
    """Means of a metric over the first and the last tenth of the logged rows, as text and as numbers."""
    values = [value for row in run.metrics if (value := number(row.get(name))) is not None]
    if len(values) < 2:
        return None
    tenth = max(1, len(values) // 10)
    ends = values[:tenth], values[-tenth:]
    first, last = (sum(end) / len(end) for end in ends)
    shown = [with_interval(mean, _of_mean(end)) for mean, end in zip((first, last), ends, strict=True)]
    return shown[0], shown[1], first, last


def _of_mean(values: Sequence[float]) -> Span | None:
    if len(values) < _ENOUGH or not all(map(math.isfinite, values)):
        return None
    found = mean_interval(list(values))
    return found.low, found.high


def _steps(found: Trained) -> str:
    return f"{rounded(found.num_steps)} steps" if found.num_steps is not None else "training"


def _imitation(run: RunFolder) -> list[str]:
    found = run.results(Trained)
    held, rows = found.means_held_out.mean("loss"), found.means_held_out.rows
    lines = []
    if held.value is not None:
        perplexity = f" (perplexity {rounded(math.exp(held.value))})" if held.value < 50 else ""
        on = f" on {rounded(rows)} rows" if rows is not None else ""
        lines.append(f"Held-out loss {_mean(held)} nats per token{perplexity}{on}.")
    moved = _first_and_last(run, "loss")
    if moved is not None:
        used = read_results(found.data_by_input.get("dataset"), DataRead).used
        of = f" on {rounded(used)} rows" if used is not None else ""
        lines.append(f"Training loss {moved[0]} → {moved[1]} nats per token in {_steps(found)}{of}.")
    return lines if held.value is not None or moved is None else [*lines, _NOTHING_HELD_OUT]


_NOTHING_HELD_OUT = (
    "No rows were held out, so nothing says how it does on others: set eval_fraction or eval_dataset."
)


def _preference(run: RunFolder) -> list[str]:
    found = run.results(Trained)
    held_out = found.means_held_out
    accuracy, held, margin = (held_out.mean(name) for name in ("accuracy", "loss", "margin"))
    lines = []
    if accuracy.value is not None:
        interval = accuracy.interval or _share(accuracy.value, held_out.rows)
        told = with_interval(accuracy.value, interval, percent=True) + _against_chance(interval)
        more = f"; margin {_mean(margin)}." if margin.value is not None else "."
        lines.append(f"Held-out accuracy {told}{more}")
    elif held.value is not None:
        lines.append(f"Held-out loss {_mean(held)}.")
    moved = _first_and_last(run, "loss")
    if moved is not None:
        lines.append(f"Training loss {moved[0]} → {moved[1]} in {_steps(found)}.")
        if abs(moved[2] - LOG_2) < HARDLY and abs(moved[3] - moved[2]) < HARDLY:
            lines.append(
                "The model hardly moved: raise learning_rate, or train longer (num_train_epochs, max_steps)."
            )
        if accuracy.value is None and held.value is None:
            lines.append(_NOTHING_HELD_OUT)
    return lines


def _longer_wins(share: float | None) -> list[str]:
    return [] if share is None else [f"Always preferring the longer answer would get {100 * share:.1f} %."]


def _reward(run: RunFolder) -> list[str]:
    held = run.results(RewardTrained).held_out
    if held is None or held.accuracy is None:
        return _preference(run)
    interval = held.accuracy_interval
    told = with_interval(held.accuracy, interval, percent=True)
    lines = [f"Held-out accuracy {told} on {rounded(held.pairs)} pairs{_against_chance(interval)}."]
    lines += _longer_wins(held.accuracy_if_longer_wins)
    if interval is not None and interval[0] <= 0.5:
        lines.append("Do not judge or train with it yet: more pairs, more epochs or a higher rate may help.")
    return lines


def _averaged(run: RunFolder) -> list[str]:
    return _reward(run) if run.results(RewardTrained).held_out else []


def _online(run: RunFolder) -> list[str]:
    found, lines = run.results(Trained), []
    for name, label in (("gold", "Gold reward"), ("reward", "Reward")):
        moved = _first_and_last(run, name)
        if moved is not None:
            where = f"first and last tenth of {_steps(found)}"
            lines.append(f"{label} {moved[0]} → {moved[1]} ({where}).")
    if found.kl is not None:
        lines.append(f"KL from the start {rounded(found.kl)} nats per answer.")
    return [*lines, *([f"It ended early: {found.ended_by}."] if found.ended_by else [])]


def _best_of_n(run: RunFolder) -> list[str]:
    points, lines = run.results(Trained).best_of_n, []
    if len(points) > 1 and points[0].reward is not None:
        best = f"Reward of the best of {rounded(points[-1].n)} answers {rounded(points[-1].reward)}"
        lines.append(f"{best}, of one {rounded(points[0].reward)}.")
    return [*lines, *_imitation(run)]


def _iterated(run: RunFolder) -> list[str]:
    rounds = run.results(Trained).rounds
    rewards = [one.reward for one in rounds if one.reward is not None]
    if len(rewards) < 2:
        return [f"{len(rounds)} rounds."] if rounds else []
    moved = f"{rounded(rewards[0])} → {rounded(rewards[-1])}"
    return [f"Reward of fresh answers {moved} in {len(rounds)} rounds."]


def _answers(run: RunFolder) -> list[str]:
    found = run.results(Answered)
    if found.num_answers is None:
        return []
    words, empty = "–", f", {rounded(found.empty_answers)} empty" if found.empty_answers else ""
    if found.mean_words is not None:
        words = with_interval(found.mean_words, found.mean_words_interval)
    line = f"{rounded(found.num_answers)} answers to {rounded(found.num_prompts)} prompts"
    return [f"{line}, {words} words on average{empty}."]


def _judgements(run: RunFolder) -> list[str]:
    found = run.results(JudgementsMade)
    if found.num_judgements is None:
        return []
    who = {"simulated": "a simulated annotator", "ai": "AI judges"}.get(found.origin, "judges")
    lines = [f"{rounded(found.num_judgements)} judgements by {who}."]
    if (same := found.consistent_share) is not None:
        shown = with_interval(same, _share(same, found.num_pairs), percent=True)
        lines.append(f"{shown} of the verdicts stay the same when the answers change places.")
    return lines


def _principles(run: RunFolder) -> list[str]:
    found = run.results(Revised)
    if found.num_demonstrations is None:
        return []
    made, prompts = rounded(found.num_demonstrations), rounded(number(found.num_prompts))
    lines = [f"{made} demonstrations from {prompts} prompts, revised by principles."]
    if found.rounds_without_revision:
        lines.append(f"{rounded(found.rounds_without_revision)} rounds brought no usable revision.")
    return [*lines, *_changes(found.metrics)]


def _evaluation(run: RunFolder) -> list[str]:
    found = run.results(Evaluated)
    names = _model(run, "after") or "the model", _model(run, "before") or "the start"
    lines = []
    for name, rate in found.known_rates.items():
        judge = {"": "gold", "reward": "the reward model"}.get(name, name.replace("_", " "))
        lines.append(f"{_won(*names, judge, rate)}.")
    return [*lines, *_changes(found.metrics)]


def _won(model: str, against: str, judge: str, rate: Estimate) -> str:
    """Who won, by which judge, with the interval."""
    share = with_interval(rate.value or 0.0, rate.interval, percent=True)
    wins = f"{share} of {rounded(rate.n)} prompts by {judge}"
    if rate.against_half not in ("better", "worse"):
        return f"Undecided: {model} wins against {against} on {wins}"
    verb = {"better": "beats", "worse": "loses to"}[rate.against_half]
    return f"{model} {verb} {against}: it wins on {wins}"


def _model(run: RunFolder, key: str) -> str:
    """The last part of the path that the recipe gives."""
    ends = [part for part in run.recipe_value(key).rstrip("/").split("/") if part != "model"]
    return ends[-1] if ends else ""


def _changes(metrics: Mapping[str, BeforeAfter]) -> list[str]:
    """Metrics with a paired change that is told apart from none, then the distance."""
    found = []
    for name, row in metrics.items():
        interval = row.change_interval
        undecided = interval is not None and interval[0] <= 0 <= interval[1]
        if row.before is None or row.after is None or (undecided and name != "kl"):
            continue
        label = name_of(name).label
        if row.unit == "share":
            found.append(f"{label} {100 * row.before:.1f} → {100 * row.after:.1f} %")
        elif name == "kl":
            found.insert(0, f"{label} {with_interval(row.after, row.after_interval)} {row.unit}")
        else:
            found.append(f"{label} {rounded(row.before)} → {rounded(row.after)} {row.unit}".rstrip())
    return [f"Changes: {'; '.join(found[:4])}."] if found else []


def _compared(run: RunFolder) -> list[str]:
    found = run.results(Compared)
    rows = [row for row in found.win_rates if row.value is not None]
    if not rows:
        count = len(found.models)
        return [f"{count} models compared; the table is in the report."] if count else []
    first = rows[0].set, rows[0].judge
    best = max(rows, key=lambda row: ((row.set, row.judge) == first, row.value))
    lines = [_won_row(row) for row in [best, *(row for row in rows if row is not best)][:4]]
    more = len(rows) - len(lines)
    return [*lines, *([f"{more} more in the report."] if more > 0 else [])]


def _won_row(row: WinRow) -> str:
    rate = Estimate(value=row.value, interval=row.interval, n=row.num_prompts)
    return f"{_won(row.model, row.against, row.judge, rate)} on {row.set}."


def _examined(run: RunFolder) -> list[str]:
    found = run.results(RewardExamined)
    accuracy = found.metrics.get("accuracy", BeforeAfter())
    if accuracy.after is None:
        return []
    shown = with_interval(accuracy.after, accuracy.after_interval, percent=True)
    told = f"Accuracy {shown}{_against_chance(accuracy.after_interval)}."
    return [told, *_longer_wins(found.accuracy_if_longer_wins)]


def _refused(run: RunFolder) -> list[str]:
    return _changes(run.results(MetricsCompared).metrics)


def _verdict(run: RunFolder) -> list[str]:
    found = run.results(PairsVerdict)
    return list(found.sentences) or ([found.text] if found.text else [])


def _divided(run: RunFolder) -> list[str]:
    found = run.results(PairsSplit)
    if found.num_rows is None or found.chosen_longer is None:
        return []
    prompts = f"{rounded(found.num_held_out_prompts)} prompts"
    return [
        f"{rounded(found.num_rows)} pairs to train on, {rounded(found.num_held_out)} held out ({prompts}); "
        f"the chosen answer is the longer one in {100 * found.chosen_longer:.1f} %."
    ]


_STAGES: Mapping[str, Teller] = {
    "pretrain": _imitation,
    "sft": _imitation,
    "reward": _reward,
    "average_rewards": _averaged,
    "reward_bench": _examined,
    "best_of_n": _best_of_n,
    "iterate": _iterated,
    "sample": _answers,
    "feedback": _judgements,
    "judge": _judgements,
    "constitution": _principles,
    "refusals": _refused,
    "evaluate": _evaluation,
    "compare": _compared,
    "split": _divided,
}
"""Stages whose results need words of their own. Any other stage may return `sentences` in its
results; without them its first numbers are shown."""
