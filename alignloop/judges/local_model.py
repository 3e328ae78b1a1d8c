"""A model of this machine as adviser: choices by the log-probs of their tokens, texts by sampling.

P(choice) is the softmax over the choices' log-probs after the prompt (RLAIF, Lee et al. 2023,
arXiv 2309.00267, section 2.1). The choices of a question share its prompt in one packed row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from alignloop.data.packing import Group, collate, completion, pack
from alignloop.data.tokenize import Encoder
from alignloop.judges.adviser import Account, Ask, OnReply, Reply
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel
from alignloop.model.packed import PackedModel
from alignloop.model.positions import steady_positions
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Sampled


class LocalAdviser:
    """A loaded model that is asked.

    Attributes:
        name: the model's name or path.
        identity: fingerprint of its weights and template.
        account: tokens read and written; a local model costs nothing.
    """

    def __init__(
        self, loaded: LoadedModel, encoder: Encoder, *, identity: str, token_budget: int = 8192
    ) -> None:
        self.loaded, self.encoder, self.token_budget = loaded, encoder, token_budget
        self.name, self.identity, self.account = loaded.name, f"local:{identity}", Account()
        self.packed = PackedModel(loaded.model).eval()
        self.context = steady_positions(loaded.model.config) or 1 << 30

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        """One reply for each question; one that does not fit the model's context is `too_long`."""
        replies = [Reply(fault="too_long")] * len(asks)

        def give(number: int, reply: Reply) -> None:
            replies[number] = reply
            self.account.num_asked += 1
            self.account.tokens_input += reply.tokens_input
            self.account.tokens_output += reply.tokens_output
            if on_reply is not None:
                on_reply(number, reply)

        closed: list[Group] = []
        open_: dict[SamplingParams, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for number, ask in enumerate(asks):
            prompt = self.encoder.prompt(ask.messages)
            labels = [completion(self.encoder.begin(choice, ask.messages)) for choice in ask.choices]
            longest = max((len(label.ids) for label in labels), default=ask.max_tokens)
            if len(prompt) + longest > self.context:
                give(number, Reply(fault="too_long"))
            elif labels:
                closed.append(Group(prompt, tuple(labels), number))
            else:
                open_[sampling(ask)].append((number, prompt))
        self._choose(closed, give)
        for params, rows in open_.items():
            self._write(rows, params, [[asks[number].seed] for number, _ in rows], give)
        return replies

    def _choose(self, groups: Sequence[Group], give: OnReply) -> None:
        for chunk in pack(groups, self.token_budget):
            with torch.no_grad():
                logprobs = self.packed(collate(chunk)).logprobs
            totals = logprobs.double().sum(-1).cpu().split([len(group.completions) for group in chunk])
            for group, total in zip(chunk, totals, strict=True):
                chances = torch.softmax(total, 0).tolist()
                give(group.index, Reply("", tuple(chances), "", len(group.prompt_ids), 1))

    def _write(
        self,
        rows: Sequence[tuple[int, np.ndarray]],
        params: SamplingParams,
        seeds: Sequence[Sequence[int]],
        give: OnReply,
    ) -> None:
        whole = self.encoder.template.whole_text

        def done(row: int, _index: int, sampled: Sampled) -> None:
            number, prompt = rows[row]
            give(number, Reply(whole(sampled.text).strip(), (), "", len(prompt), len(sampled.ids)))

        generate(
            self.loaded.model,
            self.loaded.tokenizer,
            [prompt.tolist() for _, prompt in rows],
            params,
            seeds=seeds,
            token_budget=max(self.token_budget, max(len(p) for _, p in rows) + params.max_tokens),
            on_done=done,
        )


def sampling(ask: Ask) -> SamplingParams:
    """How a free text is drawn, without its seed."""
    return SamplingParams(
        temperature=ask.temperature, top_p=ask.top_p, max_tokens=ask.max_tokens, stop=ask.stop
    )
