"""Stages by name. An offline preference objective is a stage under its own file name, found at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from alignloop.config.ai import ConstitutionConfig, JudgeConfig, LoopConfig, MixConfig, RefusalsConfig
from alignloop.config.compare import AuditConfig, CompareConfig
from alignloop.config.pairs import SplitConfig, VerdictConfig
from alignloop.config.reward_models import AverageRewardsConfig, RewardBenchConfig, RewardConfig
from alignloop.config.rl import (
    DAPOConfig,
    DrGRPOConfig,
    GRPOConfig,
    IterateConfig,
    PPOConfig,
    ReinforceConfig,
    RLOOConfig,
)
from alignloop.config.stages import (
    BestOfNConfig,
    EvaluateConfig,
    FeedbackConfig,
    InstructionsConfig,
    InterpolateConfig,
    PreferenceConfig,
    PretrainConfig,
    SampleConfig,
    SFTConfig,
    StageConfig,
)
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What the recipe reader and the pipeline need to know of a stage.

    Attributes:
        config: model of its keys.
        runner: `module:function`, called as `(config, run)` or, with an objective,
            `(config, run, objective)`; returns the results for run.json.
        objective: file name in objectives/ whose fields are keys of the stage too, "" for none. A config
            with a key `objective` leaves the choice to the recipe.
        reads: what an objective chosen by the recipe has to read, "" for anything.
        preview: `module:function`, called as `(config, objective)` for --dry-run; returns rows of a
            table (data summary, parameters, memory), a mapping of text to text.
        lint: `module:function`, called as `(config, objective, read=bool)`; returns sentences, one per
            finding. Without `read` it looks at the settings alone: the data are not there yet.
        preset: member of the objective's family (`PRESETS` in its file) that gives its fields' defaults.
        checkpoints: whether a run has checkpoints of its own, which `--resume PATH` can name.
        shared: whether the processes that torchrun starts share the work; else the first one does it.
    """

    config: type[StageConfig]
    runner: str
    objective: str = ""
    reads: str = ""
    preview: str = ""
    lint: str = ""
    preset: str = ""
    checkpoints: bool = True
    shared: bool = False


_PREVIEW = "alignloop.stages.preview:preview"
_ROLLOUTS = "alignloop.stages.preview_online:preview"
_LINT = "alignloop.stages.recipe_check:lint_recipe"

STAGES: Mapping[str, StageSpec] = {
    "instructions": StageSpec(
        InstructionsConfig, "alignloop.stages.instructions:instructions", checkpoints=False
    ),
    "pretrain": StageSpec(
        PretrainConfig, "alignloop.stages.sft:pretrain", preview=_PREVIEW, lint=_LINT, shared=True
    ),
    "sft": StageSpec(SFTConfig, "alignloop.stages.sft:sft", preview=_PREVIEW, lint=_LINT, shared=True),
    "sample": StageSpec(SampleConfig, "alignloop.stages.sample:sample", checkpoints=False),
    "feedback": StageSpec(FeedbackConfig, "alignloop.stages.feedback:feedback", checkpoints=False),
    "reward": StageSpec(
        RewardConfig,
        "alignloop.stages.reward:reward",
        reads="scores",
        preview=_PREVIEW,
        lint=_LINT,
        shared=True,
    ),
    "average_rewards": StageSpec(AverageRewardsConfig, "alignloop.stages.average_rewards:average_rewards"),
    "reward_bench": StageSpec(RewardBenchConfig, "alignloop.stages.reward_bench:reward_bench"),
    "best_of_n": StageSpec(
        BestOfNConfig, "alignloop.stages.best_of_n:best_of_n", preview=_ROLLOUTS, lint=_LINT, shared=True
    ),
    "iterate": StageSpec(
        IterateConfig,
        "alignloop.stages.iterate:iterate",
        preview=_ROLLOUTS,
        lint=_LINT,
        checkpoints=False,
        shared=True,
    ),
    "ppo": StageSpec(
        PPOConfig, "alignloop.stages.ppo:ppo", "ppo", preview=_ROLLOUTS, lint=_LINT, shared=True
    ),
    **{
        name: StageSpec(
            config,
            "alignloop.stages.grpo:grpo",
            "grpo",
            preset=name,
            preview=_ROLLOUTS,
            lint=_LINT,
            shared=True,
        )
        for name, config in {
            "grpo": GRPOConfig,
            "dr_grpo": DrGRPOConfig,
            "dapo": DAPOConfig,
            "gspo": GRPOConfig,
            "cispo": GRPOConfig,
            "rloo": RLOOConfig,
            "reinforce_pp": ReinforceConfig,
        }.items()
    },
    "judge": StageSpec(JudgeConfig, "alignloop.stages.judge:judge", checkpoints=False),
    "constitution": StageSpec(
        ConstitutionConfig, "alignloop.stages.constitution:constitution", checkpoints=False
    ),
    "loop": StageSpec(LoopConfig, "alignloop.stages.live_loop:loop", checkpoints=False),
    "mix": StageSpec(MixConfig, "alignloop.stages.mix:mix", checkpoints=False),
    "refusals": StageSpec(RefusalsConfig, "alignloop.stages.refusals:refusals", checkpoints=False),
    "interpolate": StageSpec(
        InterpolateConfig, "alignloop.stages.interpolate:interpolate", checkpoints=False
    ),
    "evaluate": StageSpec(EvaluateConfig, "alignloop.stages.evaluate:evaluate", checkpoints=False),
    "compare": StageSpec(CompareConfig, "alignloop.stages.compare:compare", checkpoints=False),
    "split": StageSpec(SplitConfig, "alignloop.stages.split:split", checkpoints=False),
    "verdict": StageSpec(VerdictConfig, "alignloop.stages.verdict:verdict", checkpoints=False),
    "audit": StageSpec(AuditConfig, "alignloop.stages.audit:audit", checkpoints=False),
}
"""Stages with a configuration of their own. A new one is one entry here."""

PREFERENCE = StageSpec(
    PreferenceConfig, "alignloop.stages.preference:preference", preview=_PREVIEW, lint=_LINT, shared=True
)
"""The stage of every offline preference objective; `objective` is filled in by `find_stage`."""

_COMPARISONS = frozenset({"preference", "label", "ranking"})


def is_preference_objective(name: str) -> bool:
    """Whether `objectives/<name>.py` trains a policy on comparisons, without sampling."""
    objective = objectives.load(name)()
    return "logprobs" in objective.needs and bool(_COMPARISONS & set(objective.records))


def find_stage(name: str, stages: Mapping[str, StageSpec] = STAGES) -> StageSpec:
    """The stage of that name: an entry of `stages`, or a preference objective's.

    Args:
        name: as in `stage: NAME`.
        stages: table of stages to look in.

    Returns:
        What is known of the stage, its objective filled in.

    Raises:
        ConfigError: no such stage; the sentence suggests one.
    """
    if name in stages:
        return stages[name]
    if name in objectives.names():
        if is_preference_objective(name):
            return replace(PREFERENCE, objective=name)
        if "scores" in objectives.load(name)().needs:
            raise ConfigError(
                f"'{name}' is a loss of stage 'reward': use stage reward with objective: {name}"
            )
    known = [*stages, *(n for n in objectives.names() if n not in stages)]
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(stage_names(stages))}"
    raise ConfigError(f"unknown stage '{name}'; {hint}")


def stage_names(stages: Mapping[str, StageSpec] = STAGES) -> list[str]:
    """All stages: those of the table, then the preference objectives."""
    return [*stages, *(n for n in objectives.names() if n not in stages and is_preference_objective(n))]
