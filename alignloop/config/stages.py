"""Stages that make data, train on stored rows, mix models or evaluate: one pydantic model for each.

Its fields are the keys of a recipe, each with a line of documentation. An objective's own keys (`beta`, …)
are not here: they come from its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from alignloop.config.checking import RefusedKey
from alignloop.config.fields import (
    AutoRate,
    ModelPath,
    Path,
    ReferencePath,
    RewardPath,
    StageConfig,
    TemplateConfig,
    conflict,
    defaulting,
    free,
)
from alignloop.config.registry import OFFLINE, SAMPLES_ITS_ROWS, TRAINS_ON_ROWS, register_stage
from alignloop.config.sections import (
    DATASET,
    KEPT_ANSWERS,
    ROLLOUT_SAVE_S,
    Dataset,
    HeldOutConfig,
    ModelConfig,
    RowsConfig,
    SamplingConfig,
    TrainConfig,
    holds_nothing_out,
)


@register_stage("pretrain", TRAINS_ON_ROWS, runner="alignloop.stages.sft:pretrain")
class PretrainConfig(HeldOutConfig):
    """Language modelling on documents."""

    kinds: ClassVar[tuple[str, ...] | None] = ("document",)

    model_name_or_path: ModelPath = defaulting(ModelConfig, "model_name_or_path", "tiny")
    max_length: int = Field(default=512, ge=8, description="longest document, in tokens")
    overlength: Literal["drop", "truncate", "error"] = Field(
        default="truncate", description="what to do with a longer one; truncate cuts it into pieces"
    )
    learning_rate: AutoRate = Field(default=3e-4, description="highest learning rate")
    weight_decay: float = defaulting(TrainConfig, "weight_decay", 0.1)
    adam_beta2: float = defaulting(TrainConfig, "adam_beta2", 0.95)


@register_stage("sft", TRAINS_ON_ROWS)
class SFTConfig(HeldOutConfig):
    """Supervised fine-tuning on demonstrations."""

    train_on: Literal["all", "last"] = Field(
        default="all",
        description="turns of the assistant that are trained: all of a conversation, or the last",
    )
    completion_only: bool = Field(default=True, description="train on completions only, not on the prompts")


@register_stage("instructions", makes="prompts")
class InstructionsConfig(StageConfig):
    """Data of the quickstart's task: requests with an instruction that a program can check."""

    content: Literal["prompts", "demonstrations", "texts"] = Field(
        default="prompts", description="prompts, answered prompts, or plain texts"
    )
    split: Literal["train", "eval"] = Field(
        default="train", description="eval has its own topics and wordings"
    )
    num_rows: int = Field(
        default=200, ge=1, description="prompts or demonstrations to make; texts: all there are"
    )
    kinds: tuple[str, ...] = Field(default=(), description="constraint kinds; none takes the quickstart's")
    languages: tuple[str, ...] = Field(default=("english",), description="of the prompts: english, korean")


@register_stage("sample", makes="answers")
class SampleConfig(StageConfig, ModelConfig, RowsConfig, SamplingConfig):
    """Several answers per prompt."""

    num_samples: int = Field(default=4, ge=2, le=5, description="answers per prompt")
    max_prompts: int = Field(default=0, ge=0, description="prompts to answer; 0 answers all")
    token_budget: int = Field(default=8192, ge=64, description="tokens in flight at once; bounds memory")
    rollout_save_s: float = free(60.0, ge=0, description=ROLLOUT_SAVE_S)


@register_stage("feedback", makes="judgements")
class FeedbackConfig(StageConfig, RowsConfig):
    """Judgements by a simulated annotator: a verifiable gold reward with seeded mistakes."""

    annotator: Literal["simulated"] = Field(
        default="simulated",
        description="simulated: gold reward of the rows' checkable instructions, marked as such",
    )
    kind: Literal["pair", "ranking", "score", "label", "edit"] = Field(
        default="pair", description="form of the judgements; edit: answers corrected into demonstrations"
    )
    noise: float = Field(default=0.0, ge=0, le=0.5, description="probability that a judgement is flipped")
    max_pairs: int = Field(
        default=1, ge=1, le=10, description="pairs made from one prompt's answers, at most"
    )


@register_stage(
    OFFLINE, TRAINS_ON_ROWS, runner="alignloop.stages.preference:preference", group="Train on comparisons"
)
class PreferenceConfig(HeldOutConfig):
    """Preference optimization with any offline objective."""

    rates: ClassVar[str] = "preference"

    reference: ReferencePath = Field(
        default="auto",
        description="auto (start, if the objective reads a reference), none, start, or a model's path",
    )
    precompute_ref_log_probs: bool = Field(
        default=True, description="compute the reference's log-probs once and cache them by content"
    )


@register_stage("best_of_n", SAMPLES_ITS_ROWS, group="Train on demonstrations")
class BestOfNConfig(TrainConfig, SamplingConfig):
    """Rejection sampling: n answers per prompt, the best ones become demonstrations."""

    kinds: ClassVar[tuple[str, ...] | None] = None
    refused: ClassVar[Mapping[str, RefusedKey]] = holds_nothing_out(
        "the best answers are all trained on; add a stage evaluate"
    )

    reward_model: RewardPath = Field(
        description="reward model's run folder, or the verifier constraints (also called gold), math, regex, "
        "json_schema or exact"
    )
    n: int = Field(default=8, ge=2, description="answers sampled per prompt")
    keep_per_prompt: int = Field(default=1, ge=1, description="best answers kept per prompt")
    rounds: int = Field(
        default=1, ge=1, description="rounds of sampling and training, each from the start model"
    )
    max_prompts: int = Field(default=0, ge=0, description="prompts to answer; 0 answers all")
    rollout_save_s: float = free(600.0, ge=0, description=ROLLOUT_SAVE_S)

    @property
    def adds_embeddings(self) -> bool:
        """See `TrainConfig`."""
        return False

    def rows_made(self, num_prompts: int) -> int:
        """The best answers to each prompt."""
        return self.keep_per_prompt * min(num_prompts, self.max_prompts or num_prompts)

    @model_validator(mode="after")
    def _keeps_fewer_than_n(self) -> BestOfNConfig:
        if self.keep_per_prompt >= self.n:
            raise conflict("keep_per_prompt", f"must be below n, which is {self.n}")
        return self


@register_stage("interpolate", makes="policy", group="Train on comparisons")
class InterpolateConfig(StageConfig):
    """A model between two others, against forgetting."""

    before: ModelPath = Field(description="model at share 0, usually the start")
    after: ModelPath = Field(description="model at share 1, trained from it")
    share: float = Field(default=0.5, ge=0, le=1, description="how far from before to after")


@register_stage("evaluate", makes="comparison", group="Evaluate", kept_elsewhere=KEPT_ANSWERS)
class EvaluateConfig(StageConfig, RowsConfig, SamplingConfig, TemplateConfig):
    """Before against after on held-out prompts, with intervals."""

    before: ModelPath = Field(description="model to compare with, usually the start")
    after: ModelPath = Field(description="model to judge")
    reward_model: Path | None = Field(
        default=None, description="reward model that scores both, null for none"
    )
    num_prompts: int = Field(default=200, ge=1, description="prompts answered by both models")
    perplexity_dataset: Dataset | None = Field(
        default=None, description=f"texts for the capability check: {DATASET}"
    )
    bootstrap: int = Field(default=2000, ge=1000, description="resamples of the prompts for each interval")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    require: tuple[str, ...] = Field(
        default=(),
        description="what must hold, or the pipeline stops: `win_rate.low > 0.5`, `perplexity.change < 1`",
    )
    token_budget: int = Field(default=16384, ge=64, description="tokens in flight at once; bounds memory")
    temperature: float = defaulting(SamplingConfig, "temperature", 0.0)
