"""A policy that can be served: its weights, the encoder of its training, and its limits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from alignloop.data.chat import ChatTemplate
from alignloop.data.template_choice import TemplateChoice
from alignloop.data.tokenize import Encoder
from alignloop.data.tool_use import rendered
from alignloop.errors import DataError, ModelError
from alignloop.foreign import loads, read_text
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.own_numbers import check_engine
from alignloop.model.positions import steady_positions
from alignloop.model.sampling import SamplingParams, completion_seeds
from alignloop.model.scheduler import Request
from alignloop.records import Message
from alignloop.runs import RUN_FILE
from alignloop.serve.engine import EngineThread
from alignloop.serve.protocol import ApiError, ChatRequest, CompletionRequest, GenerationRequest
from alignloop.stages.checks import saved_template
from alignloop.stages.common import inference_encoder
from alignloop.stages.reward import HEAD_FILE
from alignloop.stages.writers import check_writer

MIN_TEMPERATURE = 1e-4
"""A lower temperature means the most probable token."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a server takes.

    Attributes:
        max_tokens: tokens of one completion; also what a chat gets that asks for no number.
        max_choices: completions of one request.
        max_open: requests running or waiting in one model's engine.
        body_bytes: size of a request.
        seconds: time for a request, waiting included.
        token_budget: tokens whose keys and values a model's engine stores at once.
    """

    max_tokens: int = 1024
    max_choices: int = 32
    max_open: int = 256
    body_bytes: int = 1 << 20
    seconds: float = 600.0
    token_budget: int = 16384


@dataclass(frozen=True, slots=True)
class Policy:
    """A model with the encoder it was trained with.

    Attributes:
        name: what requests call it.
        loaded: model and tokenizer.
        encoder: messages to token ids.
        context: positions of the model, or None.
        created: Unix time.
    """

    name: str
    loaded: LoadedModel
    encoder: Encoder
    context: int | None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def template(self) -> ChatTemplate:
        """How messages become text."""
        return self.encoder.template


def open_policy(
    model: str | Path,
    *,
    name: str | None = None,
    chat_template: str | TemplateChoice = "tokenizer",
    dtype: str = "auto",
    device: str = "auto",
) -> Policy:
    """Load a policy for use.

    Args:
        model: what `load_model` takes: run folder, model folder, adapter, .gguf file, name.
        name: what requests call it; the folder's name if None.
        chat_template: as in recipes; it must render like the one of training.
        dtype: auto, float32, bfloat16.
        device: auto, cpu, cuda.

    Returns:
        The loaded model, its name and template.

    Raises:
        ModelError: a reward model, critic or classifier, a tokenizer whose chat template is not the one
            of training, or a model whose own numbers the engine does not give.
        ConfigError: `chat_template` is another than the one of training.
    """
    check_writes(model)
    check_writer(str(model))
    loaded = load_model(model, dtype=dtype, device=device)
    saved = saved_template(loaded)
    if saved is not None and loaded.tokenizer.chat_template != saved.portable:
        raise ModelError(
            f"'{model}': its tokenizer's chat template is not the one the model was trained with; "
            "restore chat_template.jinja"
        )
    context = steady_positions(loaded.model.config)
    # What does not fit is refused, never shortened: a cut prompt would be answered wrongly.
    encoder = replace(inference_encoder(loaded, chat_template), overlength="error")
    policy = Policy(name or Path(str(model)).resolve().name, loaded, encoder, context)
    check_engine(loaded.model)  # a model that cannot be served is told now
    return policy


def check_writes(model: str | Path) -> None:
    """Refuse a model that scores or classifies, before its weights are read.

    Raises:
        ModelError: it has a scalar head or a classifier's, which a text model would load without.
    """
    folder = Path(model).expanduser()
    folder = folder / "model" if (folder / RUN_FILE).exists() else folder
    if (folder / HEAD_FILE).exists():
        raise ModelError(
            f"'{model}' has a scalar head ({HEAD_FILE}): it scores answers and writes none; give a policy"
        )
    kinds: Sequence[str] | None = None
    with suppress(OSError, ValueError, AttributeError):  # what cannot be read is told by load_model
        kinds = loads(read_text(folder / "config.json")).get("architectures")
    others = [kind for kind in kinds or () if kind.endswith(("Classification", "RewardModel", "ForReward"))]
    if others:
        raise ModelError(f"'{model}' is a {others[0]}: it scores texts and writes none; give a policy")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A policy with the engine that runs it."""

    policy: Policy
    engine: EngineThread
    limits: RequestLimits

    def chat_requests(self, body: ChatRequest) -> list[Request]:
        """The engine's request for a chat.

        Raises:
            ApiError: over a limit, or messages the template refuses.
        """
        messages: Sequence[Message] = body.conversation
        encoder = replace(self.policy.encoder, template=self.template(body))
        if body.tools and not rendered(encoder.template).offers:
            raise ApiError(400, "this model's chat template does not render tools", param="tools")
        try:
            prompt = encoder.prompt(messages).tolist()
        except DataError as error:
            raise ApiError(400, str(error), param="messages") from error
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true", param="top_logprobs")
        return self._requests(body, [prompt], _wanted(body), num_best=body.top_logprobs or 0)

    def template(self, body: ChatRequest) -> ChatTemplate:
        """The template with a request's arguments.

        Raises:
            ApiError: arguments that the template does not use, or with which it fails.
        """
        try:
            return self.policy.template.with_kwargs(body.chat_template_kwargs or {})
        except ModelError as error:
            raise ApiError(400, str(error), param="chat_template_kwargs") from error

    def completion_requests(self, body: CompletionRequest) -> list[Request]:
        """The engine's requests for raw prompts, one each.

        Raises:
            ApiError: over a limit, an empty prompt, or token ids the model does not have.
        """
        tokenizer = self.policy.loaded.tokenizer
        size = self.policy.loaded.model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
        prompts = [tokenizer.encode(p) if isinstance(p, str) else list(p) for p in body.prompts]
        if not prompts or not all(prompts):
            raise ApiError(400, "a prompt needs at least one token", param="prompt")
        if any(token >= size for prompt in prompts for token in prompt):
            raise ApiError(400, f"token ids are below {size} in this model", param="prompt")
        field, wanted = _wanted(body)
        return self._requests(body, prompts, (field, wanted or 16), num_best=body.logprobs or 0)

    def _requests(
        self,
        body: GenerationRequest,
        prompts: Sequence[list[int]],
        asked: tuple[str, int | None],
        *,
        num_best: int,
    ) -> list[Request]:
        limits, n, (field, max_tokens) = self.limits, body.n or 1, asked
        where = "messages" if isinstance(body, ChatRequest) else "prompt"
        if n * len(prompts) > limits.max_choices:
            name = "n" if n > 1 else where
            raise ApiError(
                400, f"'{name}': a request may have {limits.max_choices} completions at most", param=name
            )
        if max_tokens is not None and max_tokens > limits.max_tokens:
            raise ApiError(400, f"'{field}' is {limits.max_tokens} at most", param=field)
        room = min(self.policy.context or limits.token_budget, limits.token_budget)
        longest = max(map(len, prompts))
        wanted = max_tokens or min(limits.max_tokens, max(1, room - longest))
        if longest >= room or (max_tokens is not None and longest + wanted > room):
            raise ApiError(
                400,
                f"the prompt has {longest} tokens and the completion {wanted}; together they may have {room}",
                code="context_length_exceeded",
                param=where,
            )
        seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
        temperature = 1.0 if body.temperature is None else body.temperature
        params = SamplingParams(
            # Logits divided by less overflow, and what is not finite fails every request of the batch.
            temperature=0.0 if temperature < MIN_TEMPERATURE else temperature,
            top_k=body.top_k or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            max_tokens=wanted,
            stop=body.stops,
            seed=seed,
        )
        seeds = completion_seeds(seed, len(prompts), n)
        rows = zip(prompts, seeds, strict=True)
        return [Request(tuple(prompt), params, tuple(row), num_best) for prompt, row in rows]


def _wanted(body: GenerationRequest) -> tuple[str, int | None]:
    """The field that says how many tokens a completion may have, and its number."""
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        return "max_completion_tokens", body.max_completion_tokens
    return "max_tokens", body.max_tokens
