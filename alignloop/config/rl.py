"""Keys of the stages that learn from their own samples: PPO, the GRPO family, iterated preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from alignloop.config.fields import (
    AUTO,
    AutoRate,
    AutoSize,
    C,
    RefusedKey,
    Section,
    conflict,
    defaulting,
    fixed,
    free,
    path_or,
)
from alignloop.config.registry import SAMPLES_ITS_ROWS, register_stage
from alignloop.config.reward_models import RewardsConfig
from alignloop.config.sections import (
    DATASET,
    ROLLOUT_SAVE_S,
    CompletionConfig,
    Dataset,
    SamplingConfig,
    TrainConfig,
    holds_nothing_out,
)

Advantage = Literal["group_std", "group_mean", "group_mean_batch_std", "leave_one_out", "batch", "token"]
_WHOLE = (
    "RL learns from the log-probs of the whole distribution, which this cuts or bends, so the ratios would "
    "be biased; leave it at its default (AL204)"
)
GoldPath = Annotated[str, path_or("none", "constraints", "math", "regex", "json_schema", "exact")]


class GuardConfig(Section):
    """What is watched against reward hacking, and what happens then."""

    gold: GoldPath = Field(
        default="none",
        description="verifier or held-out reward model that is followed but never trained on, or none",
    )
    on_alarm: Literal["warn", "stop", "rollback"] = Field(
        default="warn", description="warn and go on, stop here, or stop with the best weights"
    )
    keep_best: Literal["none", "gold", "reward"] = Field(
        default="none", description="the final model is the one with the best running mean of this"
    )
    guard_window: int = Field(default=5, ge=1, description="rollouts of a running mean")
    kl_budget: float = Field(
        default=0.0, ge=0, description="alarm above this KL per completion in nats; 0 is off"
    )
    gold_drop: float = Field(
        default=0.05, ge=0, description="alarm if gold falls this far below its best, reward rising"
    )
    length_factor: float = Field(
        default=2.0, gt=1, description="alarm above this multiple of the first length"
    )
    entropy_factor: float = Field(
        default=0.2, gt=0, lt=1, description="alarm below this share of the first entropy"
    )
    spread_factor: float = Field(
        default=2.0, gt=1, description="alarm above this multiple of the ensemble's first spread"
    )


class OnlineConfig(TrainConfig, CompletionConfig, RewardsConfig, GuardConfig):
    """Rollouts: prompts are answered by the policy itself, scored and learned from."""

    refused: ClassVar[Mapping[str, RefusedKey]] = {
        **holds_nothing_out("online stages have no held-out loss; add a stage evaluate"),
        **{key: RefusedKey(value, _WHOLE) for key, value in SamplingConfig().bends.items()},
    }

    missing_eos: Literal["keep", "replace", "penalise", "mask"] = Field(
        default="keep",
        description="reward of a completion cut at max_new_tokens: its own, a fixed one, or minus one; mask "
        "keeps it as a baseline and trains on none of its tokens",
    )
    num_generations: int = Field(default=8, ge=1, description="completions per prompt")
    rollout_prompts: int = Field(
        default=8, ge=1, description="prompts per rollout; a multiple of batch size × accumulation steps"
    )
    num_iterations: int = Field(default=1, ge=1, description="passes over each rollout")
    target_kl: float = Field(
        default=0.0, ge=0, description="a rollout is left early above this approx_kl per token; 0 never"
    )
    max_prompts: int = Field(default=0, ge=0, description="prompts to use; 0 uses all")
    track_kl: bool = Field(default=True, description="follow the KL to the start even where no loss needs it")
    recompute_logprobs: Literal["auto"] | bool = Field(
        default="auto",
        description="take old log-probs from the trainer and weight with their truncated ratio to the "
        "sampler's; auto does so in bfloat16, where the two differ",
    )
    kl_coef: float = Field(default=0.0, ge=0, description="weight of the KL (k1) in the reward, at the start")
    kl_controller: Literal["fixed", "adaptive"] = Field(
        default="fixed", description="whether kl_coef follows the KL"
    )
    kl_target: float = Field(
        default=6.0, gt=0, description="KL per completion in nats the adaptive one aims at"
    )
    kl_horizon: int = Field(
        default=10_000, ge=1, description="completions over which it changes by about 20 %"
    )
    per_device_train_batch_size: AutoSize = Field(
        default=8, description="prompts with all their completions per accumulation unit"
    )
    learning_rate: AutoRate = Field(default=1e-6, description="highest learning rate")
    warmup_ratio: float = defaulting(TrainConfig, "warmup_ratio", 0.0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = defaulting(
        TrainConfig, "lr_scheduler_type", "constant"
    )
    reference_refresh: int = Field(
        default=0,
        ge=0,
        description="rollouts after which the policy becomes the reference, again and again; 0 never",
    )
    rollout_save_s: float = free(600.0, ge=0, description=ROLLOUT_SAVE_S)
    log_samples: int = free(2, ge=0, description="completions per rollout written to samples.jsonl")

    @model_validator(mode="after")
    def _samples_what_is_assumed(self) -> OnlineConfig:
        for key in ("learning_rate", "per_device_train_batch_size"):
            if getattr(self, key) == AUTO:
                raise conflict(key, "auto is for stages that train on stored rows; give a number here")
        if self.temperature == 0:
            raise conflict("temperature", "0 explores nothing; RL needs a temperature above 0")
        if self.lora_dropout:
            raise conflict("lora_dropout", "must be 0 in RL, or the policy trained is not the one sampled")
        if self.rollout_prompts % self.prompts_per_step:
            raise conflict(
                "rollout_prompts",
                f"must be a multiple of per_device_train_batch_size × gradient_accumulation_steps, "
                f"which is {self.prompts_per_step}",
            )
        if self.target_kl > 1:
            raise conflict(
                "target_kl",
                f"{self.target_kl:g} nats per token are never reached: this key leaves a rollout early "
                "(usual are 0.01 to 0.1); the KL per completion that adaptive kl_coef aims at is kl_target",
            )
        if self.keep_best == "gold" and self.gold == "none":
            raise conflict("keep_best", "gold is none; name a verifier or a held-out reward model")
        if self.on_alarm == "rollback" and self.keep_best == "none":
            raise conflict("on_alarm", "rollback needs keep_best: gold or reward")
        return self

    @property
    def prompts_per_step(self) -> int:
        """Prompts of an optimizer step."""
        return fixed(self.per_device_train_batch_size) * self.gradient_accumulation_steps

    def corrects_sampler(self, *, bfloat16: bool) -> bool:
        """Whether old log-probs are the trainer's; `bfloat16` are its matrix products."""
        return bfloat16 if self.recompute_logprobs == "auto" else self.recompute_logprobs


def _grpo(name: str, method: str) -> Callable[[type[C]], type[C]]:
    """Declare a member of the GRPO family."""
    runner = "alignloop.stages.grpo:grpo"
    return register_stage(name, SAMPLES_ITS_ROWS, runner=runner, objective="grpo", preset=name, method=method)


@_grpo("cispo", "CISPO")
@_grpo("gspo", "GSPO")
@_grpo("grpo", "GRPO")
class GRPOConfig(OnlineConfig):
    """Group-relative policy optimization: no critic, completions of a prompt are each other's baseline."""

    advantage: Advantage = Field(
        default="group_std",
        description="baseline and scale of advantages; group_mean_batch_std divides by the whole rollout's "
        "standard deviation, token is REINFORCE++'s, with the KL paid token by token",
    )
    dynamic_sampling: bool = Field(
        default=False,
        description="replace groups whose completions are all worth the same, penalties left aside, by "
        "further prompts",
    )
    max_sampling_rounds: int = Field(default=3, ge=1, description="rounds of dynamic sampling, at most")
    normalize_each_reward: bool = Field(
        default=False,
        description="standardise every part of the reward in its group before they are added, and the sum "
        "over the rollout (GDPO), so that no part drowns another one",
    )

    @model_validator(mode="after")
    def _groups(self) -> GRPOConfig:
        if self.num_generations < 2 and self.advantage not in ("batch", "token"):
            raise conflict(
                "num_generations",
                "a group of one completion has no baseline; sample at least 2 per prompt (AL210)",
            )
        if self.normalize_each_reward:
            if self.advantage != "group_std":
                raise conflict(
                    "normalize_each_reward", "has a scale of its own; leave advantage at group_std"
                )
            for key in ("kl_coef", "reward_clip", "normalize_reward"):
                if getattr(self, key):
                    raise conflict(
                        "normalize_each_reward", f"parts are not added before, so {key} has no place"
                    )
            if self.missing_eos in ("replace", "penalise"):
                raise conflict(
                    "normalize_each_reward",
                    f"missing_eos: {self.missing_eos} changes the sum; use keep or mask",
                )
        return self


@_grpo("dr_grpo", "DrGRPO")
class DrGRPOConfig(GRPOConfig):
    """Dr. GRPO: no division by the group's standard deviation nor by the length."""

    advantage: Advantage = defaulting(GRPOConfig, "advantage", "group_mean")


@_grpo("dapo", "DAPO")
class DAPOConfig(GRPOConfig):
    """DAPO: dynamic sampling, asymmetric clipping, token mean; add `penalty: overlong` to the rewards."""

    dynamic_sampling: bool = defaulting(GRPOConfig, "dynamic_sampling", True)


@_grpo("rloo", "RLOO")
class RLOOConfig(GRPOConfig):
    """RLOO: REINFORCE with the other completions' mean as baseline."""

    advantage: Advantage = defaulting(GRPOConfig, "advantage", "leave_one_out")
    kl_coef: float = defaulting(OnlineConfig, "kl_coef", 0.05)


@_grpo("reinforce_pp", "ReinforcePP")
class ReinforceConfig(GRPOConfig):
    """REINFORCE++: rewards to come of every token, its KL among them, whitened over the whole rollout."""

    advantage: Advantage = defaulting(GRPOConfig, "advantage", "token")
    kl_coef: float = defaulting(OnlineConfig, "kl_coef", 0.01)


@register_stage("ppo", SAMPLES_ITS_ROWS, objective="ppo", method="PPO")
class PPOConfig(OnlineConfig):
    """PPO with a critic."""

    num_generations: int = defaulting(OnlineConfig, "num_generations", 1)
    rollout_prompts: int = defaulting(OnlineConfig, "rollout_prompts", 32)
    num_iterations: int = defaulting(OnlineConfig, "num_iterations", 4)
    kl_coef: float = defaulting(OnlineConfig, "kl_coef", 0.05)
    kl_controller: Literal["fixed", "adaptive"] = defaulting(OnlineConfig, "kl_controller", "adaptive")
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(default=0.95, ge=0, le=1, description="λ of generalised advantage estimation")
    whiten_advantages: bool = Field(default=True, description="mean 0 and variance 1 over the rollout")
    prompt_baseline: bool = Field(
        default=False,
        description="subtract the mean reward of the prompt's other completions (per-prompt reward shift)",
    )
    critic_init: Literal["reward", "policy"] = Field(
        default="policy",
        description="the critic starts from the first reward model, or from the policy with a new head",
    )
    critic_learning_rate: float = Field(default=9e-6, gt=0, description="highest learning rate of the critic")
    critic_warmup: int = Field(
        default=0, ge=0, description="rollouts at the start that train the critic only"
    )
    ptx_dataset: Dataset | None = Field(
        default=None, description=f"demonstrations mixed in against forgetting: {DATASET}"
    )
    ptx_coefficient: float = Field(default=0.0, ge=0, description="weight of their NLL per token; 0 is off")
    adam_epsilon: float = defaulting(TrainConfig, "adam_epsilon", 1e-5)

    @model_validator(mode="after")
    def _roles(self) -> PPOConfig:
        if self.critic_init == "reward" and not any("model" in term for term in self.rewards):
            raise conflict("critic_init", "rewards names no model; use policy")
        if self.prompt_baseline and self.num_generations < 2:
            raise conflict("prompt_baseline", "needs num_generations of at least 2")
        if (self.ptx_dataset is None) != (self.ptx_coefficient == 0):
            raise conflict("ptx_coefficient", "ptx_dataset and ptx_coefficient are set together")
        if self.gradient_checkpointing and self.lora_r:
            raise conflict("gradient_checkpointing", "adapters change roles between forward and backward")
        return self


@register_stage("iterate", SAMPLES_ITS_ROWS, checkpoints=False, group="Train on comparisons")
class IterateConfig(TrainConfig, SamplingConfig, RewardsConfig):
    """Iterated preference learning: sample, score, compare, train, in rounds."""

    rates: ClassVar[str] = "preference"
    kinds: ClassVar[tuple[str, ...] | None] = None
    refused: ClassVar[Mapping[str, RefusedKey]] = holds_nothing_out(
        "rounds train on fresh samples; add a stage evaluate"
    )

    objective: Literal["dpo", "ipo", "kto"] = Field(default="dpo", description="loss of a round")
    rounds: int = free(3, ge=1, description="rounds of fresh samples")
    num_generations: int = Field(default=4, ge=2, description="answers per prompt and round")
    pairs_per_prompt: int = Field(
        default=1, ge=1, description="best against worst, second best against second worst, …"
    )
    reference: Literal["start", "previous"] = Field(
        default="previous",
        description="reference of a round: the first model or the last round's",
    )
    max_prompts: int = Field(default=0, ge=0, description="prompts of a round; 0 uses all in every round")
    rollout_save_s: float = free(600.0, ge=0, description=ROLLOUT_SAVE_S)

    @property
    def adds_embeddings(self) -> bool:
        """See `TrainConfig`."""
        return False

    def rows_made(self, num_prompts: int) -> int:
        """The pairs of each prompt."""
        return self.pairs_per_prompt * min(num_prompts, self.max_prompts or num_prompts)

    @model_validator(mode="after")
    def _distinct_pairs(self) -> IterateConfig:
        if 2 * self.pairs_per_prompt > self.num_generations:
            raise conflict("pairs_per_prompt", f"needs two of the {self.num_generations} answers each")
        if self.temperature == 0:
            raise conflict("temperature", "0 makes all answers to a prompt alike")
        return self
