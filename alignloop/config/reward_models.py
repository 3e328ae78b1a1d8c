"""Keys of the stages that make reward models and examine them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignloop.config.fields import conflict
from alignloop.config.section import Path
from alignloop.config.stages import DATASET, Dataset, RowsConfig, StageConfig, TrainConfig


class RewardConfig(TrainConfig):
    """Reward model: the language model with a scalar head in place of its output layer."""

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
    def seed_of_head(self) -> int:
        """What the scalar head is drawn from."""
        return self.seed if self.head_seed < 0 else self.head_seed


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
    columns: dict[str, str] = Field(
        default={}, description="column names where they are not recognised, as field: column"
    )
    token_budget: int = Field(
        default=4096, ge=64, description="tokens per packed forward pass; bounds memory"
    )


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
