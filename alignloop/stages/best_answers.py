"""Best-of-n at inference: of n answers to a prompt, the one that a reward likes best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignloop.data.columns import record_to_row
from alignloop.data.tokenize import Encoder
from alignloop.evaluation.best_of_n import best_of_n_curve
from alignloop.model.load import LoadedModel
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Sampled
from alignloop.records import Demonstration, Prompt, Provenance, as_context
from alignloop.rl.rewards import Reward, Sample
from alignloop.stages.answers import sample_all


@dataclass(frozen=True, slots=True)
class BestAnswer:
    """n answers to a prompt with their rewards; the first of the highest ones is the best."""

    prompt: Prompt
    answers: tuple[str, ...]
    rewards: tuple[float, ...]

    @property
    def index(self) -> int:
        """Number of the best answer."""
        return self.rewards.index(max(self.rewards))

    @property
    def text(self) -> str:
        """The best answer."""
        return self.answers[self.index]

    @property
    def reward(self) -> float:
        """Its reward."""
        return self.rewards[self.index]

    def row(self, model: str) -> dict[str, Any]:
        """As a demonstration, and beside it `rewards` of all n answers."""
        where = self.prompt.provenance
        details = {**where.details, "model": model, "reward": self.reward}
        made = Provenance(where.file, where.line, "derived", details)
        row = record_to_row(Demonstration(as_context(self.prompt.prompt), self.text, made))
        return {**row, "rewards": list(self.rewards)}


def best_answers(
    loaded: LoadedModel,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    reward: Reward,
    params: SamplingParams,
    *,
    n: int,
    token_budget: int = 8192,
) -> list[BestAnswer]:
    """Sample n answers to each prompt and score them.

    The best of n is at most ln n − (n − 1)/n nats from the model (Beirami et al. 2024, arXiv 2401.01879).

    Args:
        loaded: the model that answers.
        encoder: prompts to tokens.
        prompts: what is asked.
        reward: what chooses, see `stages.scoring.build_reward`; its rule for a missing EOS counts.
        params: how tokens are drawn; at temperature 0 all answers are alike.
        n: answers to each prompt, 1 or more.
        token_budget: tokens in flight at once.

    Returns:
        One for each prompt.

    Raises:
        DataError: a prompt that is too long, or lacks what a verifier reads.
        EngineError: a part of the reward failed.
    """
    done = sample_all(loaded, encoder, prompts, params, n=n, token_budget=token_budget, title=f"best of {n}")
    rewards = reward(to_samples(prompts, done)).total.reshape(len(prompts), n).tolist()
    return [
        BestAnswer(prompt, tuple(one.text.strip() for one in row), tuple(values))
        for prompt, row, values in zip(prompts, done, rewards, strict=True)
    ]


def to_samples(prompts: Sequence[Prompt], done: Sequence[Sequence[Sampled]]) -> list[Sample]:
    """Completions as a reward reads them, prompt by prompt."""
    return [
        Sample(prompt, one.text.strip(), len(one.ids), one.finish != "length", row)
        for row, (prompt, found) in enumerate(zip(prompts, done, strict=True))
        for one in found
    ]


def reward_curve(rewards: Sequence[Sequence[float]], n: int) -> list[dict[str, float]]:
    """Expected reward of the best of 1, 2, 4, … n with its KL to the policy, over 2 prompts or more."""
    ns = sorted({*(2**k for k in range(10) if 2**k < n), n})
    points = best_of_n_curve(rewards, rewards, ns)
    return [
        {"n": p.n, "kl": p.kl, "reward": p.proxy.value, "low": p.proxy.low, "high": p.proxy.high}
        for p in points
    ]
