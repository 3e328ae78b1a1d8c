"""What an annotator can say, task by task.

A page speaks in the order it showed (A is the first shown); the store keeps the item's own order.
`order[k]` is the index in the item of the answer shown at place k.

| task    | from the page                       | stored                                       |
| ------- | ----------------------------------- | -------------------------------------------- |
| pair    | verdict: a_much a tie b b_much both_bad | preference 2 1 0 -1 -2 (> 0: answer 0), both_bad |
| ranking | ranks: 1 the best, ties share       | ranks, dense                                 |
| scores  | scores: {attribute: [0–5 …]}        | scores                                       |
| thumbs  | thumbs: [true, false …]             | thumbs                                       |
| edit    | text, base: place edited or null    | text, base: index                            |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from alignloop.labels.faults import Rejected

ANSWER_COUNTS: dict[str, tuple[int, int]] = {
    "pair": (2, 2),
    "ranking": (2, 5),
    "scores": (1, 5),
    "thumbs": (1, 5),
    "edit": (0, 5),
}
"""Least and most answers of an item, by task; its keys are the tasks."""

VERDICTS: dict[str, int] = {"a_much": 2, "a": 1, "tie": 0, "b": -1, "b_much": -2, "both_bad": 0}
"""Displayed verdict of a pair → preference for the first shown."""

SKIP_REASONS = ("unclear", "knowledge", "language", "unsafe", "broken", "other")
_T = TypeVar("_T")
MAX_TEXT = 100_000
"""Longest edited answer, in characters."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Rejected(message, status=422, reason="answer")


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


_KEYS: Mapping[str, tuple[str, ...]] = {
    "pair": ("verdict",),
    "ranking": ("ranks",),
    "scores": ("scores",),
    "thumbs": ("thumbs",),
    "edit": ("text", "base"),
}


def canonical(
    task: str, body: Mapping[str, object], *, order: Sequence[int], attributes: Sequence[str] = ()
) -> dict[str, object]:
    """Check what the page sent and put it into the item's order.

    Args:
        task: key of ANSWER_COUNTS.
        body: see the module's table, in displayed order.
        order: item index by displayed place.
        attributes: names that a `scores` answer must cover.

    Returns:
        What is stored, see the module's table.

    Raises:
        Rejected: 422 when the body does not fit the task.
    """
    unknown = sorted(set(body) - set(_KEYS[task]))
    _require(
        not unknown,
        f"unknown key '{', '.join(unknown)[:80]}'; a {task} answer has {' and '.join(_KEYS[task])}",
    )
    if task == "pair":
        return _pair(body, order)
    if task == "ranking":
        ranks = body.get("ranks")
        _require(
            isinstance(ranks, list) and len(ranks) == len(order) and all(_is_int(r, 1, 5) for r in ranks),
            f"a ranking needs {len(order)} ranks between 1 and 5",
        )
        assert isinstance(ranks, list)
        dense = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
        return {"ranks": _to_item_order([dense[rank] for rank in ranks], order)}
    if task == "scores":
        return {"scores": _scores(body.get("scores"), order, attributes)}
    if task == "thumbs":
        thumbs = body.get("thumbs")
        _require(
            isinstance(thumbs, list)
            and len(thumbs) == len(order)
            and all(isinstance(t, bool) for t in thumbs),
            f"thumbs need {len(order)} values, true or false",
        )
        assert isinstance(thumbs, list)
        return {"thumbs": _to_item_order(thumbs, order)}
    return _edit(body, order)


def _pair(body: Mapping[str, object], order: Sequence[int]) -> dict[str, object]:
    verdict = body.get("verdict")
    _require(
        isinstance(verdict, str) and verdict in VERDICTS, f"verdict must be one of {', '.join(VERDICTS)}"
    )
    preference = VERDICTS[str(verdict)]
    return {
        "preference": preference if order[0] == 0 else -preference,
        "both_bad": verdict == "both_bad",
    }


def _scores(scores: object, order: Sequence[int], attributes: Sequence[str]) -> dict[str, list[int]]:
    _require(
        isinstance(scores, dict) and set(scores) == set(attributes),
        f"scores must cover {', '.join(attributes)}",
    )
    assert isinstance(scores, dict)
    for name, values in scores.items():
        _require(
            isinstance(values, list) and len(values) == len(order) and all(_is_int(v, 0, 5) for v in values),
            f"scores for {name} need {len(order)} whole numbers between 0 and 5",
        )
    return {name: _to_item_order(scores[name], order) for name in attributes}


def _edit(body: Mapping[str, object], order: Sequence[int]) -> dict[str, object]:
    text, base = body.get("text"), body.get("base")
    _require(isinstance(text, str) and bool(text.strip()), "the edited answer is empty")
    assert isinstance(text, str)
    _require(len(text) <= MAX_TEXT, f"the edited answer is longer than {MAX_TEXT} characters")
    text = text.replace("\x00", "\ufffd")
    if base is None:
        return {"text": text, "base": None}
    _require(_is_int(base, 0, len(order) - 1), "base must be the place of a shown answer")
    assert isinstance(base, int)
    return {"text": text, "base": order[base]}


def _to_item_order(shown: Sequence[_T], order: Sequence[int]) -> list[_T]:
    values = list(shown)
    for place, index in enumerate(order):
        values[index] = shown[place]
    return values


def displayed(task: str, answer: Mapping, *, order: Sequence[int]) -> dict[str, object]:
    """Inverse of `canonical`: a stored answer as the page would have sent it."""
    if task == "pair":
        if answer["both_bad"]:
            return {"verdict": "both_bad"}
        preference = answer["preference"] if order[0] == 0 else -answer["preference"]
        return {"verdict": next(v for v, p in VERDICTS.items() if p == preference)}
    if task == "edit":
        base = answer["base"]
        return {"text": answer["text"], "base": None if base is None else list(order).index(base)}
    if task == "scores":
        return {"scores": {name: [values[i] for i in order] for name, values in answer["scores"].items()}}
    return {task_key: [answer[task_key][i] for i in order] for task_key in answer}


def units(task: str, answer: Mapping) -> dict[tuple, float]:
    """The answer as independent numbers, by which two annotators can be compared.

    A pair or ranking gives 1, 0, −1 for each (i, j), i < j: i better, tie, j better. Scores give each
    (attribute, i) its score, thumbs each (i,) 1 or 0. Edited answers cannot be compared.
    """
    if task == "pair":
        return {(0, 1): float(_sign(answer["preference"]))}
    if task == "ranking":
        ranks = answer["ranks"]
        return {
            (i, j): float(_sign(ranks[j] - ranks[i]))
            for i in range(len(ranks))
            for j in range(i + 1, len(ranks))
        }
    if task == "scores":
        return {
            (name, i): float(value)
            for name, values in answer["scores"].items()
            for i, value in enumerate(values)
        }
    if task == "thumbs":
        return {(i,): float(value) for i, value in enumerate(answer["thumbs"])}
    return {}


def comparisons(task: str, answer: Mapping) -> dict[tuple[int, int], int]:
    """1, 0 or −1 for every two answers (i, j), i < j, as the annotator ordered them; {} for edits.

    Scores are compared by their mean over attributes. Used for bias and disagreement, never for export.
    """
    if task in ("pair", "ranking"):
        return {pair: int(value) for pair, value in units(task, answer).items()}  # type: ignore[misc]
    if task == "scores":
        rows = list(answer["scores"].values())
        totals: list[float] = [sum(column) for column in zip(*rows, strict=True)]
    elif task == "thumbs":
        totals = [float(value) for value in answer["thumbs"]]
    else:
        return {}
    return {
        (i, j): _sign(totals[i] - totals[j]) for i in range(len(totals)) for j in range(i + 1, len(totals))
    }


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
