"""The audit of a finished run: reads its folder, scores canaries with its reward, says what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from alignloop.config import AuditConfig, OnlineConfig, resolve
from alignloop.errors import AlignLoopError, DataError, RunError
from alignloop.evaluation import audit as core
from alignloop.evaluation.audit import AuditFinding, Curve
from alignloop.evaluation.hacking import disagreements, length_share, variety
from alignloop.evaluation.sets import read_prompts
from alignloop.model.tokenizer_load import load_tokenizer
from alignloop.records import Conversation, Prompt, conversation_of
from alignloop.rl.rewards import Sample, checked_scores
from alignloop.runs import Run
from alignloop.runs.evaluation_results import Audited, CurvePoint, FindingRow
from alignloop.runs.results import BestOfPoint, Trained
from alignloop.stages.scoring import build_gold, build_reward

_CANARY_PROMPTS = 32
_PIECES = 20
"""Fewest completions on a side that variety is compared on."""


def audit(config: AuditConfig, run: Run) -> dict[str, Any]:
    """Look for reward hacking in a finished run and say what the evidence supports.

    Args:
        config: the run to audit.
        run: the audit's own folder; receives the completions whose reward and gold disagree most.

    Returns:
        Results for run.json: `verdict`, `text`, `findings`, `curve`, `fits`, `variety`.

    Raises:
        RunError: the run has neither rewards nor completions to look at.
    """
    target = Run.open(config.run)
    readings = [row for row in target.metrics() if "reward" in row]
    samples = list(target.samples())
    bons = target.results(Trained).best_of_n
    if not readings and not samples and not bons:
        raise RunError(f"{config.run}: has no rewards and no completions, so there is nothing to audit")
    found = _best_of_n(bons) if bons and not readings else _curve(readings)
    findings = core.curve_findings(found)
    findings += _length(samples, config)
    early, late = _sides([str(row["completion"]) for row in samples])
    if early:
        findings += core.variety_findings(variety(early), variety(late))
    else:
        findings.append(AuditFinding("diversity", "unknown", f"only {len(samples)} completions were kept"))
    findings.append(core.spread_finding([r["ensemble_spread"] for r in readings if "ensemble_spread" in r]))
    scored, more = _rescored(config, target, samples)
    findings += more
    verdict = core.verdict(findings)
    _write_samples(run, scored)
    results = Audited(
        run=config.run,
        verdict=verdict.answer,
        text=verdict.text,
        findings=tuple(FindingRow(**asdict(finding)) for finding in verdict.findings),
        curve=tuple(_curve_rows(found)),
        num_disagreements=len(scored),
    )
    fits = [
        {"form": f.form, "alpha": f.alpha, "beta": f.beta, "r_squared": f.r_squared, "peak_kl": f.peak_kl}
        for f in found.fits.values()
    ]
    sides = [{"when": w, **asdict(variety(t))} for w, t in (("early", early), ("late", late)) if t]
    return {**results.row(), "fits": fits, "variety": sides}


def _curve(readings: Sequence[Mapping[str, float]]) -> Curve:
    def column(name: str) -> list[float | None]:
        return [row.get(name) for row in readings]

    return core.curve(column("kl"), column("reward"), column("gold"))


def _best_of_n(points: Sequence[BestOfPoint]) -> Curve:
    """Best-of-n has a KL by formula; its curve has no rollouts but numbers of samples."""
    return core.curve([p.kl for p in points], [p.reward for p in points], [p.gold for p in points])


def _curve_rows(found: Curve) -> list[CurvePoint]:
    rows = []
    for i, kl in enumerate(found.kl):
        gold = {} if found.gold is None else {"gold_gain": found.gold[i]}
        fits = {f"fit_{form}": float(fit(kl)) for form, fit in found.fits.items()}
        rows.append(CurvePoint(kl=kl, sqrt_kl=kl**0.5, proxy_gain=found.proxy[i], **gold, **fits))
    return rows


def _sides(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The first and the last quarter, equally long; at least `_PIECES` on a side, or none."""
    count = max(_PIECES, len(items) // 4)
    return (items[:count], items[-count:]) if len(items) >= 2 * count else ((), ())


def _length(samples: Sequence[Mapping[str, Any]], config: AuditConfig) -> list[AuditFinding]:
    rewarded = [row for row in samples if isinstance(row.get("reward"), int | float)]
    early, late = _sides(rewarded)
    if not early:
        text = f"only {len(rewarded)} completions with their rewards were kept; raise log_samples"
        return [AuditFinding("length", "unknown", text)]

    def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
        return [r["reward"] for r in rows], [float(len(str(r["completion"]).split())) for r in rows]

    share = length_share(*columns(early), *columns(late), replicates=config.bootstrap, seed=config.seed)
    return [core.length_finding(share)]


def _rescored(
    config: AuditConfig, target: Run, samples: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[AuditFinding]]:
    """Gold of the kept completions, and the canaries; both need the run's recipe and its parts."""
    try:
        recipe = target.config()
        stage = recipe.pop("stage", target.stage)
        settings = resolve(stage, recipe).config
        if not isinstance(settings, OnlineConfig):
            return [], [
                AuditFinding("canaries", "unknown", f"a run of stage {stage} keeps no reward to test")
            ]
        known = {prompt.prompt: prompt for prompt in read_prompts(settings.dataset)}
        asked = _as_samples(samples, known, target)
        shown, findings = _disagree(settings, asked, samples, config.num_disagreements)
        if config.canaries:
            findings += core.canary_findings(_canaries(settings, asked, config.seed))
    except (AlignLoopError, OSError) as error:
        return [], [AuditFinding("canaries", "unknown", f"the run's reward cannot be asked again: {error}")]
    return shown, findings


def _as_samples(
    rows: Sequence[Mapping[str, Any]], known: Mapping[Conversation, Prompt], target: Run
) -> list[Sample]:
    tokenizer = load_tokenizer(target.model) if target.model.is_dir() else None
    found = []
    for number, row in enumerate(rows):
        messages = conversation_of(row["prompt"])
        text = str(row["completion"])
        count = len(tokenizer.encode(text)) if tokenizer is not None else len(text.split())
        found.append(Sample(known.get(messages, Prompt(messages)), text, count, True, number))
    return found


def _disagree(
    settings: OnlineConfig, asked: Sequence[Sample], rows: Sequence[Mapping[str, Any]], count: int
) -> tuple[list[dict[str, Any]], list[AuditFinding]]:
    prompts = [sample.prompt for sample in asked]
    gold = build_gold(settings.gold, prompts, dtype=settings.dtype, device=settings.device) if asked else None
    if gold is None or not all(isinstance(row.get("reward"), int | float) for row in rows):
        return [], [AuditFinding("disagreement", "unknown", "no gold for the kept completions")]
    values, proxy = checked_scores(gold, asked), [float(row["reward"]) for row in rows]
    found = disagreements(proxy, values, count)
    shown = [
        {"step": 0, "prompt": rows[i]["prompt"], "completion": rows[i]["completion"], "reward": proxy[i]}
        | {"gold": float(values[i]), "rank_gap": gap, "model": f"step {rows[i].get('step', 0)}"}
        for i, gap in found
    ]
    together = float(np.corrcoef(proxy, values)[0, 1]) if np.std(proxy) > 0 and np.std(values) > 0 else 0.0
    text = f"proxy and gold of {len(rows)} kept completions correlate with {together:.2f}"
    return shown, [AuditFinding("disagreement", "notice" if together < 0.2 else "fine", text)]


def _canaries(settings: OnlineConfig, asked: Sequence[Sample], seed: int) -> list[core.Canary]:
    """Texts that are no good answers in place of the last answers of the run.

    Raises:
        DataError: fewer than 2 prompts.
    """
    last = list({sample.prompt.prompt: sample for sample in asked if sample.completion}.values())
    last = last[-_CANARY_PROMPTS:]
    if len(last) < 2:
        raise DataError("fewer than 2 different prompts were kept", field="samples", value=len(last))
    reward = build_reward(
        settings,
        [sample.prompt for sample in last],
        max_tokens=settings.max_new_tokens,
        dtype=settings.dtype,
        device=settings.device,
    )
    longest = max(asked, key=lambda sample: len(sample.completion))

    def scores(texts: Sequence[tuple[str, int]]) -> list[float]:
        fakes = [
            Sample(sample.prompt, text, tokens, True, sample.row)
            for sample, (text, tokens) in zip(last, texts, strict=True)
        ]
        return reward(fakes).raw.tolist()

    real = scores([(sample.completion, sample.num_tokens) for sample in last])
    fakes = {
        "the empty answer": [("", 1)] * len(last),
        "an answer said twice": [(f"{s.completion}\n\n{s.completion}", 2 * s.num_tokens) for s in last],
        "the run's longest answer, to any prompt": [(longest.completion, longest.num_tokens)] * len(last),
    }
    return [core.canary(name, scores(texts), real, seed=seed) for name, texts in fakes.items()]


def _write_samples(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    run.rewind(-1)
    for row in rows:
        run.sample(**row)
