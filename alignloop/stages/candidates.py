"""The models of a comparison: in a folder (`local`), behind an endpoint, or as answers already given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alignloop.data.builders import build
from alignloop.data.forms import ALIASES, fields_of
from alignloop.data.sources import SourceRow, read_rows
from alignloop.errors import ConfigError, DataError, EngineError, ModelError
from alignloop.evaluation.choices import Question
from alignloop.judges.adviser import Adviser, Ask, Cached
from alignloop.judges.endpoint import EndpointAdviser, EndpointSettings, read_key
from alignloop.model.sampling import SamplingParams
from alignloop.records import Conversation, Demonstration, Document, Prompt
from alignloop.stages.answers import ANSWERS_FILE, read_answers
from alignloop.stages.local import Unmeasured, seed_of


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
        return dict(_answer_in(row) for row in read_rows(self.path))


def _answer_in(row: SourceRow) -> tuple[Conversation, str]:
    """Prompt and answer of a row; an answer that is empty or null was given, and is empty."""
    fields = fields_of(row.values, {})
    asked = any(name.casefold() in ALIASES["completion"] for name in fields.row)
    try:
        record = build("demonstration", fields, row.file, row.line, "unknown")
        assert isinstance(record, Demonstration)
        return record.prompt, record.completion.strip()
    except DataError as error:
        if not asked or error.reason not in ("empty_completion", "missing_field"):
            raise DataError(
                error.message, file=row.file, line=row.line, field=error.field, reason=error.reason
            ) from None
        prompt = build("prompt", fields, row.file, row.line, "unknown")
        assert isinstance(prompt, Prompt)
        return prompt.prompt, ""


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
