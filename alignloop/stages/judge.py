"""AI feedback: judges compare sampled answers, after they were examined themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from alignloop.config.ai import JudgeConfig
from alignloop.data.columns import read_records, write_records
from alignloop.errors import DataError
from alignloop.io import write_whole
from alignloop.judges.adviser import Adviser
from alignloop.judges.certify import Certificate, Thresholds, certify, refuse_unless_passed
from alignloop.judges.constitution.principles import load_constitution
from alignloop.judges.pairwise import (
    AnswerPair,
    JudgeSettings,
    PairVerdict,
    agreement,
    check_faults,
    coin,
    joint,
    judge_pairs,
)
from alignloop.judges.rubric import Rubric, load_rubric
from alignloop.records import Preference, Prompt, Provenance, message_rows
from alignloop.rl.scores import unique_names
from alignloop.runs import Run
from alignloop.runs.results import JudgementsMade
from alignloop.stages import common
from alignloop.stages.answers import ANSWERS_FILE, Answered, read_answers
from alignloop.stages.judging import account_row, open_adviser, write_certificate
from alignloop.stages.labels import label_table

VERDICTS_FILE = "verdicts.jsonl"


class PairTask(NamedTuple):
    """A pair with the row of data it comes from."""

    source: Prompt
    pair: AnswerPair


def judge(config: JudgeConfig, run: Run) -> dict[str, Any]:
    """Examine the judges, then let them compare the answers of a `sample` run.

    What was asked once is never asked again: all replies are cached by content, so a stopped stage goes
    on where it was. Labels say `"origin": "ai"` and name judges, rubric and principle.

    Args:
        config: the recipe; `dataset` is a sample run or its rows.
        run: the run folder; receives `certificate.json`, `verdicts.jsonl` (every judge's verdict with its
            reasons) and `data/rows.jsonl` with the preferences.

    Returns:
        Results for run.json.

    Raises:
        UserError: a judge failed its certification in a measure that is not overridden.
        EngineError: a judge cannot be reached, or gives no verdict too often.
        DataError: no pair to compare, or only ties where these are dropped.
    """
    common.set_threads(config.num_threads)
    rubric = load_rubric(config.rubric)
    tasks = make_tasks(read_answers(config.dataset), config)
    settings = JudgeSettings(
        config.language, config.reasons, config.max_reason_tokens, config.clamp, config.disagreement
    )
    judges = open_judges(config)
    certificates = [examine(adviser, tasks, rubric, settings, config) for adviser in judges.values()]
    write_certificate(certificates, run.path)
    for certificate in certificates:
        refuse_unless_passed(certificate)
        if certificate.overridden:
            names = ", ".join(certificate.overridden)
            common.tell(run, f"judge '{certificate.judge}' is used although it did not pass: {names}")
    pairs = [task.pair for task in tasks]
    verdicts = {name: judge_pairs(adviser, pairs, rubric, settings) for name, adviser in judges.items()}
    faults = {name: check_faults(found, config.max_fault_share, name) for name, found in verdicts.items()}
    joined = [joint(row) for row in zip(*verdicts.values(), strict=True)]
    write_verdicts(run, tasks, verdicts)
    records = make_records(tasks, joined, rubric, config, verdicts)
    if not records:
        turned = sum(not verdict.consistent for verdict in joined)
        raise DataError(
            f"none of {len(tasks)} pairs got a verdict other than a tie, {turned} because it changed with "
            f"the order (see {VERDICTS_FILE}); use a better judge, disagreement=average or ties=keep",
            file=str(config.dataset),
            reason="no_rows",
        )
    (run.path / "data").mkdir(exist_ok=True)
    write_records(run.path / ANSWERS_FILE, records)
    return {
        **summary(joined, records).row(),
        "certification": [row for certificate in certificates for row in certificate.rows()],
        **({"agreement": agreement(verdicts)} if len(judges) > 1 else {}),
        "account": [account_row(name, adviser.account) for name, adviser in judges.items()],
        **({"faults": {name: dict(found) for name, found in faults.items()}} if any(faults.values()) else {}),
        **label_table(records),
    }


def open_judges(config: JudgeConfig) -> dict[str, Adviser]:
    """The recipe's judges, each by its own name; of several of one name all but the first say their place."""
    found = [
        open_adviser(
            source,
            chat_template=config.template,
            dtype=config.dtype,
            device=config.device,
            seed=config.seed,
            token_budget=config.token_budget,
        )
        for source in config.judges
    ]
    names = [adviser.name for adviser in found]
    places = [source.get("endpoint", "here") for source in config.judges]
    told = [
        f"{name} @ {place}" if name in names[:number] else name
        for number, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    return dict(zip(unique_names(told), found, strict=True))


def examine(
    adviser: Adviser, tasks: Sequence[PairTask], rubric: Rubric, settings: JudgeSettings, config: JudgeConfig
) -> Certificate:
    """The certificate of a judge on a seeded part of the pairs it is going to judge."""
    order = np.random.default_rng(config.seed).permutation(len(tasks))[: config.certify_pairs]
    human: list[Any] = []
    if config.human_dataset is not None:
        human = read_records(config.human_dataset, kind="preference").records
    return certify(
        adviser,
        [tasks[k].pair for k in sorted(order.tolist())],
        rubric,
        settings,
        human=human,
        thresholds=Thresholds(
            config.min_swap_consistency,
            config.max_length_preference,
            config.min_kappa,
            config.max_null_win_rate,
        ),
        override=config.override,
    )


def make_tasks(rows: Sequence[Answered], config: JudgeConfig) -> list[PairTask]:
    """Pairs of different, non-empty answers, seeded by the prompt, each with a principle where asked for.

    Raises:
        DataError: no prompt has two different answers.
    """
    book = None if config.principles == "none" else load_constitution(config.principles)
    tasks: list[PairTask] = []
    for source, answers in rows:
        texts = list(dict.fromkeys(text for text in answers if text.strip()))
        choices = list(combinations(range(len(texts)), 2))
        rng = np.random.default_rng([config.seed, len(texts), *" ".join(texts).encode()[:64]])
        chosen = [choices[k] for k in rng.permutation(len(choices))[: config.pairs]]
        drawn = (
            book.draw(source.prompt, len(chosen), config.seed) if book and chosen else [None] * len(chosen)
        )
        for (i, j), principle in zip(chosen, drawn, strict=True):
            named = ("", "")
            if book is not None and principle is not None:
                language = book.language(source.prompt, config.language)
                named = (principle.name, principle.wordings[language].prefer)
            tasks.append(PairTask(source, AnswerPair(source.prompt, texts[i], texts[j], named)))
    if not tasks:
        raise DataError(
            f"none of {len(rows)} prompts has two different answers to compare",
            file=str(config.dataset),
            reason="no_rows",
        )
    return tasks


def make_records(
    tasks: Sequence[PairTask],
    verdicts: Sequence[PairVerdict],
    rubric: Rubric,
    config: JudgeConfig,
    by_judge: Mapping[str, Sequence[PairVerdict]],
) -> list[Preference]:
    """Preferences of the pairs that got a verdict; ties as the recipe says."""
    records = []
    for number, ((source, pair), verdict) in enumerate(zip(tasks, verdicts, strict=True)):
        if verdict.fault or (verdict.side == 0 and config.ties == "drop"):
            continue
        first = (
            verdict.side > 0
            if verdict.side
            else coin(*(m.content for m in pair.prompt), pair.first, pair.second)
        )
        chance = max(verdict.probability, 1 - verdict.probability)
        details: dict[str, str | int | float | bool] = {
            **source.provenance.details,
            "judge": ", ".join(name for name, found in by_judge.items() if not found[number].fault),
            "rubric": rubric.name,
            "order_1": round(verdict.orders[0] if first else 1 - verdict.orders[0], 6),
            "order_2": round(verdict.orders[1] if first else 1 - verdict.orders[1], 6),
        }
        if pair.principle[0]:
            details["principle"] = pair.principle[0]
        reason = next((text for text in verdict.reasons if text), "")
        if reason:
            details["reason"] = reason
        hard = 0.5 if verdict.side == 0 else 1.0
        where = source.provenance
        records.append(
            Preference(
                pair.prompt,
                pair.first if first else pair.second,
                pair.second if first else pair.first,
                (chance if verdict.side else 0.5) if config.soft_labels else hard,
                provenance=Provenance(where.file, where.line, "ai", details),
            )
        )
    return records


def write_verdicts(
    run: Run, tasks: Sequence[PairTask], verdicts: Mapping[str, Sequence[PairVerdict]]
) -> None:
    """Every judge's verdict on every pair, reasons included."""
    lines = []
    for number, (_, pair) in enumerate(tasks):
        row = {
            "prompt": message_rows(pair.prompt),
            "a": pair.first,
            "b": pair.second,
            "principle": pair.principle[0],
            "verdicts": {
                name: {
                    "probability": found[number].probability,
                    "orders": list(found[number].orders),
                    "reasons": list(found[number].reasons),
                    "fault": found[number].fault,
                }
                for name, found in verdicts.items()
            },
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_whole(run.path / VERDICTS_FILE, lines)


def summary(verdicts: Sequence[PairVerdict], records: Sequence[Preference]) -> JudgementsMade:
    """Counts and shares of all verdicts."""
    given = [verdict for verdict in verdicts if not verdict.fault]
    confidences = [max(v.probability, 1 - v.probability) for v in given]
    return JudgementsMade(
        num_pairs=len(verdicts),
        num_judgements=len(records),
        num_without_verdict=len(verdicts) - len(given),
        tie_share=float(np.mean([v.side == 0 for v in given])) if given else 0.0,
        consistent_share=float(np.mean([v.consistent for v in given])) if given else 0.0,
        mean_confidence=float(np.mean(confidences)) if given else 0.5,
        origin="ai",
    )
