"""Keys of the stages that begin and end `my-pairs`: rows divided by prompt, a verdict on what was learned."""

from __future__ import annotations

from pydantic import Field

from alignloop.config.section import ModelPath, Path
from alignloop.config.stages import RowsConfig, StageConfig


class SplitConfig(StageConfig, RowsConfig):
    """Judged pairs divided by prompt, once for every stage that trains on them or measures on them."""

    held_out_fraction: float = Field(
        default=0.2, gt=0, le=0.5, description="share of the prompts that no stage trains on"
    )
    max_held_out: int = Field(default=500, ge=1, description="prompts held out, at most")


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
