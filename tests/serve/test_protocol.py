"""Every field of every request has an effect, takes only what asks for nothing, or is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from alignloop.data.chat import load_template
from alignloop.data.columns import record_to_row
from alignloop.records import Message, Preference
from alignloop.serve import protocol
from alignloop.serve.protocol import ApiError, ChatRequest, CompletionRequest, read_body
from alignloop.serve.served import Policy, RequestLimits, ServedModel
from alignloop.serve.votes import PairVote, checked, records
from alignloop.serve.web.page import Judged, PageTurn, VoteRequest
from tests.serve.conftest import tiny_policy

USER: dict[str, Any] = {"role": "user", "content": "Why does rain fall?"}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "tide", "arguments": '{"at": 1}'},
}
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role + ':' }}"
    "{{ (m.name or '') + (m.tool_call_id or '') + (m.reasoning_content or '') + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.id + c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ ';' }}{% endfor %}{% if shout %}{{ 'loud' }}{% endif %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

CALLER = {"user", "safety_identifier", "prompt_cache_key"}
"""Names of the caller, which by OpenAI's definition ask for nothing of the answer."""

ONLY: dict[str, tuple[list[Any], list[Any]]] = {
    "frequency_penalty": ([0, 0.0, None], [1, -1, 1e-9]),
    "presence_penalty": ([0, None], [0.5]),
    "logit_bias": ([{}, None], [{"5": 1}]),
    "tool_choice": (["auto", None], ["none", "required", {"type": "function"}]),
    "response_format": ([{"type": "text"}, None], [{"type": "json_object"}, {}]),
    "metadata": ([{}, None], [{"a": "b"}, 5]),
    "store": ([False, None], [True]),
    "service_tier": (["auto", "default", None], ["flex", "priority", ""]),
    "echo": ([False, None], [True]),
    "best_of": ([1, None], [2]),
    "suffix": (["", None], ["x"]),
}
"""Fields with one meaning here: values that ask for it, and others, which are refused."""

CHANGES: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": [USER]}, {"messages": [{"role": "user", "content": "여"}]}],
    "prompt": [{"prompt": "a"}, {"prompt": "b c"}],
    "model": [{"model": "tiny"}, {"model": "other"}],
    "max_tokens": [{"max_tokens": 3}, {"max_tokens": 4}],
    "max_completion_tokens": [{"max_tokens": None, "max_completion_tokens": n} for n in (3, 4)],
    "n": [{"n": 1}, {"n": 2}],
    "temperature": [{"temperature": 0}, {"temperature": 2}],
    "top_p": [{"top_p": 1}, {"top_p": 0.001, "temperature": 2}],
    "top_k": [{"top_k": 0, "temperature": 2}, {"top_k": 1, "temperature": 2}],
    "min_p": [{"min_p": 0, "temperature": 2}, {"min_p": 1, "temperature": 2}],
    "repetition_penalty": [{"repetition_penalty": 1}, {"repetition_penalty": 10}],
    "stop": [{}, {"stop": ["e", "a", " ", "o", "i"]}],
    "seed": [{"seed": 1, "temperature": 2}, {"seed": 2, "temperature": 2}],
    "stream": [{}, {"stream": True}],
    "stream_options": [{"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}],
    "tools": [{}, {"tools": [{"type": "function", "function": {"name": "tide"}}]}],
    "chat_template_kwargs": [{}, {"chat_template_kwargs": {"shout": True}}],
    "logprobs": [{}, {"logprobs": True}],
    "top_logprobs": [{"logprobs": True}, {"logprobs": True, "top_logprobs": 2}],
}
"""Two requests that differ in the field, and whose answers differ."""


@pytest.fixture(scope="module")
def tooled() -> ServedModel:
    """A policy whose template renders everything that a message can have."""
    policy = tiny_policy()
    policy.loaded.tokenizer.chat_template = TOOLS
    encoder = policy.encoder.__class__(
        policy.loaded.tokenizer, load_template("tokenizer", policy.loaded.tokenizer), 4096, "error"
    )
    made = Policy("tiny", policy.loaded, encoder, policy.context)
    return ServedModel(made, None, RequestLimits())  # pyright: ignore[reportArgumentType]


def told(body: dict[str, Any], kind: type[Any] = ChatRequest) -> ApiError:
    """The error that a body gets."""
    with pytest.raises(ApiError) as caught:
        read_body(json.dumps(body).encode(), kind)
    assert caught.value.status == 400
    return caught.value


def minimal(kind: type[BaseModel]) -> dict[str, Any]:
    return {"messages": [USER]} if kind is ChatRequest else {"prompt": "a"}


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_every_field_of_a_request_is_of_one_sort(kind: type[BaseModel]) -> None:
    fields = set(kind.model_fields)
    assert fields <= set(CHANGES) | set(ONLY) | CALLER
    assert not set(CHANGES) & set(ONLY)
    assert CALLER & fields


FIELDS = [(kind, name) for kind in (ChatRequest, CompletionRequest) for name in kind.model_fields]


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in FIELDS if n in ONLY])
def test_a_field_without_a_choice_takes_only_what_asks_for_nothing(kind: type[Any], name: str) -> None:
    same, others = ONLY[name]
    for value in same:
        read_body(json.dumps(minimal(kind) | {name: value}).encode(), kind)
    for value in others:
        error = told(minimal(kind) | {name: value}, kind)
        assert (error.param or "").startswith(name)
        assert name in error.message


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in FIELDS if n in CHANGES])
def test_a_field_changes_the_answer(kind: type[Any], name: str, address: str, tooled: ServedModel) -> None:
    first, second = ({**minimal(kind), "max_tokens": 8, "seed": 7, **change} for change in CHANGES[name])
    if kind is CompletionRequest:
        first, second = (
            {k: (3 if v is True and k == "logprobs" else v) for k, v in b.items()} for b in (first, second)
        )
    if name in ("tools", "chat_template_kwargs"):  # the plain server's template renders neither
        one, two = (
            tooled.chat_requests(ChatRequest.model_validate(body))[0].prompt for body in (first, second)
        )
        assert one != two
        return
    path = "chat/completions" if kind is ChatRequest else "completions"
    one, two = (httpx.post(f"{address}/v1/{path}", json=body) for body in (first, second))
    assert one.status_code == 200, one.text
    assert shape(one) != shape(two)


def shape(answer: httpx.Response) -> object:
    """An answer without its number and time."""
    if "event-stream" in answer.headers["content-type"]:
        return answer.text.count("data:"), "usage" in answer.text
    body = answer.json()
    return {k: v for k, v in body.items() if k not in ("id", "created")}


MESSAGE_CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "role": (USER, USER | {"role": "developer"}),
    "content": (USER, USER | {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
    "tool_calls": (
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": "x", "tool_calls": [CALL]},
    ),
    "reasoning_content": (
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": "x", "reasoning_content": "so"},
    ),
    "tool_call_id": (
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ),
    "name": ({"role": "tool", "content": "1"}, {"role": "tool", "content": "1", "name": "tide"}),
}
MESSAGE_NULLS = {
    "refusal": "no",
    "annotations": [{"type": "url_citation"}],
    "audio": {"id": "a"},
    "function_call": {},
}


def test_every_field_of_a_message_reaches_the_template_or_is_refused(tooled: ServedModel) -> None:
    assert set(protocol.ChatMessage.model_fields) == set(MESSAGE_CHANGES) | set(MESSAGE_NULLS)

    def prompt(message: dict[str, Any]) -> tuple[int, ...]:
        talk = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, message, USER]
        return tooled.chat_requests(ChatRequest.model_validate({"messages": talk}))[0].prompt

    for name, (one, two) in MESSAGE_CHANGES.items():
        assert prompt(one) != prompt(two), name
    for name, value in MESSAGE_NULLS.items():
        assert prompt({"role": "assistant", "content": "x", name: None}) == prompt(
            {"role": "assistant", "content": "x"}
        )
        assert (
            told({"messages": [{"role": "assistant", "content": "x", name: value}]}).param
            == f"messages.0.{name}"
        )


@pytest.mark.parametrize(
    ("field", "role", "value"),
    [
        ("name", "user", "bob"),
        ("name", "assistant", "bob"),
        ("tool_calls", "user", [CALL]),
        ("tool_call_id", "assistant", "c1"),
        ("reasoning_content", "system", "so"),
    ],
)
def test_a_field_of_another_role_is_refused(field: str, role: str, value: object) -> None:
    error = told({"messages": [USER, {"role": role, "content": "x", field: value}]})
    assert error.param == f"messages.1.{field}"
    assert "only a" in error.message


def test_a_message_of_openais_client_may_come_back_as_it_was_dumped(client: openai.OpenAI) -> None:
    user: Any = USER
    asked = client.chat.completions.create(model="tiny", messages=[user], max_tokens=4, seed=1)
    given = asked.choices[0].message
    rebuilt = ChatCompletionMessage.model_validate(given.to_dict())
    assert None in rebuilt.model_dump().values()
    dumps: list[Any] = [given.model_dump(), given.to_dict(), rebuilt.model_dump()]
    for dumped in dumps:
        again = client.chat.completions.create(model="tiny", messages=[user, dumped, user], max_tokens=1)
        assert again.choices


NAMED: dict[str, tuple[type[Any], dict[str, Any], str, str]] = {
    "content": (ChatRequest, {"messages": [USER | {"content": 5}]}, "messages.0.content", "a text or a"),
    "part": (
        ChatRequest,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.0.type",
        "'text'",
    ),
    "part's text": (
        ChatRequest,
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages.0.content.0.text",
        "required",
    ),
    "stop": (ChatRequest, {"messages": [USER], "stop": 5}, "stop", "a text or a list"),
    "stop's item": (ChatRequest, {"messages": [USER], "stop": ["a", ""]}, "stop.1", "1 character"),
    "many stops": (ChatRequest, {"messages": [USER], "stop": ["a"] * 17}, "stop", "16"),
    "ids": (CompletionRequest, {"prompt": [1, "a"]}, "prompt.1", "integer"),
    "lists of ids": (CompletionRequest, {"prompt": [[1], [-1]]}, "prompt.1.0", "0"),
    "prompt": (CompletionRequest, {"prompt": {}}, "prompt", "a text, token ids"),
    "two numbers": (
        ChatRequest,
        {"messages": [USER], "max_tokens": 4, "max_completion_tokens": 5},
        "max_tokens",
        "max_completion_tokens differ",
    ),
    "no stream": (ChatRequest, {"messages": [USER], "stream_options": {}}, "stream_options", "'stream'"),
    "padding": (
        CompletionRequest,
        {"prompt": "a", "stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "False",
    ),
    "seed": (ChatRequest, {"messages": [USER], "seed": 2**63}, "seed", str(2**63 - 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_an_error_names_the_field_and_its_limit(name: str) -> None:
    kind, body, field, words = NAMED[name]
    error = told(body, kind)
    assert error.param == field
    assert error.message.startswith(f"'{field}': ")
    assert words in error.message


@pytest.mark.parametrize("where", ['"tools":[{"a":NaN}]', '"chat_template_kwargs":{"a":Infinity}'])
def test_no_free_form_value_holds_what_json_does_not_have(where: str) -> None:
    body = f'{{"messages":[{json.dumps(USER)}],{where}}}'
    with pytest.raises(ApiError, match="not JSON"):
        read_body(body.encode(), ChatRequest)


@pytest.mark.parametrize(
    ("body", "field", "limit"),
    [
        ({"max_tokens": 901}, "max_tokens", "900"),
        ({"max_completion_tokens": 901}, "max_completion_tokens", "900"),
        ({"n": 9}, "n", "8"),
        ({"prompt": ["a"] * 9}, "prompt", "8"),
        ({"prompt": "a " * 1000, "max_tokens": 900}, "prompt", "1024"),
        ({"messages": [{"role": "user", "content": "rain " * 2000}]}, "messages", "1024"),
    ],
)
def test_an_error_of_a_limit_names_the_field_that_was_sent(
    address: str, body: dict[str, Any], field: str, limit: str
) -> None:
    path, base = ("completions", {}) if "prompt" in body else ("chat/completions", {"messages": [USER]})
    answer = httpx.post(f"{address}/v1/{path}", json=base | body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert limit in error["message"]


def test_every_field_of_a_vote_is_kept() -> None:
    body: dict[str, Any] = {
        "prompt": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "reasoning_content": "so"},
            {"role": "user", "content": "r"},
        ],
        "answers": [
            {"text": "x", "model": "m", "reasoning_content": "hm"},
            {"text": "y", "model": "n"},
        ],
        "verdict": "b",
    }
    assert set(VoteRequest.model_fields) == set(body)
    assert set(Judged.model_fields) == set(body["answers"][0])
    assert set(PageTurn.model_fields) == set(body["prompt"][2])
    vote = read_body(json.dumps(body).encode(), VoteRequest).vote()
    assert isinstance(vote, PairVote)
    (kept,) = records(checked(vote))
    assert isinstance(kept, Preference)
    row = json.dumps(record_to_row(kept))
    assert kept.prompt[2] == Message("assistant", "a", "so")
    for text in ('"s"', '"q"', '"so"', "hm", '"y"', '"m"', '"n"'):
        assert text in row
    error = told(
        body | {"prompt": [{"role": "user", "content": "q", "reasoning_content": "so"}]}, VoteRequest
    )
    assert error.param == "prompt.0.reasoning_content"
