# Written by `python scripts/stubs.py` from the stages and their objectives.

from typing import Any, ClassVar, Literal

from alignloop.config.rl import DAPOConfig as _DAPOConfig
from alignloop.config.rl import DrGRPOConfig as _DrGRPOConfig
from alignloop.config.rl import GRPOConfig as _GRPOConfig
from alignloop.config.rl import PPOConfig as _PPOConfig
from alignloop.config.rl import ReinforceConfig as _ReinforceConfig
from alignloop.config.rl import RLOOConfig as _RLOOConfig
from alignloop.config.stages import PreferenceConfig as _PreferenceConfig
from alignloop.config.resolve import Resolved
from alignloop.config.stages import StageConfig

class MethodConfig(StageConfig):
    stage_name: ClassVar[str]
    def resolved(self) -> Resolved: ...

def class_names() -> dict[str, str]: ...
def method_config(stage: str) -> type[Any]: ...

class CISPOConfig(_GRPOConfig, MethodConfig):
    """Group-relative policy optimization: no critic, completions of a prompt are each other's baseline.

    With the keys of objective `cispo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'token_mean'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'cispo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 1.0
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 4.0
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class DAPOConfig(_DAPOConfig, MethodConfig):
    """DAPO: dynamic sampling, asymmetric clipping, token mean; add `penalty: overlong` to the rewards.

    With the keys of objective `dapo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'token_mean'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.2
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.28
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class DPOConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `dpo`.
    """

    beta: float = 0.1
    """strength of the pull towards the reference"""
    loss: Literal['sigmoid', 'hinge', 'robust'] = 'sigmoid'
    """sigmoid (DPO), hinge (SLiC's max(0, 1 − βΔ)), robust (unbiased for flipped labels)"""
    label_smoothing: float = 0.0
    """ε, the share of labels believed flipped (cDPO, robust)"""
    rpo_alpha: float = 0.0
    """weight of the chosen completion's NLL per token (RPO)"""
    length_alpha: float = 0.0
    """nats per token of extra length of chosen added to βΔ (R-DPO)"""

class DrGRPOConfig(_DrGRPOConfig, MethodConfig):
    """Dr. GRPO: no division by the group's standard deviation nor by the length.

    With the keys of objective `dr_grpo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'constant'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.2
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.2
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class GRPOConfig(_GRPOConfig, MethodConfig):
    """Group-relative policy optimization: no critic, completions of a prompt are each other's baseline.

    With the keys of objective `grpo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'sequence_mean'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.2
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.2
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.04
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class GSPOConfig(_GRPOConfig, MethodConfig):
    """Group-relative policy optimization: no critic, completions of a prompt are each other's baseline.

    With the keys of objective `gspo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'sequence_mean'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'sequence'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.0003
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.0004
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class IPOConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `ipo`.
    """

    beta: float = 0.1
    """τ of the paper: the target margin is 1/(2β)"""
    reduction: Literal['mean', 'sum'] = 'mean'
    """log-ratios per token (as TRL and HALOs) or per completion (as the paper's text)"""

class KTOConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `kto`.
    """

    beta: float = 0.1
    """strength of the pull towards the reference"""
    desirable_weight: float = 1.0
    """λ_D, weight of desirable rows"""
    undesirable_weight: float = 1.0
    """λ_U, weight of undesirable rows"""

class ListwiseConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `listwise`.
    """

    method: Literal['plackett_luce', 'lipo_lambda', 'group_relative'] = 'plackett_luce'
    """how the ranking enters the loss"""
    beta: float = 0.1
    """scale of the log-ratios (plackett_luce, lipo_lambda)"""
    epsilon: float = 0.2
    """clipping range of the ratio (group_relative)"""

class ORPOConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `orpo`.
    """

    lam: float = 0.1
    """λ, weight of the odds-ratio term"""
    nll: Literal['completion', 'prompt_and_completion'] = 'completion'
    """which tokens the NLL term covers; TRL covers the prompt too"""

class PPOConfig(_PPOConfig, MethodConfig):
    """PPO with a critic.

    With the keys of objective `ppo`.
    """

    epsilon: float = 0.2
    """clipping range of the ratio"""
    value_epsilon: float = 0.2
    """how far the value may move from the rollout's, in reward units"""
    value_coefficient: float = 0.1
    """weight of the value loss"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    kl_coefficient: float = 0.0
    """weight of a KL to the reference in the loss, beside the reward's"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k2'
    """estimator of that KL; k2 has the KL's gradient, k1's is 0 on average"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for the sampler's log-probs"""

class RLOOConfig(_RLOOConfig, MethodConfig):
    """RLOO: REINFORCE with the other completions' mean as baseline.

    With the keys of objective `rloo`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'constant'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.2
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.2
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 1
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class ReinforcePPConfig(_ReinforceConfig, MethodConfig):
    """REINFORCE++: rewards to come of every token, its KL among them, whitened over the whole rollout.

    With the keys of objective `reinforce_pp`.
    """

    loss_aggregation: Literal['sequence_mean', 'token_mean', 'constant'] = 'token_mean'
    """how tokens are averaged"""
    ratio_level: Literal['token', 'sequence'] = 'token'
    """importance ratio of a token or of the completion"""
    clip: Literal['ppo', 'cispo'] = 'ppo'
    """clip the objective (ppo) or only its weight (cispo)"""
    epsilon_low: float = 0.2
    """the ratio is clipped below 1 − this"""
    epsilon_high: float = 0.2
    """the ratio is clipped above 1 + this"""
    delta: float = 0.0
    """bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    beta: float = 0.0
    """weight of the KL; 0 needs no reference"""
    kl_estimator: Literal['k1', 'k2', 'k3'] = 'k3'
    """estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"""
    unbiased_kl: bool = True
    """weight the KL with π/π_old, so that k3 has the gradient of the KL"""
    constant_length: int = 256
    """tokens that constant divides by: the generation budget"""
    sampler_ratio_cap: float = 2.0
    """cap of the weight that corrects for another sampling engine"""

class SimPOConfig(_PreferenceConfig, MethodConfig):
    """Preference optimization with any offline objective.

    With the keys of objective `simpo`.
    """

    beta: float = 2.0
    """scale of the length-normalised rewards"""
    gamma: float = 1.0
    """margin that chosen must win by, in units of β·log-prob"""
