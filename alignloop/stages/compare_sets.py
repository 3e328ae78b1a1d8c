"""What each kind of evaluation set asks of a model, and what it measures of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignloop.config.compare import BUILT_IN, SetEntry
from alignloop.errors import DataError
from alignloop.evaluation import sets
from alignloop.evaluation.choices import is_right, true_share
from alignloop.evaluation.comparison import Measurement, measurement
from alignloop.evaluation.harm import LIMITS, degenerate, refuses, toxic
from alignloop.evaluation.sets import BUILT_IN_REQUESTS
from alignloop.records import Conversation, Prompt
from alignloop.rl.math_answers import reference_number
from alignloop.rl.rewards import Component, Sample, checked_scores
from alignloop.rl.verifiers import exact_match, math_reward, passes
from alignloop.stages.candidates import Candidate

Raw = Any
"""What a model gave: answers, log-probs of choices, or likelihoods; a sentence where it cannot."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A set with its rows.

    Attributes:
        name: of its metrics.
        entry: from the recipe.
        rows: in the form its kind reads.
        scorer: replaces the lexical measure, None for that.
        baseline: name of the model that others are compared with.
    """

    name: str
    entry: SetEntry
    rows: Sequence[Any]
    scorer: Component | None = None
    baseline: str = ""

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts that models answer, [] for sets without answers."""
        if self.entry["kind"] == "harmlessness":
            return [row.prompt for row in self.rows]
        return list(self.rows) if KINDS[self.entry["kind"]].answers else []


@dataclass(frozen=True, slots=True)
class Kind:
    """How sets of one kind are read and measured; `answers` says whether models answer prompts."""

    read: Callable[[Any], Sequence[Any]]
    measure: Callable[[EvaluationSet, Mapping[str, Raw]], list[Measurement]]
    answers: bool = True


def read_set(entry: SetEntry, name: str, scorer: Component | None, baseline: str = "") -> EvaluationSet:
    """Read a set's rows.

    Raises:
        DataError: a row that does not fit the kind, or fewer than 2 rows.
    """
    kind = KINDS[entry["kind"]]
    if entry["kind"] == "lm_eval":
        return EvaluationSet(name, entry, kind.read(entry["path"]))
    own = entry["path"] == BUILT_IN and entry["kind"] == "harmlessness"
    path = str(BUILT_IN_REQUESTS) if own else entry["path"]
    spec = path + (f"#{entry['rows']}" if "rows" in entry else "")
    rows = kind.read(spec)
    if len(rows) < 2:
        raise DataError(f"set '{name}' needs at least 2 rows", file=entry["path"], value=len(rows))
    found = EvaluationSet(name, entry, rows, scorer, baseline)
    if entry["kind"] == "instructions":
        bare = next((p for p in found.prompts if not p.constraints), None)
        if bare is not None:
            where = bare.provenance
            raise DataError(
                "instructions need constraints", file=where.file, line=where.line, field="constraints"
            )
    return found


def collect(candidate: Candidate, one: EvaluationSet) -> Raw:
    """What a model gives for a set."""
    kind = one.entry["kind"]
    if kind in ("multiple_choice", "preferences"):
        return candidate.choices(one.rows)
    if kind == "truthfulness":
        both = [question for pair in one.rows for question in pair]
        return candidate.choices(both)
    if kind == "lm_eval":
        return candidate.suites(one.rows, one.entry.get("rows"))
    if kind == "perplexity":
        return candidate.likelihoods(one.rows)
    return candidate.answers([prompt.prompt for prompt in one.prompts])


def measure(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    """The metrics of a set for all models."""
    return KINDS[one.entry["kind"]].measure(one, raw)


def _split(raw: Mapping[str, Raw]) -> tuple[dict[str, Any], dict[str, str]]:
    """Models that were measured, and the reasons of the others."""
    missing = {model: value for model, value in raw.items() if isinstance(value, str)}
    return {model: value for model, value in raw.items() if model not in missing}, missing


def _prompts(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    words = {model: [len(text.split()) for text in answers] for model, answers in raw.items()}
    empty = {model: [float(not text) for text in answers] for model, answers in raw.items()}
    found = [
        measurement(f"{one.name}.length", words, unit="words", higher_is_better=None),
        measurement(f"{one.name}.empty", empty, unit="share", higher_is_better=False, scale="rate"),
    ]
    if one.scorer is not None:
        found.append(_of(one, raw, one.name, scored(one.scorer, one.prompts), scale="mean", higher=True))
    return found


def _instructions(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    def passed(answers: Sequence[str]) -> list[float]:
        return [
            float(passes(text, p.constraints, prompt=asked(p.prompt)))
            for text, p in zip(answers, one.prompts, strict=True)
        ]

    return [_of(one, raw, one.name, passed, higher=True)]


def _harmlessness(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    """Both sides: a model that refuses everything is harmless and useless, a mute one is neither."""
    safe = np.array([row.safe for row in one.rows])
    refusals = {model: np.asarray(_judged(one, answers, refuses)) for model, answers in raw.items()}
    mute = _mute(raw)
    found = []
    for part, rows, wants_refusal in (
        ("compliance_if_safe", safe, False),
        ("refusal_if_unsafe", ~safe, True),
    ):
        if rows.sum() >= 2:
            values = {
                m: np.where(mute[m], 0.0, r if wants_refusal else 1 - r)[rows] for m, r in refusals.items()
            }
            name, margin = f"{one.name}.{part}", one.entry.get("margin")
            found.append(
                measurement(name, values, unit="share", scale="rate", margin=margin, note=_limits(one))
            )
    return [*found, _degenerate(one, mute)]


def _toxicity(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    found = _of(one, raw, one.name, lambda a: _judged(one, a, toxic), higher=False, note=_limits(one))
    return [found, _degenerate(one, _mute(raw))]


def _mute(raw: Mapping[str, Raw]) -> dict[str, np.ndarray]:
    """Which answers say nothing, bool (rows,) by model."""
    return {model: np.array([degenerate(text) for text in answers]) for model, answers in raw.items()}


def _degenerate(one: EvaluationSet, mute: Mapping[str, np.ndarray]) -> Measurement:
    """Share of answers that say nothing, which no other figure of the set counts for the model."""
    return measurement(
        f"{one.name}.degenerate",
        {model: found.astype(float) for model, found in mute.items()},
        unit="share",
        higher_is_better=False,
        scale="rate",
        note="empty, looping or unreadable answers",
    )


def _limits(one: EvaluationSet) -> str:
    return LIMITS if one.scorer is None else ""


def _truthfulness(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    done, missing = _split(raw)
    mc1, mc2 = {}, {}
    for model, rows in done.items():
        mc1[model] = [is_right(pair[0], row) for pair, row in zip(one.rows, rows[0::2], strict=True)]
        mc2[model] = [true_share(pair[1], row) for pair, row in zip(one.rows, rows[1::2], strict=True)]
    margin = one.entry.get("margin")
    return [
        measurement(f"{one.name}.{name}", values, unit="share", scale="rate", margin=margin, missing=missing)
        for name, values in (("mc1", mc1), ("mc2", mc2))
    ]


def _multiple_choice(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    done, missing = _split(raw)
    values = {
        model: [is_right(question, row) for question, row in zip(one.rows, rows, strict=True)]
        for model, rows in done.items()
    }
    margin = one.entry.get("margin")
    return [measurement(one.name, values, unit="share", scale="rate", margin=margin, missing=missing)]


def _preferences(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    """Which answer of each pair a model finds likelier per byte, and which one it raised more.

    The second is the accuracy of implicit rewards against the baseline (arXiv 2305.18290, equation 5), which
    itself has none.
    """
    done, missing = _split(raw)
    sizes = np.asarray([[max(1, len(c.encode("utf-8", "replace"))) for c in q.choices] for q in one.rows])
    sums = {model: np.asarray(rows, dtype=np.float64) for model, rows in done.items()}
    likelier = {model: _prefers_first(found / sizes) for model, found in sums.items()}
    prompts = list(dict.fromkeys(question.prompt for question in one.rows))
    place = np.asarray([prompts.index(question.prompt) for question in one.rows])

    def of(name: str, values: Mapping[str, np.ndarray], missing: Mapping[str, str], note: str) -> Measurement:
        return measurement(
            f"{one.name}.{name}",
            {model: np.bincount(place, value, len(prompts)) for model, value in values.items()},
            unit="share",
            scale="rate",
            sizes=np.bincount(place, minlength=len(prompts)),
            margin=one.entry.get("margin"),
            missing=missing,
            note=note,
        )

    found = [of("likelier", likelier, missing, "chosen answer likelier per byte")]
    if one.baseline in sums and len(sums) > 1:
        base = sums[one.baseline]
        raised = {m: _prefers_first(rows - base) for m, rows in sums.items() if m != one.baseline}
        none = {**missing, one.baseline: "the others are measured against it"}
        found.append(of("raised", raised, none, "chosen answer raised more than the rejected one"))
    return found


def _prefers_first(scores: np.ndarray) -> np.ndarray:
    """(N, 2) → (N,): 1 where the first is higher, ½ where both are equal."""
    return (1 + np.sign(scores[:, 0] - scores[:, 1])) / 2


def _exact(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    def right(answers: Sequence[str]) -> list[float]:
        return [is_correct(text, p.answer or "") for text, p in zip(answers, one.prompts, strict=True)]

    return [_of(one, raw, one.name, right, higher=True)]


def _perplexity(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    """Per token where all models cut the texts alike, else per byte: only then are they comparable."""
    done, missing = _split(raw)
    tokens = [[count for _, count in rows] for rows in done.values()]
    alike = all(row == tokens[0] for row in tokens)
    sizes = tokens[0] if tokens and alike else [len(d.text.encode("utf-8", "replace")) for d in one.rows]
    values = {model: [nats for nats, _ in rows] for model, rows in done.items()}
    return [
        measurement(
            one.name,
            values,
            unit="per token" if alike else "per byte",
            higher_is_better=False,
            scale="log",
            sizes=sizes,
            margin=one.entry.get("margin"),
            missing=missing,
        )
    ]


def _lm_eval(one: EvaluationSet, raw: Mapping[str, Raw]) -> list[Measurement]:
    done, missing = _split(raw)
    return [
        measurement(
            one.name if len(one.rows) == 1 else f"{one.name}.{task}",
            {model: scores[task] for model, scores in done.items()},
            unit="share",
            scale="rate",
            margin=one.entry.get("margin"),
            missing=missing,
        )
        for task in one.rows
    ]


def _task_names(path: str) -> list[str]:
    return [name.strip() for name in path.split(",") if name.strip()]


def is_correct(text: str, reference: str) -> float:
    """1 if the final number is the reference's, or for a reference without one if the texts are equal."""
    is_number = reference_number(reference) is not None
    return math_reward(text, reference) if is_number else exact_match(text, reference)


def asked(prompt: Conversation) -> str:
    """The prompt's text, for the check that an answer is no echo of it."""
    return " ".join(message.content for message in prompt)


def scored(scorer: Component, prompts: Sequence[Prompt]) -> Callable[[Sequence[str]], list[float]]:
    """A user's function as a measure of answers."""

    def score(answers: Sequence[str]) -> list[float]:
        samples = [
            Sample(prompt, text, len(text.split()), True, row)
            for row, (prompt, text) in enumerate(zip(prompts, answers, strict=True))
        ]
        return checked_scores(scorer, samples).tolist()

    return score


def _judged(one: EvaluationSet, answers: Sequence[str], lexical: Callable[[str], bool]) -> list[float]:
    if one.scorer is None:
        return [float(lexical(text)) for text in answers]
    return scored(one.scorer, one.prompts)(answers)


def _of(
    one: EvaluationSet,
    raw: Mapping[str, Raw],
    name: str,
    score: Callable[[Sequence[str]], list[float]],
    *,
    higher: bool,
    scale: Any = "rate",
    note: str = "",
) -> Measurement:
    values = {model: score(answers) for model, answers in raw.items()}
    unit, margin = ("share" if scale == "rate" else "score"), one.entry.get("margin")
    return measurement(
        name, values, unit=unit, higher_is_better=higher, scale=scale, margin=margin, note=note
    )


KINDS: Mapping[str, Kind] = {
    "prompts": Kind(sets.read_prompts, _prompts),
    "instructions": Kind(sets.read_prompts, _instructions),
    "harmlessness": Kind(sets.read_requests, _harmlessness),
    "truthfulness": Kind(sets.read_truthfulness, _truthfulness, answers=False),
    "toxicity": Kind(sets.read_prompts, _toxicity),
    "multiple_choice": Kind(sets.read_multiple_choice, _multiple_choice, answers=False),
    "exact": Kind(sets.read_exact, _exact),
    "perplexity": Kind(sets.read_documents, _perplexity, answers=False),
    "preferences": Kind(sets.read_preferences, _preferences, answers=False),
    "lm_eval": Kind(_task_names, _lm_eval, answers=False),
}
"""A new kind is one entry here, one reader in evaluation/sets.py and one name in config/compare.py."""
