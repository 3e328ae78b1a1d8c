"""What came out of each stage, in one to five sentences, the most important first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from alignloop.config.registry import find_stage, offline_stage
from alignloop.config.rl import OnlineConfig
from alignloop.errors import ConfigError
from alignloop.evaluation.bootstrap import mean_interval, rate_interval
from alignloop.report.figures import Interval, first_figures, with_interval
from alignloop.report.folder import Json, RunFolder, ends_of, mapping, number, text
from alignloop.report.names import name_of
from alignloop.report.scale import rounded

LOG_2 = math.log(2)
HARDLY = 0.01
"""A DPO loss that moved by less than this many nats says that the model is nearly what it was."""
_ENOUGH = 5
"""Logged rows whose mean gets an interval."""

Results = Mapping[str, Json]
Teller = Callable[[RunFolder, Results], list[str]]


def tell(run: RunFolder) -> list[str]:
    """Sentences about a finished run; of a stage without sentences of its own its first numbers.

    Args:
        run: its folder, with metrics for stages in `READS_METRICS`.

    Returns:
        One to five sentences, [] where there is nothing to say.
    """
    results = mapping(run.info.get("results"))
    return _teller(run.stage)(run, results) or _first_numbers(run, results)


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


def _first_numbers(run: RunFolder, results: Results) -> list[str]:
    found = [f"{label} {shown}" for label, shown in first_figures(results, 5)]
    return [", ".join(found)] if found else []


def _value(results: Results, name: str) -> float | None:
    return number(results.get(name))


def _share(value: float, count: float | None) -> Interval | None:
    """Wilson's interval of a share of `count` independent rows."""
    if not count or count < 2 or not 0 <= value <= 1:
        return None
    right = round(value * count)
    found = rate_interval([1.0] * right + [0.0] * (int(count) - right))
    return found.low, found.high


def _against_chance(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval[0] > 0.5:
        return ": better than chance"
    return ": worse than chance" if interval[1] < 0.5 else ": not told apart from chance"


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


def _of_mean(values: Sequence[float]) -> Interval | None:
    if len(values) < _ENOUGH or not all(map(math.isfinite, values)):
        return None
    found = mean_interval(list(values))
    return found.low, found.high


def _steps(results: Results) -> str:
    steps = _value(results, "num_steps")
    return f"{rounded(steps)} steps" if steps is not None else "training"


def _imitation(run: RunFolder, results: Results) -> list[str]:
    lines = []
    held = _value(results, "eval_loss")
    if held is not None:
        perplexity = f" (perplexity {rounded(math.exp(held))})" if held < 50 else ""
        rows = _value(results, "eval_rows")
        on = f" on {rounded(rows)} rows" if rows is not None else ""
        shown = with_interval(held, ends_of(results.get("eval_loss_interval")))
        lines.append(f"Held-out loss {shown} nats per token{perplexity}{on}.")
    moved = _first_and_last(run, "loss")
    if moved is not None:
        rows = _value(mapping(results.get("data")), "used")
        of = f" on {rounded(rows)} rows" if rows is not None else ""
        lines.append(f"Training loss {moved[0]} → {moved[1]} nats per token in {_steps(results)}{of}.")
    return lines if held is not None or moved is None else [*lines, _NOTHING_HELD_OUT]


_NOTHING_HELD_OUT = (
    "No rows were held out, so nothing says how it does on others: set eval_fraction or eval_dataset."
)


def _preference(run: RunFolder, results: Results) -> list[str]:
    lines = []
    accuracy, held = _value(results, "eval_accuracy"), _value(results, "eval_loss")
    if accuracy is not None:
        by_prompt = ends_of(results.get("eval_accuracy_interval"))
        interval = by_prompt or _share(accuracy, _value(results, "eval_rows"))
        told = (
            f"Held-out accuracy {with_interval(accuracy, interval, percent=True)}{_against_chance(interval)}"
        )
        margin, ends = _value(results, "eval_margin"), ends_of(results.get("eval_margin_interval"))
        lines.append(told + (f"; margin {with_interval(margin, ends)}." if margin is not None else "."))
    elif held is not None:
        lines.append(f"Held-out loss {with_interval(held, ends_of(results.get('eval_loss_interval')))}.")
    moved = _first_and_last(run, "loss")
    if moved is not None:
        lines.append(f"Training loss {moved[0]} → {moved[1]} in {_steps(results)}.")
        if abs(moved[2] - LOG_2) < HARDLY and abs(moved[3] - moved[2]) < HARDLY:
            lines.append(
                "The model hardly moved: raise learning_rate, or train longer (num_train_epochs, max_steps)."
            )
    if accuracy is None and held is None and moved is not None:
        lines.append(_NOTHING_HELD_OUT)
    return lines


def _reward(run: RunFolder, results: Results) -> list[str]:
    held = mapping(results.get("held_out"))
    accuracy, pairs = _value(held, "accuracy"), _value(held, "pairs")
    if accuracy is None:
        return _preference(run, results)
    interval = ends_of(held.get("accuracy_interval"))
    lines = [
        f"Held-out accuracy {with_interval(accuracy, interval, percent=True)} on {rounded(pairs)} pairs"
        f"{_against_chance(interval)}."
    ]
    longer = _value(held, "accuracy_if_longer_wins")
    if longer is not None:
        lines.append(f"Always preferring the longer answer would get {100 * longer:.1f} %.")
    if interval is not None and interval[0] <= 0.5:
        lines.append("Do not judge or train with it yet: more pairs, more epochs or a higher rate may help.")
    return lines


def _averaged(run: RunFolder, results: Results) -> list[str]:
    lines = _reward(run, results)
    return lines if mapping(results.get("held_out")) else []


def _online(run: RunFolder, results: Results) -> list[str]:
    lines = []
    for name, label in (("gold", "Gold reward"), ("reward", "Reward")):
        moved = _first_and_last(run, name)
        if moved is not None:
            where = f"first and last tenth of {_steps(results)}"
            lines.append(f"{label} {moved[0]} → {moved[1]} ({where}).")
    kl = _value(results, "kl")
    if kl is not None:
        lines.append(f"KL from the start {rounded(kl)} nats per answer.")
    ended = text(results.get("ended_by"))
    return [*lines, *([f"It ended early: {ended}."] if ended else [])]


def _best_of_n(run: RunFolder, results: Results) -> list[str]:
    rows = [mapping(row) for row in _list(results.get("best_of_n"))]
    lines = []
    if len(rows) > 1 and _value(rows[0], "reward") is not None:
        first, last = rows[0], rows[-1]
        lines.append(
            f"Reward of the best of {rounded(_value(last, 'n'))} answers {rounded(_value(last, 'reward'))}, "
            f"of one {rounded(_value(first, 'reward'))}."
        )
    return [*lines, *_imitation(run, results)]


def _iterated(run: RunFolder, results: Results) -> list[str]:
    rows = [mapping(row) for row in _list(results.get("rounds"))]
    rewards = [value for row in rows if (value := _value(row, "reward")) is not None]
    if len(rewards) < 2:
        return [f"{len(rows)} rounds."] if rows else []
    return [f"Reward of fresh answers {rounded(rewards[0])} → {rounded(rewards[-1])} in {len(rows)} rounds."]


def _answers(run: RunFolder, results: Results) -> list[str]:
    count, prompts = _value(results, "num_answers"), _value(results, "num_prompts")
    if count is None:
        return []
    empty = _value(results, "empty_answers")
    mean = _value(results, "mean_words")
    words = "–" if mean is None else with_interval(mean, ends_of(results.get("mean_words_interval")))
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
        interval = _share(same, _value(results, "num_pairs"))
        lines.append(
            f"{with_interval(same, interval, percent=True)} of the verdicts stay the same when the answers "
            "change places."
        )
    return lines


def _principles(run: RunFolder, results: Results) -> list[str]:
    made, prompts = _value(results, "num_demonstrations"), _value(results, "num_prompts")
    if made is None:
        return []
    lines = [f"{rounded(made)} demonstrations from {rounded(prompts)} prompts, revised by principles."]
    failed = _value(results, "rounds_without_revision")
    if failed:
        lines.append(f"{rounded(failed)} rounds brought no usable revision.")
    return [*lines, *_changes(results)]


def _evaluation(run: RunFolder, results: Results) -> list[str]:
    after = _model(run, "after") or "the model"
    before = _model(run, "before") or "the start"
    lines = []
    for name, rate in results.items():
        value = _value(mapping(rate), "value") if name.startswith("win_rate") else None
        if value is None:
            continue
        judge = name.removeprefix("win_rate").strip("_").replace("_", " ") or "gold"
        judge = "the reward model" if judge == "reward" else judge
        interval, prompts = ends_of(rate.get("interval")), _value(rate, "n")
        lines.append(_won(after, before, judge, value, interval, prompts))
    return [*lines, *_changes(results)]


def _won(
    model: str, against: str, judge: str, value: float, interval: Interval | None, prompts: float | None
) -> str:
    """Who won, by which judge, with the interval."""
    rate = f"{with_interval(value, interval, percent=True)} of {rounded(prompts)} prompts by {judge}"
    if interval is None or interval[0] <= 0.5 <= interval[1]:
        return f"Undecided: {model} wins against {against} on {rate}."
    verb = "beats" if interval[0] > 0.5 else "loses to"
    return f"{model} {verb} {against}: it wins on {rate}."


def _model(run: RunFolder, key: str) -> str:
    """The last part of the path that the recipe gives."""
    found = re.search(rf"^{key}: *(\S.*?) *$", run.recipe, re.MULTILINE)
    path = found[1].strip("'\"").rstrip("/") if found else ""
    ends = [part for part in path.split("/") if part != "model"]
    return ends[-1] if ends else ""


def _changes(results: Results) -> list[str]:
    """Metrics with a paired change that is told apart from none, then the distance."""
    found = []
    for name, value in mapping(results.get("metrics")).items():
        row = mapping(value)
        before, after = _value(row, "before"), _value(row, "after")
        interval = ends_of(row.get("change_interval"))
        undecided = interval is not None and interval[0] <= 0 <= interval[1]
        if before is None or after is None or (undecided and name != "kl"):
            continue
        label, unit = name_of(name).label, text(row.get("unit"))
        if unit == "share":
            found.append(f"{label} {100 * before:.1f} → {100 * after:.1f} %")
        elif name == "kl":
            found.insert(0, f"{label} {with_interval(after, ends_of(row.get('after_interval')))} {unit}")
        else:
            found.append(f"{label} {rounded(before)} → {rounded(after)} {unit}".rstrip())
    return [f"Changes: {'; '.join(found[:4])}."] if found else []


def _compared(run: RunFolder, results: Results) -> list[str]:
    models, rows = _list(results.get("models")), [mapping(row) for row in _list(results.get("win_rates"))]
    rows = [row for row in rows if _value(row, "value") is not None]
    if not rows:
        return [f"{len(models)} models compared; the table is in the report."] if models else []
    judges = [(row.get("set"), row.get("judge")) for row in rows]
    best = max(rows, key=lambda row: (judges.index((row.get("set"), row.get("judge"))) == 0, row["value"]))
    others = [row for row in rows if row is not best]
    lines = [_won_row(row) for row in [best, *others][:4]]
    more = len(rows) - len(lines)
    return [*lines, *([f"{more} more in the report."] if more > 0 else [])]


def _won_row(row: Results) -> str:
    names = [text(row.get(key)) for key in ("model", "against", "judge")]
    value, interval = number(row.get("value")) or 0.0, ends_of(row.get("interval"))
    told = _won(names[0], names[1], names[2], value, interval, _value(row, "num_prompts"))
    return f"{told.removesuffix('.')} on {text(row.get('set'))}."


def _examined(run: RunFolder, results: Results) -> list[str]:
    row = mapping(mapping(results.get("metrics")).get("accuracy"))
    value, interval = _value(row, "after"), ends_of(row.get("after_interval"))
    if value is None:
        return []
    lines = [f"Accuracy {with_interval(value, interval, percent=True)}{_against_chance(interval)}."]
    longer = _value(results, "accuracy_if_longer_wins")
    if longer is not None:
        lines.append(f"Always preferring the longer answer would get {100 * longer:.1f} %.")
    return lines


def _refused(run: RunFolder, results: Results) -> list[str]:
    return _changes(results)


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


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


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
