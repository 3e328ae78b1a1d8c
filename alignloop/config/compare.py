"""Keys of the stages that prove something: compare, audit, and what `my-pairs` adds: split, verdict."""

from __future__ import annotations

from typing import Annotated, Literal, Required, get_args

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config.ai import ADVISER, AdviserSource, RubricPath
from alignloop.config.fields import (
    ModelPath,
    Path,
    StageConfig,
    TemplateConfig,
    conflict,
    defaulting,
    path_or,
)
from alignloop.config.registry import register_stage
from alignloop.config.sections import KEPT_ANSWERS, RowsConfig, SamplingConfig
from alignloop.user_functions import REFERENCE

SetKind = Literal[
    "prompts",
    "instructions",
    "harmlessness",
    "truthfulness",
    "toxicity",
    "multiple_choice",
    "exact",
    "perplexity",
    "preferences",
    "lm_eval",
]
SET_KINDS: tuple[str, ...] = get_args(SetKind)
BUILT_IN = "builtin"
"""Path of a harmlessness set that names AlignLoop's own requests."""
FunctionPath = Annotated[str, Field(pattern=REFERENCE)]


class ModelEntry(TypedDict, total=False):
    """A model to compare."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    model: Required[ModelPath]
    name: str
    served_name: str
    api_key_env: str


class SetEntry(TypedDict, total=False):
    """Something to measure."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    kind: Required[SetKind]
    path: Required[Path]
    name: str
    rows: Annotated[int, Field(ge=2)]
    margin: Annotated[float, Field(ge=0)]
    scorer: FunctionPath


class ComparingJudge(AdviserSource, total=False):
    """A model that compares answers."""

    rubric: RubricPath
    certificate: Required[Annotated[str, path_or("none")]]


@register_stage("compare", makes="comparison", group="Evaluate", kept_elsewhere=KEPT_ANSWERS)
class CompareConfig(StageConfig, SamplingConfig, TemplateConfig):
    """Any number of models on any number of sets, with intervals, win rates and the alignment tax."""

    models: tuple[ModelEntry | ModelPath, ...] = Field(
        min_length=1,
        description="run folders, model names, .jsonl files of answers, endpoints (http://…/v1), or "
        "{model: …, name: …, served_name: …, api_key_env: …}; the first is the baseline",
        json_schema_extra={"format": "path"},
    )
    baseline: str = Field(
        default="", description="name of the model the others are compared with; empty: the first"
    )
    sets: tuple[SetEntry, ...] = Field(
        min_length=1,
        description="{kind: …, path: …, name: …, rows: …, margin: …, scorer: module:function}; kinds: "
        + ", ".join(SET_KINDS)
        + "; a margin makes it a capability whose loss is judged; harmlessness has a set of its own, "
        "path: builtin",
        json_schema_extra={"format": "path", "words": [BUILT_IN]},
    )
    reward_model: Path | None = Field(
        default=None, description="reward model that scores answers, null for none"
    )
    labels: Path | None = Field(
        default=None, description="people's preferences between these answers, null for none"
    )
    judge: FunctionPath | None = Field(
        default=None,
        description="module:function that compares pairs of answers (docs/guide/evaluate.md), null for none",
    )
    judge_model: ComparingJudge | None = Field(
        default=None,
        description=f"model that compares pairs of answers, null for none: {ADVISER}; with `certificate`, "
        "the run of a stage judge that examined it (none uses it unexamined), and perhaps a `rubric`",
        json_schema_extra={"format": "path", "words": ["smollm2-135m-instruct", "tiny", "default", "none"]},
    )
    pairs: Literal["baseline", "all"] = Field(
        default="baseline",
        description="which models a judge compares: all with the baseline, or all with all",
    )
    bootstrap: int = Field(default=2000, ge=1000, description="resamples of the prompts for each interval")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    require: tuple[str, ...] = Field(
        default=(), description="what must hold, or the pipeline stops: `dpo.win_rate.low > 0.5`"
    )
    token_budget: int = Field(default=16384, ge=64, description="tokens in flight at once; bounds memory")
    temperature: float = defaulting(SamplingConfig, "temperature", 0.0)
    max_new_tokens: int = defaulting(SamplingConfig, "max_new_tokens", 256)

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> CompareConfig:
        for key, names in (("models", model_names(self.models)), ("sets", set_names(self.sets))):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise conflict(key, f"two are called '{twice[0]}'; give each a name of its own")
        if self.baseline and self.baseline not in model_names(self.models):
            raise conflict("baseline", f"one of {', '.join(model_names(self.models))} is expected")
        return self


@register_stage("audit", makes="comparison", group="Evaluate")
class AuditConfig(StageConfig):
    """Did a finished run become better, or better at fooling its reward?"""

    run: Path = Field(description="run folder to audit")
    canaries: bool = Field(
        default=True, description="score empty, doubled and longest answers with the run's own reward"
    )
    num_disagreements: int = Field(
        default=20, ge=1, description="completions shown whose reward and gold disagree most"
    )
    bootstrap: int = Field(default=2000, ge=1000, description="resamples of the prompts for each interval")


@register_stage("split")
class SplitConfig(StageConfig, RowsConfig):
    """Judged pairs divided by prompt, once for every stage that trains on them or measures on them."""

    held_out_fraction: float = Field(
        default=0.2, gt=0, le=0.5, description="share of the prompts that no stage trains on"
    )
    max_held_out: int = Field(default=500, ge=1, description="prompts held out, at most")


@register_stage("verdict", makes="verdict", group="Evaluate")
class VerdictConfig(StageConfig, RowsConfig):
    """What policy and reward model learned from judged pairs, on pairs that neither trained on, in words."""

    policy: ModelPath = Field(description="the trained model")
    reference: ModelPath = Field(description="the model that it was trained from")
    reward_model: Path = Field(description="reward run trained on the same pairs")
    comparison: Path = Field(description="run of stage compare with the answers of both models")
    after: str = Field(default="after", description="name of the trained model in it")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    token_budget: int = Field(
        default=8192, ge=64, description="tokens per packed forward pass; bounds memory"
    )


def model_names(models: tuple[ModelEntry | str, ...]) -> list[str]:
    """What each model is called: its `name`, else the last part of its path, else its whole path."""
    items = [{"model": item} if isinstance(item, str) else item for item in models]
    paths = [item["model"] for item in items]
    ends = [path.rstrip("/").rpartition("/")[2] for path in paths]
    unique = [end if ends.count(end) == 1 else path for end, path in zip(ends, paths, strict=True)]
    return [item.get("name") or name for item, name in zip(items, unique, strict=True)]


def set_names(sets: tuple[SetEntry, ...]) -> list[str]:
    """What each set is called: its `name`, else its kind."""
    return [item.get("name") or item["kind"] for item in sets]
