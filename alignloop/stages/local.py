"""A model that runs here and answers, and what it once said.

Every answer is computed once and kept under the hash of the model's content, its template, the sampling
settings and the prompt, so that a stopped comparison goes on and another one finds the answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache

import alignloop
from alignloop.content import number_of, sha256_of
from alignloop.data.packing import Group, completion
from alignloop.data.template_choice import TemplateChoice
from alignloop.data.tokenize import Encoder, tokenize
from alignloop.evaluation.choices import Question, choice_logprobs
from alignloop.evaluation.harness import run_tasks
from alignloop.evaluation.likelihood import sequence_logprobs
from alignloop.machine import cache_dir
from alignloop.model.adapter_load import base_name
from alignloop.model.generate import generate
from alignloop.model.load import TINY, LoadedModel, load_model
from alignloop.model.packed import PackedModel
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import fingerprint
from alignloop.model.scheduler import Sampled
from alignloop.progress import SamplingProgress
from alignloop.records import Conversation, Document, plain_rows
from alignloop.runs.value_cache import ValueCache
from alignloop.stages import common

Unmeasured = str
"""Why something cannot be measured of a model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer: its text, and its tokens as they were drawn."""

    text: str
    ids: list[int]


@dataclass
class Local:
    """A model that runs here; loaded when something is not known yet.

    Attributes:
        name: in the comparison.
        path: folder, run folder or name.
        params: how answers are drawn.
        dtype, device, chat_template, token_budget: as in recipes.
    """

    name: str
    path: str
    params: SamplingParams
    dtype: str = "auto"
    device: str = "auto"
    chat_template: str | TemplateChoice = "tokenizer"
    token_budget: int = 8192
    _loaded: LoadedModel | None = None
    _packed: PackedModel | None = None
    _memory: ValueCache | None = None
    _encoder: Encoder | None = field(default=None, repr=False)

    def answers(self, prompts: Sequence[Conversation]) -> list[str]:
        return [answer.text for answer in self.sampled(prompts)]

    def sampled(self, prompts: Sequence[Conversation], given: Sequence[Sequence[int]] = ()) -> list[Answer]:
        """One answer to each prompt with its tokens.

        Args:
            prompts: what is asked.
            given: for each prompt the tokens of another model's answer; where a prompt runs anyway, their
                log-probs are kept for `logprobs`. None if empty.

        Returns:
            An answer for each prompt, in order.
        """
        memory = self._open()
        keys = [_key("sampled", plain_rows(prompt)) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if memory.get(key) is None]
        if missing:
            loaded, encoder = self.opened()
            self._restore()
            ids = [encoder.prompt(prompts[i]).tolist() for i in missing]
            # Prompts of like length run together; the longest first, so that the last steps are short.
            order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
            missing, ids = [missing[place] for place in order], [ids[place] for place in order]
            others = [list(given[i]) for i in missing] if given else []
            longest, whole = self.params.max_tokens, encoder.template.whole_text
            with SamplingProgress(len(missing), longest, description=self.name) as progress:

                def done(place: int, _index: int, sampled: Sampled) -> None:
                    self._keep_logprobs(memory, ids[place], sampled, others[place] if others else None)
                    memory.put(
                        keys[missing[place]], {"text": whole(sampled.text).strip(), "ids": sampled.ids}
                    )
                    progress.ended(len(sampled.ids))

                generate(
                    loaded.model,
                    loaded.tokenizer,
                    ids,
                    self.params,
                    seeds=[[seed_of(prompts[i], self.params.seed)] for i in missing],
                    given=others,
                    token_budget=self.token_budget,
                    on_done=done,
                    on_step=progress.drew,
                )
        return [Answer(**memory.get(key)) for key in keys]

    def _keep_logprobs(
        self, memory: ValueCache, prompt: Sequence[int], sampled: Sampled, other: Sequence[int] | None
    ) -> None:
        """What sampling tells of the model's own log-probs: of what was read, and where drawing changed
        nothing about the distribution of what was drawn."""
        if other is not None:
            memory.put(_given_key(prompt, other), sampled.given)
        if self.params.untouched:
            memory.put(_given_key(prompt, sampled.ids), sampled.logprobs)

    def logprobs(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probs of each completion's tokens after its prompt, nats, at temperature 1; those that came
        with an answer (`sampled`) are not computed again."""
        keys = [_given_key(prompt, ids) for prompt, ids in zip(prompts, completions, strict=True)]

        def compute(missing: Sequence[int]) -> list[list[float]]:
            groups = [
                Group(np.asarray(prompts[i], np.int32), (completion(np.asarray(completions[i], np.int32)),))
                for i in missing
            ]
            return [x.tolist() for x in sequence_logprobs(self.packed(), groups, self.token_budget)]

        return self._remembered(keys, compute)

    def choices(self, questions: Sequence[Question]) -> list[list[float]] | Unmeasured:
        keys = [_key("choices", [plain_rows(q.prompt), list(q.choices)]) for q in questions]

        def compute(missing: Sequence[int]) -> list[list[float]]:
            _, encoder = self.opened()
            return choice_logprobs(self.packed(), encoder, [questions[i] for i in missing], self.token_budget)

        return self._remembered(keys, compute)

    def likelihoods(self, documents: Sequence[Document]) -> list[tuple[float, int]] | Unmeasured:
        keys = [_key("likelihood", document.text) for document in documents]

        def compute(missing: Sequence[int]) -> list[list[float]]:
            _, encoder = self.opened()
            parts = [tokenize([documents[i]], encoder).groups for i in missing]
            done = iter(sequence_logprobs(self.packed(), [g for p in parts for g in p], self.token_budget))
            found = []
            for groups in parts:
                logprobs = [next(done) for _ in groups]
                found.append([-float(sum(x.sum() for x in logprobs)), sum(len(x) for x in logprobs)])
            return found

        return [(row[0], int(row[1])) for row in self._remembered(keys, compute)]

    def suites(self, tasks: Sequence[str], limit: int | None) -> dict[str, list[float]] | Unmeasured:
        def compute(missing: Sequence[int]) -> list[list[float]]:
            loaded, _ = self.opened()
            self._restore()
            found = []
            for i in missing:  # a group of tasks is one set: the documents of all its tasks
                scores = run_tasks(loaded, [tasks[i]], limit=limit, seed=self.params.seed)
                found.append([value for name in sorted(scores) for value in scores[name]])
            return found

        found = self._remembered([_key("lm_eval", [task, limit]) for task in tasks], compute)
        return dict(zip(tasks, found, strict=True))

    def close(self) -> None:
        self._loaded = self._packed = self._encoder = None

    def _remembered(self, keys: Sequence[object], compute: Callable[[Sequence[int]], list[Any]]) -> list[Any]:
        memory = self._open()
        missing = [i for i, key in enumerate(keys) if memory.get(key) is None]
        if missing:
            for i, value in zip(missing, compute(missing), strict=True):
                memory.put(keys[i], value)
        return [memory.get(key) for key in keys]

    def _open(self) -> ValueCache:
        if self._memory is None:
            if is_hub_id(self.path) and identity(self.path) == self.path:
                self.opened()  # its revision is known once the hub's cache holds it
            scope = [identity(self.path, self.params.seed), *self._template(), self.dtype, self.device]
            scope += [_settings(self.params), code_of_answers()]
            name = sha256(repr(scope).encode("utf-8")).hexdigest()[:32]
            self._memory = ValueCache(cache_dir() / "answers" / f"{name}.jsonl", scope=scope)
        return self._memory

    def _template(self) -> list[object]:
        choice = TemplateChoice.of(self.chat_template)
        return [choice.name, json.dumps(choice.kwargs, sort_keys=True), choice.special_tokens]

    def opened(self) -> tuple[LoadedModel, Encoder]:
        """The model itself, loaded if it is not, and what encodes its conversations."""
        if self._loaded is None or self._encoder is None:
            self._loaded = load_model(self.path, dtype=self.dtype, device=self.device, seed=self.params.seed)
            self._encoder = common.inference_encoder(self._loaded, self.chat_template)
        return self._loaded, self._encoder

    def _restore(self) -> None:
        """Give the model its own attention back, for what does not run packed rows."""
        packed, self._packed = self._packed, None
        if packed is not None and packed.shared_prefix:
            packed.restore_attention()

    def packed(self) -> PackedModel:
        """The model for forward passes over packed rows."""
        if self._packed is None:
            self._packed = PackedModel(self.opened()[0].model)
        return self._packed


def seed_of(prompt: Conversation, seed: int) -> int:
    """A prompt's own seed, whatever other prompts are asked beside it."""
    return number_of(repr([seed, plain_rows(prompt)]), 7)


def is_hub_id(path: str) -> bool:
    """Whether a model's name is that of a hub repository."""
    return path.count("/") == 1 and path[0] not in "./~" and not Path(path).exists()


def identity(path: str, seed: int = 0) -> str:
    """What a model is by content: weights, configuration, tokenizer, and what an adapter lies on; a hub
    model is its revision in the hub's cache."""
    if path == TINY:
        return f"{path} seed {seed}"
    folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
    if folder.is_file():
        return sha256_of(folder)
    if not folder.is_dir():
        config = try_to_load_from_cache(path, "config.json") if is_hub_id(path) else None
        return f"{path} {Path(config).parent.name}" if isinstance(config, str) else path
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return fingerprint(folder)
    base = str(base_name(folder))
    return f"{fingerprint(folder)} on {identity(base, seed)}"


def code_of_answers() -> str:
    """Hash of the code that answers depend on: models, templates, tokenization."""
    root = Path(alignloop.__file__).parent
    files = [*sorted((root / "model").glob("*.py")), root / "data" / "chat.py", root / "data" / "tokenize.py"]
    return sha256("".join(sha256_of(file) for file in files).encode("ascii")).hexdigest()


def _settings(params: SamplingParams) -> list[object]:
    cut = [params.temperature, params.top_k, params.top_p, params.min_p]
    return [*cut, params.repetition_penalty, params.max_tokens, list(params.stop), params.seed]


def _key(kind: str, value: object) -> list[object]:
    return [kind, value]


def _given_key(prompt: Sequence[int], ids: Sequence[int]) -> list[object]:
    return _key("logprobs", [list(prompt), list(ids)])
