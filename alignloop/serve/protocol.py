"""OpenAI's request bodies, as far as they are honoured, and its form of an error.

Types are taken strictly: "3" is no number. A field has an effect, or is accepted only with the value that
asks for nothing (null, `presence_penalty: 0`), or is refused. Three names of the caller (`user`,
`safety_identifier`, `prompt_cache_key`) ask for nothing of the answer by OpenAI's own definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json

from alignloop.records import Conversation, Message, ToolCall, canonical, with_tools

MAX_SEED = 2**63 - 1
MAX_BEST = 20
"""Most probable tokens that may be asked for with each token."""
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0)]

# Unions are told apart by the value's own type, so that a fault is the chosen member's and no other's.
# Tags stand in brackets, which no field's name has; `invalid` leaves them out of the field's path.


def _form(value: object) -> str | None:
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


def _prompt_form(value: object) -> str | None:
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return "<lists>" if isinstance(value[0], list) else "<ids>"
    return _form(value)


def _union(choose: Any, accepted: str) -> Discriminator:
    return Discriminator(choose, custom_error_type="form", custom_error_message=f"input should be {accepted}")


def _nothing(value: Any) -> Any:
    """A value that asks for nothing: 0, empty or False."""
    if value:
        raise PydanticCustomError(
            "nothing", "other values than {same} are not supported", {"same": type(value)()}
        )
    return value


class Strict(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def fault(field: str, sentence: str) -> PydanticCustomError:
    """A fault of two fields together, told of one; for validators of a whole `Strict`."""
    return PydanticCustomError("together", "{sentence}", {"field": field, "sentence": sentence})


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


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<list>")],
    _union(_form, "a text or a list of text parts"),
]


class ChatMessage(Strict):
    """One turn; `developer` is OpenAI's newer name of `system`.

    Tool calls and tools' answers are read as a part of the conversation; see `ChatRequest.tools`. An
    answer of OpenAI's client comes back as it was dumped, with its empty fields.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = Field(default=None, description="not OpenAI's; an answer's thoughts")
    name: str | None = Field(default=None, description="of the tool that answers")
    refusal: None = None
    annotations: Annotated[list[JsonValue], AfterValidator(_nothing)] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something_of_its_role(self) -> ChatMessage:
        owners = {
            "tool_calls": "assistant",
            "reasoning_content": "assistant",
            "tool_call_id": "tool",
            "name": "tool",
        }
        for field, role in owners.items():
            if getattr(self, field) and self.role != role:
                an = "an" if role == "assistant" else "a"
                raise fault(field, f"only {an} {role}'s message has {field}")
        if self.content is None and not self.tool_calls:
            raise fault("content", "content is missing")
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

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PlainText(Strict):
    """The only response format there is."""

    type: Literal["text"]


Stops = Annotated[
    Annotated[Stop, Tag("<text>")] | Annotated[list[Stop], Field(max_length=16), Tag("<list>")],
    _union(_form, "a text or a list of texts"),
]


class GenerationRequest(Strict):
    """What both kinds of request have in common; None stands for the server's default."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Stops | None = None
    seed: int | None = Field(default=None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = Field(default=None, ge=0, description="not OpenAI's; 0 is off")
    min_p: float | None = Field(default=None, ge=0, le=1, description="not OpenAI's; 0 is off")
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=10, description="not OpenAI's; 1 is off"
    )
    frequency_penalty: Annotated[float, AfterValidator(_nothing)] | None = None
    presence_penalty: Annotated[float, AfterValidator(_nothing)] | None = None
    logit_bias: Annotated[dict[str, float], AfterValidator(_nothing)] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _streams_what_it_describes(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise fault("stream_options", "stream_options needs 'stream': true")
        return self

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
    metadata: Annotated[dict[str, JsonValue], AfterValidator(_nothing)] | None = Field(
        default=None, description="kept by OpenAI with stored answers; none is stored here"
    )
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        default=None, description="not OpenAI's; arguments for the template, such as enable_thinking"
    )

    @model_validator(mode="after")
    def _says_one_number_of_tokens(self) -> ChatRequest:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) == 2:
            raise fault("max_tokens", "max_tokens and max_completion_tokens differ; send one of them")
        return self

    @property
    def conversation(self) -> Conversation:
        """The messages as records, with the tools on offer."""
        found = tuple(message.message for message in self.messages)
        return with_tools(found, [canonical(tool) for tool in self.tools or ()])


Prompts = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Tag("<list>")]
    | Annotated[list[TokenId], Tag("<ids>")]
    | Annotated[list[list[TokenId]], Tag("<lists>")],
    _union(_prompt_form, "a text, token ids, or a list of either"),
]


class CompletionRequest(GenerationRequest):
    """Body of /v1/completions. `logprobs` is how many of the most probable tokens come with each."""

    prompt: Prompts
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


Body = TypeVar("Body", bound=Strict)


def read_body(data: bytes, kind: type[Body]) -> Body:
    """A request's body.

    Args:
        data: JSON in UTF-8.
        kind: what it is to be.

    Returns:
        The checked body.

    Raises:
        ApiError: 400, the field and what it may be. Values are not repeated.
    """
    try:
        body = kind.model_validate_json(data)
        from_json(data, allow_inf_nan=False)  # free-form values take NaN, which is no JSON
    except ValidationError as error:
        raise _invalid(error) from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}; NaN and infinities are no numbers") from error
    return body


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = [*first["loc"], first.get("ctx", {}).get("field", "")]
    field = ".".join(str(part) for part in path if str(part)[:1] not in ("", "<"))[:100]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON in UTF-8: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"'{field}' is not supported", code="unknown_parameter", param=field)
    sentence = first["msg"][:1].lower() + first["msg"][1:]
    return ApiError(400, f"'{field}': {sentence}" if field else f"the body: {sentence}", param=field or None)
