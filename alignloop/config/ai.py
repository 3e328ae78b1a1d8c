"""Keys of the stages in which models judge and revise: judge, constitution, refusals, mix."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Required

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config.fields import (
    AUTO,
    AutoRate,
    ModelPath,
    StageConfig,
    TemplateConfig,
    TemplatePath,
    conflict,
    defaulting,
    free,
    path_or,
)
from alignloop.config.registry import register_stage
from alignloop.config.sections import DATASET, Dataset, HeldOutConfig, ModelConfig, RowsConfig, SamplingConfig

RubricPath = Annotated[str, path_or("default")]
ConstitutionPath = Annotated[str, path_or("default", "none")]
MeasureName = Literal["swap_consistency", "length_preference", "kappa", "null_win_rate"]
Language = Literal["auto", "en", "ko"]


class AdviserSource(TypedDict, total=False):
    """A model that is asked: a local one, or one behind an OpenAI-compatible endpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    model: Required[ModelPath]
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    concurrency: Annotated[int, Field(ge=1, le=256)]
    timeout_s: Annotated[float, Field(gt=0)]
    retries: Annotated[int, Field(ge=0, le=20)]
    top_logprobs: Annotated[int, Field(ge=0, le=20)]
    price_input: Annotated[float, Field(ge=0)]
    price_output: Annotated[float, Field(ge=0)]
    budget: Annotated[float, Field(ge=0)]


ADVISER = (
    "{model: NAME or path}; behind an endpoint also {endpoint: http://…/v1, api_key_env: NAME, "
    "concurrency: 8, timeout_s: 60, retries: 5, top_logprobs: 0, price_input: 0, price_output: 0, "
    "budget: 0} (prices per million tokens)"
)


class CertificationConfig(StageConfig):
    """What a judge has to reach before its labels are used."""

    certify_pairs: int = Field(default=60, ge=2, description="pairs of the data on which a judge is examined")
    human_dataset: Dataset | None = Field(
        default=None, description=f"pairs judged by people, for the judge's κ with them: {DATASET}"
    )
    min_swap_consistency: float = Field(
        default=0.6, ge=0, le=1, description="least share of pairs with one verdict in both orders (low end)"
    )
    max_length_preference: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="highest share of decided pairs the longer answer may win (high end)",
    )
    min_kappa: float = Field(default=0.2, ge=-1, le=1, description="least Cohen κ with people (low end)")
    max_null_win_rate: float = Field(
        default=0.2, ge=0, le=1, description="highest win rate of a constant answer, ties ½ (high end)"
    )
    override: tuple[MeasureName, ...] = Field(
        default=(), description="measures that a judge may fail or leave unmeasured, by name"
    )


@register_stage("judge", makes="judgements")
class JudgeConfig(CertificationConfig, TemplateConfig):
    """Preferences by models: both orders, soft labels, judges certified first."""

    dataset: Dataset = Field(description="sampled answers: a run of stage sample, or its rows")
    judges: tuple[AdviserSource, ...] = Field(
        min_length=1,
        description=f"one or several judges, each {ADVISER}",
        json_schema_extra={"format": "path", "words": ["smollm2-135m-instruct", "tiny"]},
    )
    rubric: RubricPath = Field(
        default="default", description="default, or a .yaml file with the judges' questions"
    )
    principles: ConstitutionPath = Field(
        default="none",
        description="a constitution (default or a .yaml file): one principle drawn for each pair takes the "
        "place of the rubric's criteria; none keeps these",
    )
    language: Language = Field(default="auto", description="of the questions: auto (the prompt's), en or ko")
    reasons: bool = Field(default=False, description="ask for the reasons in a first call and keep them")
    max_reason_tokens: int = Field(default=192, ge=8, description="their longest length")
    clamp: float = Field(
        default=0.5, gt=0, le=0.5, description="labels stay within ½ ± this; 0.1 for reasons by principles"
    )
    disagreement: Literal["tie", "average"] = Field(
        default="tie",
        description="what verdicts are that change with the order: a tie, or the average of both orders, for "
        "judges that mostly prefer a place",
    )
    soft_labels: bool = Field(
        default=True, description="keep probabilities; false rounds them to 1, ties to ½"
    )
    ties: Literal["keep", "drop"] = Field(default="keep", description="what becomes of ties, probability ½")
    pairs: int = Field(default=1, ge=1, le=10, description="pairs from one prompt's answers, at most")
    max_fault_share: float = Field(
        default=0.2, ge=0, le=1, description="the stage fails above this share of pairs without a verdict"
    )
    chat_template: TemplatePath = Field(
        default="tokenizer", description="of local judges: tokenizer, alpaca, chatml, plain, or a .jinja file"
    )
    token_budget: int = Field(default=8192, ge=64, description="tokens of local judges in flight at once")

    @model_validator(mode="after")
    def _distinct(self) -> JudgeConfig:
        names = [(judge["model"], judge.get("endpoint")) for judge in self.judges]
        if len(set(names)) < len(names):
            raise conflict("judges", "a judge is there twice; a panel needs different ones")
        return self


@register_stage("constitution", makes="demonstrations")
class ConstitutionConfig(StageConfig, ModelConfig, RowsConfig):
    """Answers criticised and revised by principles; the last revisions become demonstrations."""

    constitution: ConstitutionPath = Field(
        default="default", description="default, or a .yaml file with principles"
    )
    critic: AdviserSource | None = Field(
        default=None,
        description=f"who criticises and revises, null for the model itself: {ADVISER}",
        json_schema_extra={"format": "path"},
    )
    rounds: int = Field(
        default=2, ge=1, le=16, description="rounds of critique and revision, a principle each"
    )
    language: Language = Field(default="auto", description="of the principles: auto (the prompt's), en or ko")
    temperature: float = defaulting(SamplingConfig, "temperature", 0.7)
    max_new_tokens: int = Field(default=192, ge=1, description="longest answer in tokens")
    max_critique_tokens: int = Field(default=128, ge=1, description="longest critique in tokens")
    max_prompts: int = Field(default=0, ge=0, description="prompts to answer; 0 answers all")
    benign_prompts: int = Field(
        default=24,
        ge=0,
        description="harmless prompts that sound dangerous, to measure needless refusals; not trained on",
    )
    token_budget: int = Field(default=8192, ge=64, description="tokens in flight at once; bounds memory")


@register_stage("refusals", group="Evaluate")
class RefusalsConfig(StageConfig, SamplingConfig, TemplateConfig):
    """Needless refusals and boilerplate of a model before and after training."""

    before: ModelPath = Field(description="model to compare with, usually the start")
    after: ModelPath = Field(description="model to look at")
    dataset: Dataset | None = Field(
        default=None, description=f"harmless prompts, null for those that come with AlignLoop: {DATASET}"
    )
    columns: dict[str, str] = defaulting(RowsConfig, "columns", {})
    num_prompts: int = Field(default=200, ge=2, description="prompts answered by both models, at most")
    token_budget: int = Field(default=8192, ge=64, description="tokens in flight at once; bounds memory")
    temperature: float = defaulting(SamplingConfig, "temperature", 0.0)


@register_stage("mix", makes="judgements")
class MixConfig(StageConfig):
    """Human and AI preferences in one training set, with the human ones alone as control."""

    human: Dataset = Field(description=f"pairs judged by people: {DATASET}")
    ai: Dataset = Field(description=f"pairs judged by models: {DATASET}")
    human_weight: float = Field(
        default=1.0, gt=0, description="how often each human pair is used in one pass"
    )
    ai_weight: float = Field(default=1.0, gt=0, description="how often each AI pair is used in one pass")
    held_out_fraction: float = Field(
        default=0.1, ge=0, le=0.5, description="share of the human prompts held out of both training sets"
    )


@register_stage("loop", runner="alignloop.stages.live_loop:loop", makes="policy")
class LoopConfig(HeldOutConfig, SamplingConfig):
    """The live loop: people judge, models are trained again, their answers are queued to be judged."""

    rates: ClassVar[str] = "preference"
    kinds: ClassVar[tuple[str, ...] | None] = ()

    labels: str = Field(description="label folder, as `alignloop label serve` uses it")
    database: str = Field(
        default="", description="postgresql://… where the labels are not in the folder's own file"
    )
    project: str = Field(default="", description="project in it; empty takes the only one")
    objective: Literal["dpo", "ipo", "simpo", "orpo"] = Field(default="dpo", description="loss of the policy")
    train: Literal["policy", "reward", "both"] = Field(
        default="both",
        description="what is trained in a round, from the start model on all judgements so far",
    )
    reward_learning_rate: AutoRate = Field(
        default=AUTO, description="highest learning rate of reward models; auto as in stage reward"
    )
    every: int = Field(default=50, ge=1, description="new judgements that start a round")
    rounds: int = free(0, ge=0, description="rounds after which the loop ends; 0 goes on until it is stopped")
    idle_s: float = free(
        0.0, ge=0, description="the loop ends after so many seconds without a new judgement; 0 never"
    )
    poll_s: float = free(5.0, gt=0, description="seconds between looks at the labels")
    without: tuple[str, ...] = Field(default=(), description="annotators whose judgements are left out")
    min_agreement: float = Field(
        default=0.0, ge=0, le=1, description="least agreement of a judgement with others of the same item"
    )
    derive: bool = Field(
        default=False,
        description="permit preferences derived from rankings, scores or edits instead of pairs",
    )
    num_samples: int = Field(default=2, ge=2, le=5, description="fresh answers per prompt and round")
    prompts_per_round: int = Field(
        default=50, ge=1, description="prompts answered in a round, the next ones each time"
    )
    queue: int = Field(default=0, ge=0, description="items queued of those answered; 0 queues all")
    strategy: Literal["random", "uncertainty", "gap", "diversity"] = Field(
        default="random", description="which items are queued; a random share always stays as control"
    )
    versus_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of a round's prompts on which people compare the new policy with the one before, "
        "names hidden; the owner's page shows who won",
    )

    def rows_made(self, num_prompts: int) -> int:
        """Judgements of a round, at least."""
        return self.every

    @model_validator(mode="after")
    def _scores_for_the_strategy(self) -> LoopConfig:
        if self.strategy in ("uncertainty", "gap") and self.train == "policy":
            raise conflict("strategy", "needs a reward model; use train: reward or both")
        if self.temperature == 0:
            raise conflict("temperature", "0 makes all answers to a prompt alike")
        return self
