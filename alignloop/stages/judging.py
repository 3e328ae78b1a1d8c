"""From a recipe's judges to advisers: models are loaded and endpoints opened here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config.ai import AdviserSource
from alignloop.config.compare import ComparingJudge
from alignloop.config.reward_models import RewardTerm
from alignloop.config.stages import StageConfig
from alignloop.data.template_choice import TemplateChoice
from alignloop.errors import ConfigError, EngineError, RunError
from alignloop.evaluation.comparisons import PairJudge
from alignloop.foreign import read_state
from alignloop.io import write_whole
from alignloop.judges.adviser import Account, Adviser, Cached
from alignloop.judges.certify import Certificate, CertificateMeasure
from alignloop.judges.endpoint import EndpointAdviser, EndpointSettings, read_key
from alignloop.judges.local_model import LocalAdviser
from alignloop.judges.pairwise import grade, judge_pairs
from alignloop.judges.rubric import Rubric, load_rubric
from alignloop.machine import cache_dir
from alignloop.model.load import TINY, LoadedModel, load_model
from alignloop.model.save import fingerprint
from alignloop.rl.rewards import Component, Sample
from alignloop.stages import common

CERTIFICATE_FILE = "certificate.json"
MAX_UNGRADED = 0.2
"""Share of a batch that a judge may leave without a grade before the run stops."""


def open_adviser(
    source: AdviserSource,
    *,
    chat_template: str | TemplateChoice = "tokenizer",
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    token_budget: int = 8192,
) -> Adviser:
    """The adviser a recipe names, behind the cache of all runs.

    Raises:
        ConfigError: the environment variable of the API key is not set, or keys of an endpoint without one.
        ModelError: a local model that cannot be loaded.
    """
    cache = cache_dir() / "judge"
    if "endpoint" in source:
        return Cached(EndpointAdviser(endpoint_settings(source)), cache)
    extra = sorted(set(source) - {"model"})
    if extra:
        raise ConfigError(f"judge '{source['model']}': {', '.join(extra)} need an endpoint")
    loaded = load_model(source["model"], dtype=dtype, device=device, seed=seed)
    encoder = common.inference_encoder(loaded, chat_template)
    identity = f"{model_identity(loaded, seed)}|{encoder.template.fingerprint}"  # pyright: ignore
    return Cached(LocalAdviser(loaded, encoder, identity=identity, token_budget=token_budget), cache)


def model_identity(loaded: LoadedModel, seed: int) -> str:
    """What a local model's replies depend on: its weights; a fresh `tiny` is its seed."""
    if loaded.path is not None and loaded.path.is_dir():
        return fingerprint(loaded.path)
    return f"{TINY}-{seed}" if loaded.name == TINY else f"{loaded.name}|{loaded.path}"


def endpoint_settings(source: Mapping[str, Any]) -> EndpointSettings:
    """Settings of an endpoint, its key read from the environment.

    Raises:
        ConfigError: the variable is not set.
    """
    names = ("concurrency", "timeout_s", "retries", "top_logprobs", "price_input", "price_output", "budget")
    given = {name: source[name] for name in names if name in source}
    key = read_key(source.get("api_key_env", ""))
    return EndpointSettings(source["endpoint"], source["model"], api_key=key, **given)


def account_row(name: str, account: Account) -> dict[str, Any]:
    """A judge's account as a row of a table."""
    return {"judge": name, **asdict(account)}


class MeasureRow(TypedDict):
    """A `CertificateMeasure` in certificate.json."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    threshold: float
    passed: bool


class CertificateRow(TypedDict):
    """A `Certificate` in certificate.json."""

    judge: str
    identity: str
    measures: list[MeasureRow]
    overridden: list[str]


class CertificateFile(TypedDict):
    """certificate.json of a judge run."""

    certificates: list[CertificateRow]


def write_certificate(certificates: Sequence[Certificate], folder: Path) -> None:
    """Keep the certificates of a run's judges."""
    content = {"schema": 1, "certificates": [asdict(c) | {"failed": c.failed} for c in certificates]}
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(folder / CERTIFICATE_FILE, text + "\n")


def read_certificates(path: str | Path) -> list[Certificate]:
    """The certificates of a judge run.

    Raises:
        RunError: there are none, or the file is damaged.
    """
    file = Path(path) / CERTIFICATE_FILE if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise RunError(f"{path}: no certificate here; it comes from a run of stage judge")
    content = read_state(file, CertificateFile, remedy="run the stage judge again")
    return [
        Certificate(
            row["judge"],
            row["identity"],
            tuple(CertificateMeasure(**m) for m in row["measures"]),
            tuple(row["overridden"]),
        )
        for row in content["certificates"]
    ]


def judge_component(term: RewardTerm) -> Component:
    """A judge's grades, −1 … 1, as a part of a reward.

    A completion without a grade gets the mean of the batch's others.

    Raises:
        ConfigError: the certificate is of another judge or rubric, or failed.
    """
    assert "judge" in term
    assert "certificate" in term
    keys = ("endpoint", "api_key_env", "concurrency")
    given: Mapping[str, Any] = {**term}
    source: Any = {"model": term["judge"], **{key: given[key] for key in keys if key in given}}
    if "endpoint" in term and "timeout_s" in term:
        source["timeout_s"] = term["timeout_s"]
    adviser, rubric = open_adviser(source), load_rubric(term.get("rubric", "default"))
    check_certificate(adviser, rubric, term["certificate"], key="rewards")
    return Component("judge", grader(adviser, rubric), term.get("weight", 1.0))


def check_certificate(adviser: Adviser, rubric: Rubric, certificate: str, *, key: str) -> None:
    """Refuse a judge that was not examined with this rubric, or failed; `none` examines nothing.

    Args:
        adviser: the judge.
        rubric: its questions.
        certificate: a judge run, its certificate, or none.
        key: of the recipe, for the message.

    Raises:
        ConfigError: the certificate is of another judge or rubric, or failed.
        RunError: there is none at that path.
    """
    if certificate == "none":
        return
    wanted = f"{adviser.identity}|{rubric.identity}|"
    found = [c for c in read_certificates(certificate) if c.identity.startswith(wanted)]
    if not found:
        raise ConfigError(
            f"{key}: the certificate '{certificate}' is not of judge '{adviser.name}' with this rubric"
        )
    if found[0].failed:
        raise ConfigError(
            f"{key}: judge '{adviser.name}' failed its certification in {', '.join(found[0].failed)}"
        )


def open_comparing_judge(
    entry: ComparingJudge, config: StageConfig, token_budget: int
) -> tuple[PairJudge, Adviser]:
    """A judge model in the form in which answers are compared, and the adviser behind it for its account.

    Raises:
        ConfigError: as `open_adviser` and `check_certificate`.
    """
    source: Any = {key: value for key, value in entry.items() if key not in ("rubric", "certificate")}
    adviser = open_adviser(
        source, dtype=config.dtype, device=config.device, seed=config.seed, token_budget=token_budget
    )
    rubric = load_rubric(entry.get("rubric", "default"))
    check_certificate(adviser, rubric, entry["certificate"], key="judge_model")
    return lambda pairs: judge_pairs(adviser, pairs, rubric), adviser


def grader(adviser: Adviser, rubric: Rubric) -> Callable[[Sequence[Sample]], list[float]]:
    """A function that grades completions; see `judge_component`."""

    def score(samples: Sequence[Sample]) -> list[float]:
        rows = [(sample.prompt.prompt, sample.completion) for sample in samples]
        grades = np.array(grade(adviser, rows, rubric, "auto"))
        missing = np.isnan(grades)
        if missing.mean() > MAX_UNGRADED:
            raise EngineError(
                f"judge '{adviser.name}' gave no grade to {int(missing.sum())} of {len(rows)} completions"
            )
        return np.where(missing, float(np.nanmean(grades)), grades).tolist()

    return score
