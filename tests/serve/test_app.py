"""The server as programs meet it: OpenAI's own client, and raw HTTP where that refuses to send nonsense."""

from __future__ import annotations

import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from alignloop.model.generate import generate
from alignloop.model.sampling import SamplingParams, completion_seeds
from alignloop.records import Message
from alignloop.serve.served import Policy
from tests.serve.conftest import Start, tiny_policy, wait_until

ASK: list[Any] = [{"role": "user", "content": "비가 오면? Why does rain fall?"}]


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "tiny", "messages": ASK, "max_tokens": 24, "seed": 7} | settings
    )


def streamed(chunks: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    texts, ends, usage = {}, {}, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    return texts, ends, usage


def test_an_answer_is_what_generate_gives(client: openai.OpenAI, policy: Policy) -> None:
    prompt = policy.encoder.prompt([Message("user", ASK[0]["content"])]).tolist()
    params = SamplingParams(max_tokens=24, seed=7)
    loaded = policy.loaded
    want = generate(loaded.model, loaded.tokenizer, [prompt], params, seeds=completion_seeds(7, 1, 1))[0][0]
    got = ask(client)
    assert got.choices[0].message.content == want.text
    assert got.choices[0].finish_reason == ("length" if want.finish == "length" else "stop")
    assert got.usage.prompt_tokens == len(prompt)
    assert got.usage.completion_tokens == len(want.ids)


def test_streaming_equals_not_streaming(client: openai.OpenAI) -> None:
    whole = ask(client, n=3)
    texts, ends, usage = streamed(ask(client, n=3, stream=True, stream_options={"include_usage": True}))
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert len(set(texts.values())) == 3


def test_seed(client: openai.OpenAI) -> None:
    def text(**settings: Any) -> str:
        return ask(client, **settings).choices[0].message.content

    assert text(seed=3) == text(seed=3)
    assert text(seed=3) != text(seed=4)
    assert text(seed=-3) == text(seed=-3)
    assert text(seed=None) != text(seed=None)
    assert text(temperature=0, seed=3) == text(temperature=0, seed=4)


def test_stop_cuts_the_text(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].message.content
    stop = text[8:10]
    cut = ask(client, stop=[stop, "never there"])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert streamed(ask(client, stop=stop, stream=True))[0] == {0: text[: text.index(stop)]}


def test_logprobs(client: openai.OpenAI, policy: Policy) -> None:
    prompt = policy.encoder.prompt([Message("user", ASK[0]["content"])]).tolist()
    params = SamplingParams(temperature=0, max_tokens=5)
    want = generate(policy.loaded.model, policy.loaded.tokenizer, [prompt], params)[0][0]
    content = ask(client, temperature=0, max_tokens=5, logprobs=True).choices[0].logprobs.content
    assert [token.logprob for token in content] == pytest.approx(want.logprobs, abs=1e-5)
    for token in content:
        if "\ufffd" in token.token:  # a part of a character
            assert token.bytes is None
        else:
            assert bytes(token.bytes).decode() == token.token
    chunks = list(ask(client, temperature=0, max_tokens=5, logprobs=True, stream=True))
    found = [t.logprob for c in chunks for k in c.choices if k.logprobs for t in k.logprobs.content]
    assert found == pytest.approx(want.logprobs, abs=1e-5)


def test_top_logprobs(client: openai.OpenAI) -> None:
    settings = {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 20}
    content = ask(client, **settings).choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        logprobs = [one.logprob for one in token.top_logprobs]
        assert len(logprobs) == 20
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) < 1
        first = token.top_logprobs[0]  # greedy: the most probable one is the one drawn
        assert (first.token, first.bytes, first.logprob) == (token.token, token.bytes, token.logprob)
    streamed_ones = [
        t for c in ask(client, **settings, stream=True) for k in c.choices if k.logprobs
        for t in k.logprobs.content
    ]  # fmt: skip
    assert streamed_ones == content
    only = ask(client, **settings | {"top_logprobs": 3}).choices[0].logprobs.content
    assert [t.top_logprobs for t in only] == [t.top_logprobs[:3] for t in content]
    with pytest.raises(openai.BadRequestError, match="'top_logprobs' needs 'logprobs': true"):
        ask(client, top_logprobs=3)
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        ask(client, logprobs=True, top_logprobs=21)


def test_top_logprobs_of_raw_completions(client: openai.OpenAI) -> None:
    settings = {"model": "tiny", "prompt": "the sun warms", "seed": 3, "temperature": 2.0, "max_tokens": 8}
    found = client.completions.create(**settings, logprobs=2).choices[0].logprobs
    assert len(found.top_logprobs) == len(found.tokens) == 8
    for token, logprob, best in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert len(best) in (2, 3)  # the drawn token is always there
        assert best[token] >= logprob
        assert list(best.values()) == sorted(best.values(), reverse=True)
    assert client.completions.create(**settings, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_raw_completions(client: openai.OpenAI, policy: Policy) -> None:
    tokenizer = policy.loaded.tokenizer
    texts = ["the sun warms", "a good answer"]
    both = client.completions.create(model="tiny", prompt=texts, n=2, temperature=0, max_tokens=6, logprobs=0)
    want = generate(
        policy.loaded.model,
        tokenizer,
        [tokenizer.encode(text) for text in texts],
        SamplingParams(temperature=0, max_tokens=6),
    )
    expected = [row[0].text for row in want]
    assert [choice.text for choice in both.choices] == [expected[0], expected[0], expected[1], expected[1]]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].logprobs.token_logprobs == pytest.approx(want[0][0].logprobs, abs=1e-5)
    ids = tokenizer.encode(texts[1])
    assert (
        client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=6).choices[0].text
        == (expected[1])
    )
    pieces = client.completions.create(
        model="tiny", prompt=texts[0], temperature=0, max_tokens=6, stream=True
    )
    assert "".join(c.text for piece in pieces for c in piece.choices) == expected[0]


def test_concurrent_requests_get_the_answers_of_lone_ones(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        asked = [{"role": "user", "content": f"question {seed} " * (seed % 4 + 1)}]
        return ask(client, messages=asked, seed=seed, max_tokens=16).choices[0].message.content

    alone = [text(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(text, range(12))) == alone


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "alignloop"
    with pytest.raises(openai.NotFoundError, match="there is no such model"):
        ask(client, model="gpt-4")


def test_two_models(start: Start) -> None:
    policies = [tiny_policy("one", 0), tiny_policy("two", 1)]
    with openai.OpenAI(base_url=start(policies=policies) + "/v1", api_key="x") as client:
        one, two = (ask(client, model=name).choices[0].message.content for name in ("one", "two"))
    assert one != two


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b"{", 400, "not JSON"),
    "not UTF-8": (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', 400, "not JSON"),
    "lone surrogate": (rb'{"messages":[{"role":"user","content":"\ud800"}]}', 400, "not JSON"),
    "no object": (b"[]", 400, "object"),
    "deep nesting": (b"[" * 20000, 400, "not JSON"),
    "no messages": (b'{"messages":[]}', 400, "messages"),
    "wrong type": (b'{"messages":[{"role":"user","content":"a"}],"max_tokens":"9"}', 400, "max_tokens"),
    "wrong role": (b'{"messages":[{"role":"king","content":"a"}]}', 400, "role"),
    "null content": (b'{"messages":[{"role":"user","content":null}]}', 400, "content"),
    "huge n": (b'{"messages":[{"role":"user","content":"a"}],"n":1000000000}', 400, "8 completions"),
    "huge integer": (b'{"messages":[{"role":"user","content":"a"}],"n":1' + b"0" * 5000 + b"}", 400, ""),
    "no tokens": (b'{"messages":[{"role":"user","content":"a"}],"max_tokens":0}', 400, "max_tokens"),
    "many tokens": (b'{"messages":[{"role":"user","content":"a"}],"max_tokens":901}', 400, "900 at most"),
    "NaN": (b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}', 400, "temperature"),
    "negative": (b'{"messages":[{"role":"user","content":"a"}],"temperature":-1}', 400, "temperature"),
    "top_p 0": (b'{"messages":[{"role":"user","content":"a"}],"top_p":0}', 400, "top_p"),
    "tiny penalty": (
        b'{"messages":[{"role":"user","content":"a"}],"repetition_penalty":1e-40}',
        400,
        "repetition_penalty",
    ),
    "empty stop": (b'{"messages":[{"role":"user","content":"a"}],"stop":""}', 400, "stop"),
    "tools": (
        b'{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]}',
        400,
        "this model's chat template does not render tools",
    ),
    "no content": (b'{"messages":[{"role":"assistant"}]}', 400, "'messages.0.content': content is missing"),
    "user calls": (
        b'{"messages":[{"role":"user","content":"a","tool_calls":[{"function":{"name":"f","arguments":""}}]}]}',
        400,
        "'messages.0.tool_calls': only an assistant's message has tool_calls",
    ),
    "tool calls": (
        b'{"messages":[{"role":"user","content":"a"},'
        b'{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},'
        b'{"role":"tool","content":"1"}]}',
        400,
        "does not render tool calls",
    ),
    "tool choice": (
        b'{"messages":[{"role":"user","content":"a"}],"tool_choice":"required"}',
        400,
        "'tool_choice': input should be 'auto'",
    ),
    "penalty": (
        b'{"messages":[{"role":"user","content":"a"}],"presence_penalty":1}',
        400,
        "presence_penalty",
    ),
    "over the context": (
        json.dumps({"messages": [{"role": "user", "content": "rain " * 2000}]}).encode(),
        400,
        "they may have 1024",
    ),
    "too large": (b" " * 70000, 413, "larger than 65536"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_request_is_told_and_the_server_lives_on(
    address: str, client: openai.OpenAI, name: str
) -> None:
    body, status, words = BAD_BODIES[name]
    answer = httpx.post(f"{address}/v1/chat/completions", content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert ask(client, max_tokens=1).choices


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], [-1], [10**6], ["a", [1]], {"a": 1}])
def test_bad_prompts(address: str, prompt: object) -> None:
    answer = httpx.post(f"{address}/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")


def test_unknown_paths_and_methods(address: str) -> None:
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["message"] == "GET /v1/nothing: Not Found"
    answer = httpx.get(f"{address}/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_foreign_host_name_is_refused(address: str) -> None:
    answer = httpx.get(f"{address}/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 400
    assert "does not answer" in answer.json()["error"]["message"]
    assert httpx.get(f"{address}/v1/models", headers={"host": "[::1]:8000"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
def test_a_page_of_another_site_cannot_post(address: str, headers: dict[str, str]) -> None:
    body = {"messages": ASK, "max_tokens": 1}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 403
    same = {"origin": address, "sec-fetch-site": "same-origin"}
    assert httpx.post(f"{address}/v1/chat/completions", json=body, headers=same).status_code == 200


def test_a_vanishing_temperature_is_greedy_and_harms_nobody(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, client, max_tokens=200, temperature=1)
        cold = ask(client, temperature=1e-40)
    assert cold.choices[0].message.content == ask(client, temperature=0).choices[0].message.content
    assert other.result().usage.completion_tokens > 0


def test_api_key(start: Start) -> None:
    address = start(api_key="열쇠-key")
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = httpx.post(f"{address}/v1/chat/completions", json={"messages": ASK}, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{address}/metrics", headers=headers).status_code == 401
    right = {"authorization": "Bearer 열쇠-key".encode()}
    assert httpx.get(f"{address}/v1/models", headers=right).status_code == 200
    lower = {"authorization": "bearer 열쇠-key".encode()}
    assert httpx.get(f"{address}/v1/models", headers=lower).status_code == 200
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_room(start: Start, stream: bool) -> None:
    address = start(max_tokens=900)
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(
        {"messages": ASK, "n": 8, "max_tokens": 900, "temperature": 2, "stream": stream}
    ).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: metric(address, "alignloop_running_completions") > 0)
    wait_until(lambda: metric(address, "alignloop_open_requests") == 0)
    assert metric(address, "alignloop_cancelled_total") == 1
    assert metric(address, "alignloop_disconnects_total") == 1
    assert metric(address, "alignloop_stored_tokens") == 0
    assert metric(address, "alignloop_completion_tokens_total") < 8 * 900


@pytest.mark.parametrize("part", [b"", b'{"mess'])
def test_a_body_that_does_not_come_or_breaks_off(start: Start, part: bytes) -> None:
    address = start(seconds=0.2)
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + part)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + part)
    name = 'alignloop_requests_total{path="/v1/completions"'
    wait_until(lambda: metric_or_zero(address, name + ',status="499"}') == 1)


def metric_or_zero(address: str, name: str) -> float:
    return metric(address, name) if name in httpx.get(f"{address}/metrics").text else 0.0


def test_time_is_limited(start: Start) -> None:
    address = start(seconds=0.3)
    body = {"messages": ASK, "n": 16, "max_tokens": 900, "temperature": 2}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"
    with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.APIError, match=r"longer than 0\.3 s"):
            list(ask(client, n=16, max_tokens=900, temperature=2, stream=True))
        wait_until(lambda: metric(address, "alignloop_stored_tokens") == 0)
        assert ask(client, max_tokens=1).choices


def test_the_queue_is_limited(start: Start) -> None:
    address = start(max_open=1)
    body = {"messages": ASK, "n": 8, "max_tokens": 900, "temperature": 2, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as first:
        assert first.status_code == 200
        second = httpx.post(f"{address}/v1/chat/completions", json=body)
        assert second.status_code == 429
        assert second.headers["retry-after"] == "1"
        assert second.json()["error"]["type"] == "rate_limit_error"
    wait_until(lambda: metric(address, "alignloop_open_requests") == 0)
    assert httpx.post(f"{address}/v1/chat/completions", json={"messages": ASK, "max_tokens": 1}).is_success


def test_metrics_count_answers(start: Start) -> None:
    address = start()
    body = {"messages": ASK, "max_tokens": 3, "temperature": 0}
    usage = httpx.post(f"{address}/v1/chat/completions", json=body).json()["usage"]
    httpx.get(f"{address}/nowhere")
    text = httpx.get(f"{address}/metrics").text
    assert 'alignloop_requests_total{path="/v1/chat/completions",status="200"} 1' in text
    assert 'alignloop_requests_total{path="other",status="404"} 1' in text
    assert metric(address, "alignloop_prompt_tokens_total") == usage["prompt_tokens"]
    assert metric(address, "alignloop_completion_tokens_total") == usage["completion_tokens"]
    assert metric(address, "alignloop_first_token_seconds_count") == 1
