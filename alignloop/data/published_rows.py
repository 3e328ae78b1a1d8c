"""How rows of published forms become rows of our columns: one function for each form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignloop.data import transcripts
from alignloop.data import values as read
from alignloop.data.paths import at
from alignloop.errors import DataError
from alignloop.foreign import loads

RowValues = Mapping[str, Any]
View = Callable[[RowValues], list[dict[str, Any]]]


def fields(**paths: str) -> View:
    """One row, each field from a path."""
    return lambda row: [{field: at(row, path) for field, path in paths.items()}]


def _judged(prompt: Any, first: Any, second: Any, side: str, **more: Any) -> list[dict[str, Any]]:
    """One row of two answers of which `side` (`a`, `b` or `tie`) is the better one."""
    return [{"prompt": prompt, "response_a": first, "response_b": second, "preference": side, **more}]


def _ranked(prompt: Any, answers: Sequence[Any], ranks: Sequence[int]) -> list[dict[str, Any]]:
    """One row of ranked answers."""
    return [{"prompt": prompt, "responses": list(answers), "ranking": list(ranks)}]


def pair(prompt: str, first: str, second: str, choose: Callable[[RowValues], str]) -> View:
    """A judged pair: `choose` says `a`, `b` or `tie`."""
    return lambda row: _judged(at(row, prompt), at(row, first), at(row, second), choose(row))


def _ranks(scores: Sequence[float]) -> list[int]:
    """1 for the highest score; equal scores share a rank."""
    return [1 + sum(other > score for other in scores) for score in scores]


def chosen_by(path: str, sides: Mapping[Any, str]) -> Callable[[RowValues], str]:
    def choose(row: RowValues) -> str:
        value = at(row, path)
        found = sides.get(value.strip().casefold() if isinstance(value, str) else value)
        if found is None:
            shown = ", ".join(map(str, sides))
            raise DataError(f"expected one of {shown}", field=path, value=value, reason="unknown_label")
        return found

    return choose


def ultrafeedback_ratings(row: RowValues) -> list[dict[str, Any]]:
    """One rating for each completion; the overall score runs from 1 to 10."""
    return [
        {
            "prompt": row["instruction"],
            "response": at(answer, "response"),
            "scores": {"overall": 5 * (_number(answer, "overall_score") - 1) / 9},
            "model": at(answer, "model"),
        }
        for answer in row["completions"]
    ]


def ultrafeedback_ranking(row: RowValues) -> list[dict[str, Any]]:
    answers = row["completions"]
    scores = [_number(answer, "overall_score") for answer in answers]
    texts = [at(answer, "response") for answer in answers]
    return _ranked(row["instruction"], texts, _ranks(scores))


def _number(row: Any, path: str) -> float:
    value = at(row, path)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError("expected a number", field=path, value=value, reason="wrong_type") from None


HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def helpsteer(row: RowValues) -> list[dict[str, Any]]:
    """Five attributes from 0 to 4, as they are."""
    scores = {name: row[name] for name in HELPSTEER}
    return [{"prompt": row["prompt"], "response": row["response"], "scores": scores}]


def by_strength(prompt: str, first: str, second: str, strength: str) -> View:
    """A pair with a number that is negative where the first is better; its size is the margin, 0 a tie."""

    def view(row: RowValues) -> list[dict[str, Any]]:
        value = _number(row, strength)
        side = "a" if value < 0 else "b" if value > 0 else "tie"
        return _judged(at(row, prompt), at(row, first), at(row, second), side, margin=abs(value))

    return view


def scored_responses(row: RowValues) -> list[dict[str, Any]]:
    """2 to 5 answers of one prompt, each with its score: one rating each."""
    answers, scores = _listed(row, "responses"), _listed(row, "scores")
    if len(answers) != len(scores):
        raise DataError(f"{len(scores)} scores for {len(answers)} responses", field="scores", value=scores)
    return [
        {"prompt": row["prompt"], "response": a, "scores": s} for a, s in zip(answers, scores, strict=True)
    ]


def ranked_responses(row: RowValues) -> list[dict[str, Any]]:
    scores = [float(score) for score in _listed(row, "scores")]
    return _ranked(row["prompt"], _listed(row, "responses"), _ranks(scores))


def _listed(row: RowValues, name: str) -> list[Any]:
    value = row[name]
    if isinstance(value, str):
        try:
            value = loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list):
        raise DataError("expected a list", field=name, value=row[name], reason="wrong_type")
    return value


def nectar(row: RowValues) -> list[dict[str, Any]]:
    answers = _listed(row, "answers")
    ranks = _ranks([-_number(answer, "rank") for answer in answers])
    return _ranked(row["prompt"], [at(a, "answer") for a in answers], ranks)


def _one_hot(row: RowValues) -> str:
    sides = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
    won = [
        side for column, side in sides.items() if str(row.get(column)).strip() in ("1", "1.0", "True", "true")
    ]
    if len(won) != 1:
        raise DataError("expected one of the three winner columns to be 1", field="winner_model_a", value=won)
    return won[0]


def arena_55k(row: RowValues) -> list[dict[str, Any]]:
    """JSON lists of turns in text: the last answers are judged, what came before is the prompt."""
    asked, first, second = (_listed(row, name) for name in ("prompt", "response_a", "response_b"))
    if first[:-1] != second[:-1]:
        raise DataError(
            "the two dialogues differ before their last answer",
            field="response_b",
            reason="diverging_dialogues",
        )
    turns = [
        message
        for question, answer in zip(asked, [*first[:-1], None], strict=True)
        for message in (
            {"role": "user", "content": question},
            *([] if answer is None else [{"role": "assistant", "content": answer}]),
        )
    ]
    return _judged(turns, first[-1], second[-1], _one_hot(row))


def arena_conversations(row: RowValues) -> list[dict[str, Any]]:
    won = read.side(row["winner"], "winner")
    one, two = row["conversation_a"], row["conversation_b"]
    if won == "b":
        one, two = two, one
    return [{"chosen": one, "rejected": two, "probability": 0.5 if won == "tie" else 1.0}]


def _most_said(said: Sequence[Any], field: str) -> str:
    """The side that most people chose; as many for two sides is a tie."""
    votes = Counter(read.side(one, field) for one in said if one is not None).most_common()
    if not votes:
        raise DataError("nobody chose", field=field, value=list(said), reason="unlabelled")
    return votes[0][0] if len(votes) == 1 or votes[0][1] > votes[1][1] else "tie"


def argilla(row: RowValues) -> list[dict[str, Any]]:
    """A flattened export: the answer that most people chose; discarded answers and drafts do not count."""
    said, status = row["preference.responses"], row.get("preference.responses.status") or ()
    kept = [s for k, s in enumerate(said) if k >= len(status) or status[k] == "submitted"]
    side = _most_said(kept, "preference.responses")
    return _judged(row["instruction"], row["response1"], row["response2"], side)


def argilla_records(row: RowValues) -> list[dict[str, Any]]:
    """An export as records: `fields`, and `responses` of people by question."""
    texts = row["fields"]
    prompt = next((at(texts, n) for n in ("instruction", "prompt", "question") if at(texts, n)), None)
    answers = row["responses"].get("preference") or ()
    said = [at(a, "value") for a in answers if at(a, "status") in (None, "submitted")]
    side = _most_said(said, "responses.preference")
    one, two = (at(texts, f"response{k}") or at(texts, f"response_{k}") for k in (1, 2))
    return _judged(prompt, one, two, side)


def label_studio(row: RowValues) -> list[dict[str, Any]]:
    """`left` and `right` of every annotation that was not cancelled."""
    data = row["data"]
    found = []
    for annotation in row["annotations"]:
        selected = [at(result, "value.selected") for result in at(annotation, "result") or ()]
        if annotation.get("was_cancelled") or selected not in (["left"], ["right"]):
            continue
        side = "a" if selected == ["left"] else "b"
        found += _judged(at(data, "prompt"), at(data, "answer1"), at(data, "answer2"), side)
    if not found:
        raise DataError("no annotation that counts", field="annotations", reason="unlabelled")
    return found


def turns(row: RowValues) -> list[dict[str, Any]]:
    """Texts of user and assistant in turn."""
    roles = ("user", "assistant")
    return [{"messages": [{"role": roles[k % 2], "content": t} for k, t in enumerate(row["data"])]}]


def dialogue(path: str) -> View:
    """A dialogue in one text as messages."""

    def view(row: RowValues) -> list[dict[str, Any]]:
        text = str(row[path])
        marks = transcripts.marks_of(text)
        assert marks is not None
        turns = transcripts.messages_of(text, marks, path)
        system = re.sub(r"^\s*SYSTEM:\s*", "", str(row.get("system") or "")).strip()
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return [{"messages": messages, "system": system or None}]

    return view


def every_pair(row: RowValues) -> list[dict[str, Any]]:
    """Lists of right and wrong answers: each right one over each wrong one."""
    return [
        {"prompt": row["prompt"], "chosen": good, "rejected": bad}
        for good in _listed(row, "chosen")
        for bad in _listed(row, "rejected")
    ]


def right_and_wrong(row: RowValues) -> list[dict[str, Any]]:
    """Lists of right and wrong answers: all right ones share the first rank."""
    good, bad = _listed(row, "chosen"), _listed(row, "rejected")
    ranks = [1] * len(good) + [1 + len(good)] * len(bad)
    return _ranked(row["prompt"], [*good, *bad], ranks)


def rated_summary(row: RowValues) -> list[dict[str, Any]]:
    """Axes from 1 to 7."""
    axes = at(row, "summary.axes") or {}
    scores = {name: 5 * (_number(axes, name) - 1) / 6 for name, value in axes.items() if value is not None}
    post = at(row, "info.post") or at(row, "info.article")
    return [{"prompt": post, "response": at(row, "summary.text"), "scores": scores}]


def rejected_response(row: RowValues) -> list[dict[str, Any]]:
    """The last answer of the messages is chosen."""
    *before, last = _listed(row, "messages")
    fields = {"prompt": before, "chosen": [last], "rejected": row["rejected_response"]}
    return [{**fields, "system": row.get("system")}]


def summaries(row: RowValues) -> list[dict[str, Any]]:
    texts = [at(summary, "text") for summary in row["summaries"]]
    post = at(row, "info.post") or at(row, "info.article")
    side = chosen_by("choice", {0: "a", 1: "b"})(row)
    return _judged(post, texts[0], texts[1], side)


def webgpt(row: RowValues) -> list[dict[str, Any]]:
    """Scores add to 0; the sign chooses."""
    first, second = _number(row, "score_0"), _number(row, "score_1")
    side = "a" if first > second else "b" if second > first else "tie"
    return _judged(at(row, "question.full_text"), row["answer_0"], row["answer_1"], side)


def stack_exchange(row: RowValues) -> list[dict[str, Any]]:
    answers = _listed(row, "answers")
    ranks = _ranks([_number(answer, "pm_score") for answer in answers])
    return _ranked(row["question"], [at(a, "text") for a in answers], ranks)


def safe_label(row: RowValues) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "response": row["response"], "label": bool(row["is_safe"])}]


def _refuse(message: str, reason: str) -> View:
    def view(row: RowValues) -> list[dict[str, Any]]:
        raise DataError(message, reason=reason)

    return view


def hendrycks(row: RowValues) -> list[dict[str, Any]]:
    """The problem, and the whole solution: the math verifier finds its last box."""
    return [{"prompt": row["problem"], "answer": row["solution"]}]


PROCESS = _refuse(
    "labels of single steps (process rewards) are not supported; each answer needs one label or score",
    "step_labels",
)
CHOICES = _refuse(
    "choices would be lost: this row is a multiple-choice question, which compare reads as a set of kind "
    "multiple_choice",
    "multiple_choice",
)
JUDGED = _refuse(
    "judged answers, good ones and bad ones: say from which score up they are imitated", "judged_answers"
)
UNSAFE = _refuse(
    "is_safe is false: not an answer to imitate; train kto on these rows, or leave the unsafe ones out",
    "unsafe",
)
