"""AlignLoop: the whole loop of LLM post-training, exact and fast on one machine.

    import alignloop

    run = alignloop.train("dpo", dataset="pairs.jsonl", beta=0.05)
    run = alignloop.run("dpo.yaml", learning_rate=2e-6)
    run = alignloop.run(alignloop.DPOConfig(dataset=rows, beta=0.05))
    run.metrics, run.samples, run.generate("Hello"), run.report()
    alignloop.load("smollm2-135m-instruct").generate("Hello")

The names below are public: they change with a notice in CHANGELOG.md only. Each is imported when it is
used, so that `import alignloop` takes no time. The parts below them stand alone: `data`, `objectives`,
`model`, `training`, `rl`, `evaluation`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from alignloop.api import Model as Model
    from alignloop.api import PipelineResult as PipelineResult
    from alignloop.api import RunResult as RunResult
    from alignloop.api import Table as Table
    from alignloop.api import load as load
    from alignloop.api import open_run as open_run
    from alignloop.api import run as run
    from alignloop.api import train as train
    from alignloop.config.ai import ConstitutionConfig as ConstitutionConfig
    from alignloop.config.ai import JudgeConfig as JudgeConfig
    from alignloop.config.ai import LoopConfig as LoopConfig
    from alignloop.config.ai import MixConfig as MixConfig
    from alignloop.config.ai import RefusalsConfig as RefusalsConfig
    from alignloop.config.compare import AuditConfig as AuditConfig
    from alignloop.config.compare import CompareConfig as CompareConfig
    from alignloop.config.methods import CISPOConfig as CISPOConfig
    from alignloop.config.methods import DAPOConfig as DAPOConfig
    from alignloop.config.methods import DPOConfig as DPOConfig
    from alignloop.config.methods import DrGRPOConfig as DrGRPOConfig
    from alignloop.config.methods import GRPOConfig as GRPOConfig
    from alignloop.config.methods import GSPOConfig as GSPOConfig
    from alignloop.config.methods import IPOConfig as IPOConfig
    from alignloop.config.methods import KTOConfig as KTOConfig
    from alignloop.config.methods import ListwiseConfig as ListwiseConfig
    from alignloop.config.methods import ORPOConfig as ORPOConfig
    from alignloop.config.methods import PPOConfig as PPOConfig
    from alignloop.config.methods import ReinforcePPConfig as ReinforcePPConfig
    from alignloop.config.methods import RLOOConfig as RLOOConfig
    from alignloop.config.methods import SimPOConfig as SimPOConfig
    from alignloop.config.reward_models import AverageRewardsConfig as AverageRewardsConfig
    from alignloop.config.reward_models import RewardBenchConfig as RewardBenchConfig
    from alignloop.config.reward_models import RewardConfig as RewardConfig
    from alignloop.config.rl import IterateConfig as IterateConfig
    from alignloop.config.stages import BestOfNConfig as BestOfNConfig
    from alignloop.config.stages import EvaluateConfig as EvaluateConfig
    from alignloop.config.stages import FeedbackConfig as FeedbackConfig
    from alignloop.config.stages import InstructionsConfig as InstructionsConfig
    from alignloop.config.stages import InterpolateConfig as InterpolateConfig
    from alignloop.config.stages import PreferenceConfig as PreferenceConfig
    from alignloop.config.stages import PretrainConfig as PretrainConfig
    from alignloop.config.stages import SampleConfig as SampleConfig
    from alignloop.config.stages import SFTConfig as SFTConfig
    from alignloop.data.columns import Dataset as Dataset
    from alignloop.data.columns import read_records as read_records
    from alignloop.data.columns import write_records as write_records
    from alignloop.errors import AlignLoopError as AlignLoopError
    from alignloop.errors import ConfigError as ConfigError
    from alignloop.errors import DataError as DataError
    from alignloop.errors import DiskError as DiskError
    from alignloop.errors import EngineError as EngineError
    from alignloop.errors import ModelError as ModelError
    from alignloop.errors import NonFiniteError as NonFiniteError
    from alignloop.errors import RunError as RunError
    from alignloop.errors import UserError as UserError
    from alignloop.objectives.bradley_terry import BradleyTerry as BradleyTerry
    from alignloop.objectives.dpo import DPO as DPO
    from alignloop.objectives.grpo import GRPO as GRPO
    from alignloop.objectives.ipo import IPO as IPO
    from alignloop.objectives.kto import KTO as KTO
    from alignloop.objectives.listwise import Listwise as Listwise
    from alignloop.objectives.odin import Odin as Odin
    from alignloop.objectives.orpo import ORPO as ORPO
    from alignloop.objectives.plackett_luce import PlackettLuce as PlackettLuce
    from alignloop.objectives.ppo import PPO as PPO
    from alignloop.objectives.regression import Regression as Regression
    from alignloop.objectives.sft import SFT as SFT
    from alignloop.objectives.simpo import SimPO as SimPO
    from alignloop.records import Demonstration as Demonstration
    from alignloop.records import Document as Document
    from alignloop.records import Label as Label
    from alignloop.records import Message as Message
    from alignloop.records import Preference as Preference
    from alignloop.records import Prompt as Prompt
    from alignloop.records import Provenance as Provenance
    from alignloop.records import Ranking as Ranking
    from alignloop.records import Rating as Rating
    from alignloop.records import ToolCall as ToolCall
    from alignloop.rl.rewards import Sample as Sample
    from alignloop.runs.lineage import lineage as lineage

_NAMES = {
    "alignloop.api": "load Model open_run PipelineResult run RunResult Table train",
    "alignloop.config.ai": "ConstitutionConfig JudgeConfig LoopConfig MixConfig RefusalsConfig",
    "alignloop.config.compare": "AuditConfig CompareConfig",
    "alignloop.config.methods": (
        "CISPOConfig DAPOConfig DPOConfig DrGRPOConfig GRPOConfig GSPOConfig IPOConfig "
        "KTOConfig ListwiseConfig ORPOConfig PPOConfig ReinforcePPConfig RLOOConfig "
        "SimPOConfig"
    ),
    "alignloop.config.reward_models": "AverageRewardsConfig RewardBenchConfig RewardConfig",
    "alignloop.config.rl": "IterateConfig",
    "alignloop.config.stages": (
        "BestOfNConfig EvaluateConfig FeedbackConfig InstructionsConfig InterpolateConfig "
        "PreferenceConfig PretrainConfig SampleConfig SFTConfig"
    ),
    "alignloop.data.columns": "Dataset read_records write_records",
    "alignloop.errors": (
        "AlignLoopError ConfigError DataError DiskError EngineError ModelError "
        "NonFiniteError RunError UserError"
    ),
    "alignloop.objectives.bradley_terry": "BradleyTerry",
    "alignloop.objectives.dpo": "DPO",
    "alignloop.objectives.grpo": "GRPO",
    "alignloop.objectives.ipo": "IPO",
    "alignloop.objectives.kto": "KTO",
    "alignloop.objectives.listwise": "Listwise",
    "alignloop.objectives.odin": "Odin",
    "alignloop.objectives.orpo": "ORPO",
    "alignloop.objectives.plackett_luce": "PlackettLuce",
    "alignloop.objectives.ppo": "PPO",
    "alignloop.objectives.regression": "Regression",
    "alignloop.objectives.sft": "SFT",
    "alignloop.objectives.simpo": "SimPO",
    "alignloop.records": (
        "Demonstration Document Label Message Preference Prompt Provenance Ranking Rating ToolCall"
    ),
    "alignloop.rl.rewards": "Sample",
    "alignloop.runs.lineage": "lineage",
}
"""Public names by the module that has them."""
_PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        import difflib

        near = difflib.get_close_matches(name, _PLACES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise AttributeError(f"module 'alignloop' has no attribute '{name}'{hint}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
