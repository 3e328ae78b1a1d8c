"""OpenAI's request bodies, as far as they are honoured, and its form of an error.

Types are taken strictly: "3" is no number. A field that would change the answer and is not honoured
is refused; one that only describes the caller is accepted and has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from alignloop.records import Conversation, Message, ToolCall, canonical, with_tools

MAX_SEED = 2**63 - 1
MAX_BEST = 20
"""Most probable tokens that may be asked for with each token."""
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class TextPart(Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Function(Strict):
    """What a tool call asks for; the arguments are a JSON object as text."""

    name: str
    arguments: str


class Call(Strict):
    """A call of a tool in an earlier turn of the assistant."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Strict):
    """One turn; `developer` is OpenAI's newer name of `system`.

    Tool calls and tools' answers are read as a part of the conversation; see `ChatRequest.tools`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = Field(default=None, description="not OpenAI's; an answer's thoughts")
    name: str | None = None
    refusal: None = None

    @model_validator(mode="after")
    def _says_something_of_its_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("turn", "only an assistant's message has tool_calls")
        if self.tool_call_id is not None and self.role != "tool":
            raise PydanticCustomError("turn", "only a tool's message has tool_call_id")
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("turn", "content is missing")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def message(self) -> Message:
        """The turn as a record."""
        calls = tuple(ToolCall(c.function.name, c.function.arguments, c.id) for c in self.tool_calls or ())
        return Message(
            "system" if self.role == "developer" else self.role,
            self.text,
            self.reasoning_content or "",
            calls,
            (self.name or "") if self.role == "tool" else "",
            self.tool_call_id or "",
        )


class StreamOptions(Strict):
    """What a stream contains besides the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class PlainText(Strict):
    """The only response format there is."""

    type: Literal["text"]


class GenerationRequest(Strict):
    """What both kinds of request have in common; None stands for the server's default."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = Field(default=None, ge=0, description="not OpenAI's; 0 is off")
    min_p: float | None = Field(default=None, ge=0, le=1, description="not OpenAI's; 0 is off")
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=10, description="not OpenAI's; 1 is off"
    )
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(GenerationRequest):
    """Body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: Annotated[list[dict[str, JsonValue]], Field(max_length=128)] | None = Field(
        default=None, description="given to the template; a call in an answer stays a part of its text"
    )
    tool_choice: Literal["auto"] | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_BEST)
    response_format: PlainText | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        default=None, description="not OpenAI's; arguments for the template, such as enable_thinking"
    )

    @property
    def conversation(self) -> Conversation:
        """The messages as records, with the tools on offer."""
        found = tuple(message.message for message in self.messages)
        return with_tools(found, [canonical(tool) for tool in self.tools or ()])


class CompletionRequest(GenerationRequest):
    """Body of /v1/completions. `logprobs` is how many of the most probable tokens come with each."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_BEST)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts as a list of texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[t for t in self.prompt if isinstance(t, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]


class ApiError(Exception):
    """An answer that is an error.

    Arguments:
        status: HTTP status.
        message: one sentence.
        code: OpenAI's short key, if there is one.
        param: the field at fault.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> Mapping[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(error: ValidationError) -> ApiError:
    """What is wrong with a body: the field, and what it may be. Values are not repeated."""
    # A union reports every member it tried under the same field; the field's first sentence is enough.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "function-")))
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON in UTF-8: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"'{field[:100]}' is not supported", code="unknown_parameter", param=field[:100])
    return ApiError(400, f"'{field}': {first['msg'][:1].lower()}{first['msg'][1:]}", param=field)
