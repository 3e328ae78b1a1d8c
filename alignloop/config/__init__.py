"""Recipes: flat YAML with TRL's key names, one checked model per stage, every fault named at its line."""

from alignloop.config.ai import ConstitutionConfig, JudgeConfig, LoopConfig, MixConfig, RefusalsConfig
from alignloop.config.compare import AuditConfig, CompareConfig
from alignloop.config.fields import StageConfig
from alignloop.config.plan import RecipePlan, StagePlan, make_plan
from alignloop.config.recipe_file import LocatedValue, Recipe, parse_overrides, parse_recipe, read_recipe
from alignloop.config.registry import STAGES, StageSpec, find_stage, register_stage, stage_names
from alignloop.config.resolve import Resolved, flatten, may_change, path_values, resolve
from alignloop.config.reward_models import AverageRewardsConfig, RewardBenchConfig, RewardConfig
from alignloop.config.rl import GRPOConfig, OnlineConfig, PPOConfig
from alignloop.config.schema import all_schemas, markdown_table, stage_schema, starter_recipe
from alignloop.config.sections import (
    CompletionConfig,
    HeldOutConfig,
    ModelConfig,
    RowsConfig,
    SamplingConfig,
    TrainConfig,
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
)

__all__ = [
    "AverageRewardsConfig",
    "AuditConfig",
    "BestOfNConfig",
    "ConstitutionConfig",
    "CompareConfig",
    "CompletionConfig",
    "LocatedValue",
    "EvaluateConfig",
    "FeedbackConfig",
    "GRPOConfig",
    "HeldOutConfig",
    "InstructionsConfig",
    "InterpolateConfig",
    "JudgeConfig",
    "LoopConfig",
    "MixConfig",
    "ModelConfig",
    "OnlineConfig",
    "PPOConfig",
    "RecipePlan",
    "PreferenceConfig",
    "PretrainConfig",
    "Recipe",
    "Resolved",
    "RewardBenchConfig",
    "RefusalsConfig",
    "RewardConfig",
    "RowsConfig",
    "SFTConfig",
    "STAGES",
    "SampleConfig",
    "SamplingConfig",
    "StageConfig",
    "StagePlan",
    "StageSpec",
    "TrainConfig",
    "all_schemas",
    "find_stage",
    "flatten",
    "make_plan",
    "markdown_table",
    "parse_overrides",
    "parse_recipe",
    "may_change",
    "path_values",
    "read_recipe",
    "register_stage",
    "resolve",
    "stage_names",
    "stage_schema",
    "starter_recipe",
]
