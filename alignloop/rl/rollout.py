"""Where completions come from: the narrow interface behind which a generation engine stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignloop.model.generate import Keep, OnDone, Unfinished, generate
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import TOKEN_BUDGET, Sampled


class CompletionEngine(Protocol):
    """Anything that completes prompts. P prompts, n completions of each."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        n: int = 1,
        seeds: Sequence[Sequence[int]] | None = None,
        on_done: OnDone | None = None,
        begun: Unfinished | None = None,
        keep: Keep | None = None,
    ) -> list[list[Sampled]]:
        """n completions of each prompt.

        Args:
            prompts: token ids of P prompts.
            params: how tokens are drawn.
            n: completions of each prompt.
            seeds: a seed for each completion, [P][n]; derived from `params.seed` if None.
            on_done: called as each completion ends.
            begun: what `keep` saved of this call before; an engine that cannot go on samples anew.
            keep: may be called now and then with a function that describes the generation so far.

        Returns:
            [P][n] completions whose log-probs are those of the distribution drawn from.
        """
        ...


@dataclass(slots=True)
class LocalEngine:
    """Generation in this process with the model that is being trained: always its current weights.

    Attributes:
        model: a transformers causal language model, or a peft model around one.
        tokenizer: for text and stop strings, or None.
        token_budget: tokens whose keys and values may be stored at once.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase | None
    token_budget: int = TOKEN_BUDGET

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        n: int = 1,
        seeds: Sequence[Sequence[int]] | None = None,
        on_done: OnDone | None = None,
        begun: Unfinished | None = None,
        keep: Keep | None = None,
    ) -> list[list[Sampled]]:
        """As `alignloop.model.generate.generate`."""
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            params,
            n=n,
            seeds=seeds,
            token_budget=self.token_budget,
            on_done=on_done,
            begun=begun,
            keep=keep,
        )
