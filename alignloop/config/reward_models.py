"""Keys of rewards, and of the stages that make reward models and examine them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config.aliases import PenaltyName, VerifierName
from alignloop.config.fields import Path, Section, StageConfig, conflict, defaulting
from alignloop.config.registry import TRAINS_ON_ROWS, register_stage
from alignloop.config.sections import DATASET, Dataset, HeldOutConfig, RowsConfig
from alignloop.user_functions import REFERENCE


class RewardTerm(TypedDict, total=False):
    """One part of the reward: exactly one of verifier, model, function, penalty and judge, with its weight.

    `endpoint`, `rubric`, … belong to `judge`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    verifier: VerifierName
    model: Path
    function: Annotated[str, Field(pattern=REFERENCE)]
    penalty: PenaltyName
    judge: Path
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    concurrency: Annotated[int, Field(ge=1, le=256)]
    rubric: Path
    certificate: Path
    weight: float
    timeout_s: Annotated[float, Field(gt=0)]


REWARD_SOURCES = ("verifier", "model", "function", "penalty", "judge")
JUDGE_KEYS = ("endpoint", "api_key_env", "concurrency", "rubric", "certificate")


if TYPE_CHECKING:  # Python calls take functions too: see `config.given`
    Rewards = Any
else:
    Rewards = tuple[RewardTerm, ...]


class RewardsConfig(Section):
    """What a completion is worth."""

    rewards: Rewards = Field(
        min_length=1,
        description="parts that are added: {verifier | model | function | penalty | judge: …, weight: 1, "
        "timeout_s: 60}; a function is module:name or file.py:name; several models make an ensemble; a judge "
        "has a `certificate` (run of stage judge, or none) and may have a `rubric` and an `endpoint`",
        json_schema_extra={"format": "path"},
    )
    ensemble: Literal["auto", "mean", "min", "uwo"] = Field(
        default="auto",
        description="how reward models agree: mean, worst case, or mean − coefficient · variance; auto takes "
        "what an ensemble's own run says, and the mean of several runs",
    )
    uwo_coefficient: float = Field(default=0.5, ge=0, description="weight of the variance in uwo")
    missing_eos: Literal["keep", "replace", "penalise"] = Field(
        default="keep",
        description="reward of a completion cut at max_new_tokens: its own, a fixed one, or minus one",
    )
    missing_eos_value: float = Field(default=-1.0, description="the fixed reward, or what is subtracted")
    reward_clip: float = Field(
        default=0.0, ge=0, description="rewards are clipped to ± this; 0 does not clip"
    )
    normalize_reward: bool = Field(
        default=False, description="running mean 0 and standard deviation 1 over the run"
    )
    overlong_buffer: int = Field(
        default=32,
        ge=1,
        description="tokens before max_new_tokens over which the penalty `overlong` grows to 1",
    )

    @model_validator(mode="after")
    def _one_source_each(self) -> RewardsConfig:
        for term in self.rewards:
            if sum(source in term for source in REWARD_SOURCES) != 1:
                raise conflict("rewards", f"each part has exactly one of {', '.join(REWARD_SOURCES)}")
            if "judge" not in term and any(key in term for key in JUDGE_KEYS):
                raise conflict("rewards", f"{', '.join(JUDGE_KEYS)} belong to a judge")
            if "judge" in term and "certificate" not in term:
                raise conflict(
                    "rewards",
                    "a judge needs `certificate:`, the run of a stage judge that examined it; "
                    "`certificate: none` uses it unexamined",
                )
        return self


@register_stage("reward", TRAINS_ON_ROWS, reads="scores", makes="reward model", group="Reward models")
class RewardConfig(HeldOutConfig):
    """Reward model: the language model with a scalar head in place of its output layer."""

    rates: ClassVar[str] = "reward"

    objective: str = Field(default="bradley_terry", description="loss, by file name in objectives/")
    freeze_base: bool = Field(default=False, description="train the head only")
    normalize: bool = Field(
        default=True,
        description="afterwards rescale so that rewards on the training rows have mean 0 and std 1",
    )
    head_seed: int = Field(
        default=-1,
        ge=-1,
        description="seed of the scalar head, −1 takes the run's; runs to be averaged must share one",
    )
    num_members: int = Field(
        default=1,
        ge=1,
        le=16,
        description="reward models in the ensemble: LoRA adapters with heads of their own on one base, "
        "each with its own seed and order of the rows",
    )
    combine: Literal["mean", "min", "uwo"] = Field(
        default="mean",
        description="one reward from the members: mean, worst case, or mean − uwo_coefficient · variance",
    )
    uwo_coefficient: float = Field(default=0.5, ge=0, description="weight of the members' variance in uwo")

    @model_validator(mode="after")
    def _adapters_or_frozen(self) -> RewardConfig:
        if self.freeze_base and self.lora_r:
            raise conflict("freeze_base", "lora_r is set too; adapters train the base")
        if self.num_members > 1 and not self.lora_r:
            raise conflict("num_members", "members are LoRA adapters on one base; set lora_r")
        if self.num_members == 1 and self.combine != "mean":
            raise conflict("combine", "has no effect on one reward model; set num_members")
        if (
            self.combine != "uwo"
            and self.uwo_coefficient != type(self).model_fields["uwo_coefficient"].default
        ):
            raise conflict("uwo_coefficient", "is read by combine: uwo only")
        return self

    @property
    def trains_base(self) -> bool:
        """See `TrainConfig`."""
        return not self.lora_r and not self.freeze_base

    @property
    def seed_of_head(self) -> int:
        """What the scalar head is drawn from."""
        return self.seed if self.head_seed < 0 else self.head_seed


@register_stage("average_rewards", makes="reward model", group="Reward models")
class AverageRewardsConfig(StageConfig):
    """One reward model from the mean of several ones' weights (WARM)."""

    models: tuple[Path, ...] = Field(
        min_length=1,
        description="reward runs from one start with one head_seed; each member of an ensemble counts",
        json_schema_extra={"format": "path"},
    )
    dataset: Dataset | None = Field(
        default=None,
        description=f"judged rows on which the average is measured and its rewards rescaled: {DATASET}",
    )
    columns: dict[str, str] = defaulting(RowsConfig, "columns", {})
    token_budget: int = Field(
        default=4096, ge=64, description="tokens per packed forward pass; bounds memory"
    )


@register_stage("reward_bench", makes="comparison", group="Reward models")
class RewardBenchConfig(StageConfig, RowsConfig):
    """How good a reward model is on judged rows, and what it falls for."""

    reward_model: Path = Field(description="reward run or folder to examine")
    before: Path | None = Field(
        default=None, description="another reward model to compare with, null for none"
    )
    subset: str = Field(
        default="subset",
        description="a row's detail (subset, source, model, …) that names its part of the data",
    )
    probes: tuple[Literal["longer", "bullets", "bold", "flattery"], ...] = Field(
        default=("longer", "bullets", "bold", "flattery"),
        description="changes of form that leave the content as it is; their effect on the reward is measured",
    )
    max_rows: int = Field(default=0, ge=0, description="rows to use; 0 uses all")
    max_length: int = Field(
        default=1024, ge=8, description="longest prompt + completion, in tokens; longer are dropped"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    bootstrap: int = Field(default=2000, ge=1000, description="resamples of the prompts for each interval")
    token_budget: int = Field(
        default=8192, ge=64, description="tokens per packed forward pass; bounds memory"
    )
