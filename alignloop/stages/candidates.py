"""The models of a comparison: in a folder, behind an endpoint, or as answers already given.

Every answer is computed once and kept under the hash of the model's content, its template, the sampling
settings and the prompt, so that a stopped comparison goes on and another one finds the answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import alignloop
from alignloop.data.columns import read_records
from alignloop.data.files import sha256_of
from alignloop.data.tokenize import Encoder, tokenize
from alignloop.errors import ConfigError, DataError, EngineError, ModelError
from alignloop.evaluation.choices import Question, choice_logprobs
from alignloop.evaluation.harness import run_tasks
from alignloop.evaluation.likelihood import sequence_logprobs
from alignloop.evaluation.memory import JsonMemory
from alignloop.feedback.judge.adviser import Adviser, Ask
from alignloop.feedback.judge.cache import Cached
from alignloop.feedback.judge.endpoint import EndpointAdviser, EndpointSettings, read_key
from alignloop.machine import cache_dir
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel, fingerprint, load_model
from alignloop.model.packed import PackedModel
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Sampled
from alignloop.progress import Progress
from alignloop.records import Conversation, Demonstration, Document
from alignloop.stages import common
from alignloop.stages.answers import ANSWERS_FILE, read_answers

Unmeasured = str
"""Why something cannot be measured of a model."""


class Candidate(Protocol):
    """A model under a name."""

    @property
    def name(self) -> str: ...

    def answers(self, prompts: Sequence[Conversation]) -> list[str]:
        """One answer to each prompt."""
        ...

    def choices(self, questions: Sequence[Question]) -> list[list[float]] | Unmeasured:
        """Log-probs of each question's choices."""
        ...

    def likelihoods(self, documents: Sequence[Document]) -> list[tuple[float, int]] | Unmeasured:
        """(negative log-likelihood in nats, tokens) of each document."""
        ...

    def suites(self, tasks: Sequence[str], limit: int | None) -> dict[str, list[float]] | Unmeasured:
        """Scores of every document of lm-eval's tasks."""
        ...

    def close(self) -> None:
        """Give memory back; it is opened again when needed."""
        ...


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
    chat_template: str = "tokenizer"
    token_budget: int = 8192
    _loaded: LoadedModel | None = None
    _packed: PackedModel | None = None
    _memory: JsonMemory | None = None
    _encoder: Encoder | None = field(default=None, repr=False)

    def answers(self, prompts: Sequence[Conversation]) -> list[str]:
        memory = self._open()
        keys = [_key("answer", _plain(prompt)) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if memory.get(key) is None]
        if missing:
            loaded, encoder = self.opened()
            self._restore()
            ids = [encoder.prompt(prompts[i]).tolist() for i in missing]
            seeds = [[seed_of(prompts[i], self.params.seed)] for i in missing]
            with Progress(len(missing), description=self.name, unit="answer") as progress:

                def done(place: int, _index: int, sampled: Sampled) -> None:
                    memory.put(keys[missing[place]], sampled.text.strip())
                    progress.update(progress.step + 1)

                generate(
                    loaded.model,
                    loaded.tokenizer,
                    ids,
                    self.params,
                    seeds=seeds,
                    token_budget=self.token_budget,
                    on_done=done,
                )
        return [str(memory.get(key)) for key in keys]

    def choices(self, questions: Sequence[Question]) -> list[list[float]] | Unmeasured:
        keys = [_key("choices", [_plain(q.prompt), list(q.choices)]) for q in questions]

        def compute(missing: Sequence[int]) -> list[list[float]]:
            _, encoder = self.opened()
            return choice_logprobs(
                self._packed_model(), encoder, [questions[i] for i in missing], self.token_budget
            )

        return self._remembered(keys, compute)

    def likelihoods(self, documents: Sequence[Document]) -> list[tuple[float, int]] | Unmeasured:
        keys = [_key("likelihood", document.text) for document in documents]

        def compute(missing: Sequence[int]) -> list[list[float]]:
            _, encoder = self.opened()
            parts = [tokenize([documents[i]], encoder).groups for i in missing]
            done = iter(
                sequence_logprobs(self._packed_model(), [g for p in parts for g in p], self.token_budget)
            )
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

    def _open(self) -> JsonMemory:
        if self._memory is None:
            scope = [identity(self.path, self.params.seed), self.chat_template, self.dtype, self.device]
            scope += [_settings(self.params), code_of_answers()]
            name = sha256(repr(scope).encode("utf-8")).hexdigest()[:32]
            self._memory = JsonMemory(cache_dir() / "answers" / f"{name}.jsonl", scope=scope)
        return self._memory

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

    def _packed_model(self) -> PackedModel:
        if self._packed is None:
            self._packed = PackedModel(self.opened()[0].model)
        return self._packed


@dataclass
class Served:
    """A model behind an endpoint. What is served under a URL may change, so its answers are kept in the
    run folder only.

    Attributes:
        name: in the comparison.
        adviser: asks the endpoint, with the run folder's cache in front.
        params: how answers are drawn; an endpoint knows temperature, top_p, stop and a length.
    """

    name: str
    adviser: Adviser
    params: SamplingParams

    def answers(self, prompts: Sequence[Conversation]) -> list[str]:
        params = self.params
        asks = [
            Ask(
                prompt,
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                seed=seed_of(prompt, params.seed) % 2**31,
                top_p=params.top_p,
                stop=params.stop,
            )
            for prompt in prompts
        ]
        replies = self.adviser.ask(asks)
        rejected = [reply for reply in replies if reply.fault == "rejected"]
        if rejected:
            raise EngineError(
                f"{self.name}: the endpoint rejects {len(rejected)} of {len(prompts)} prompts: "
                f"{rejected[0].text or 'it does not say why'}"
            )
        # A refusal or an empty text is an answer like any other.
        return [reply.text.strip() for reply in replies]

    def choices(self, questions: Sequence[Question]) -> list[list[float]] | Unmeasured:
        return "an endpoint gives no log-probs of given texts"

    def likelihoods(self, documents: Sequence[Document]) -> list[tuple[float, int]] | Unmeasured:
        return "an endpoint gives no log-probs of given texts"

    def suites(self, tasks: Sequence[str], limit: int | None) -> dict[str, list[float]] | Unmeasured:
        return "an endpoint gives no log-probs of given texts"

    def close(self) -> None:
        pass


@dataclass
class Recorded:
    """Answers in a file: a `sample` run (its first answer counts) or demonstrations."""

    name: str
    path: str

    def answers(self, prompts: Sequence[Conversation]) -> list[str]:
        known = self._read()
        missing = [prompt for prompt in prompts if prompt not in known]
        if missing:
            raise DataError(
                f"has no answer to {len(missing)} of {len(prompts)} prompts, the first being "
                f"{missing[0][-1].content[:80]!r}; models are compared on the same prompts",
                file=self.path,
            )
        return [known[prompt] for prompt in prompts]

    def choices(self, questions: Sequence[Question]) -> list[list[float]] | Unmeasured:
        return "recorded answers have no log-probs"

    def likelihoods(self, documents: Sequence[Document]) -> list[tuple[float, int]] | Unmeasured:
        return "recorded answers have no log-probs"

    def suites(self, tasks: Sequence[str], limit: int | None) -> dict[str, list[float]] | Unmeasured:
        return "recorded answers have no log-probs"

    def close(self) -> None:
        pass

    def _read(self) -> dict[Conversation, str]:
        if Path(self.path).is_dir():
            return {prompt.prompt: texts[0].strip() for prompt, texts in read_answers(self.path)}
        records = read_records(self.path, kind="demonstration").records
        return {r.prompt: r.completion.strip() for r in records if isinstance(r, Demonstration)}


def open_served(
    name: str, url: str, model: str, api_key_env: str, params: SamplingParams, cache: Path
) -> Served:
    """A candidate behind an endpoint.

    Args:
        name: in the comparison.
        url: up to and including /v1.
        model: by which the server knows it, "" for its first.
        api_key_env: variable that holds the key, "" for none.
        params: how answers are drawn.
        cache: folder of the replies.

    Returns:
        Something that answers, as the local candidates do.

    Raises:
        ConfigError: the key is not there, or a setting that endpoints do not know.
    """
    if params.min_p or params.repetition_penalty != 1.0 or params.top_k:
        raise ConfigError(
            "top_k, min_p and repetition_penalty cannot be asked of an endpoint; leave them out"
        )
    settings = EndpointSettings(url, model, api_key=read_key(api_key_env), timeout_s=300.0)
    return Served(name, Cached(EndpointAdviser(settings), cache), params)


def is_url(name: str) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return name.startswith(("http://", "https://"))


def is_recorded(path: str) -> bool:
    """Whether a path holds answers and no model."""
    folder = Path(path)
    if folder.is_dir():
        return (folder / ANSWERS_FILE).is_file() and not (folder / "model").is_dir()
    return folder.is_file() and folder.name.endswith((".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"))


def check_there(path: str) -> None:
    """Find a mistyped folder before another model has been sampled for an hour.

    Raises:
        ModelError: the path looks like one of this machine, and nothing is there.
    """
    looks_local = path.startswith((".", "/", "~", "runs/")) or path.count("/") > 1 or path.endswith(".gguf")
    if looks_local and not Path(path).expanduser().exists():
        raise ModelError(f"model '{path}': no such file or folder")
    if Path(path).is_dir() and (Path(path) / "run.json").is_file() and not (Path(path) / "model").is_dir():
        raise ModelError(f"model '{path}': this run has no model/ and no answers")


def seed_of(prompt: Conversation, seed: int) -> int:
    """A prompt's own seed, whatever other prompts are asked beside it."""
    shown = repr([seed, _plain(prompt)]).encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(shown).digest()[:7], "big")


def identity(path: str, seed: int = 0) -> str:
    """What a model is by content: weights, configuration, tokenizer, and what an adapter lies on."""
    folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
    if folder.is_file():
        return sha256_of(folder)
    if not folder.is_dir():
        return f"{path} seed {seed}" if path == "tiny" else path
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return fingerprint(folder)
    base = str(json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path"))
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


def _plain(prompt: Conversation) -> list[list[str]]:
    return [[message.role, message.content] for message in prompt]
