"""The endpoint adviser against a real server of a tiny model, and against servers with faults."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from alignloop.errors import ConfigError, EngineError, UserError
from alignloop.judges.adviser import Ask, Cached
from alignloop.judges.endpoint import (
    EndpointAdviser,
    EndpointSettings,
    find_label,
    parse_answer,
    pause,
    read_key,
    request_body,
    retry_after,
)
from alignloop.judges.pairwise import AnswerPair, JudgeSettings, judge_pairs
from alignloop.judges.rubric import load_rubric
from alignloop.records import Message
from alignloop.serve.app import create_app
from tests.serve.conftest import running, tiny_policy

QUICK = {"retries": 2, "pause_s": 0.01, "timeout_s": 10.0}


def question(text: str = "Which?", *choices: str, **more: Any) -> Ask:
    return Ask((Message("user", text),), choices, **{"max_tokens": 8, **more})


def said(content: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion's body."""
    choice = {"message": {"content": content, **more}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


Behaviour = Callable[[dict[str, Any], int], tuple[int, Any, dict[str, str]]]


@contextmanager
def server(behave: Behaviour) -> Iterator[str]:
    """A server that answers as a function of (body, number of the request) says: (status, body, headers)."""
    counter = iter(range(1_000_000))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = next(counter)
            status, answer, headers = behave({**body, "key": self.headers.get("authorization")}, number)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that has gone is expected here
            pass

    made = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}/v1"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def adviser(url: str, **settings: Any) -> EndpointAdviser:
    return EndpointAdviser(EndpointSettings(url, **{"model": "m", **QUICK, **settings}))


def test_a_real_server_answers_and_counts() -> None:
    with running(create_app([tiny_policy()], api_key="secret")) as address:
        one = EndpointAdviser(EndpointSettings(f"{address}/v1", "tiny", api_key="secret", **QUICK))
        asks = [question(f"Say {k}", max_tokens=5, temperature=1.0, seed=k) for k in range(6)]
        replies = one.ask(asks)
        assert [r.fault for r in replies] == [""] * 6
        assert len({r.text for r in replies}) > 1
        assert one.ask(asks[:2]) == replies[:2]  # seeded
        assert replies[0].tokens_output == 5
        assert one.account.tokens_output == 40
        # a random model's text holds no label: a fault of that question, not of the run
        assert {r.fault for r in one.ask([question("A or B?", "A", "B")])} <= {"nonsense", ""}
        wrong = EndpointAdviser(EndpointSettings(f"{address}/v1", "tiny", api_key="wrong", **QUICK))
        with pytest.raises(UserError, match="401 the API key is missing or wrong"):
            wrong.ask(asks[:1])
        other = EndpointAdviser(EndpointSettings(f"{address}/v1", "gpt", api_key="secret", **QUICK))
        with pytest.raises(UserError, match="404 there is no such model"):
            other.ask(asks[:1])


def test_a_judge_behind_an_endpoint() -> None:
    def likes_blue(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        assert body["temperature"] == 0
        text = body["messages"][1]["content"]
        blue_first = text.index("blue") < text.index("red")
        return 200, said("A" if blue_first else "Answer: **B**."), {}

    with server(likes_blue) as url:
        judge = adviser(url, price_input=3.0, price_output=15.0)
        pair = AnswerPair((Message("user", "Name a colour."),), "red", "blue")
        (verdict,) = judge_pairs(judge, [pair], load_rubric("default"))
    assert (verdict.probability, verdict.orders) == (0.0, (0.0, 0.0))
    # two calls of 10 and 2 tokens: 2·(10·3 + 2·15)/10⁶
    assert judge.account.cost == pytest.approx(120e-6)


def test_top_logprobs_make_soft_labels() -> None:
    def soft(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        assert body["top_logprobs"] == 5
        tops = [{"token": t, "logprob": math.log(p)} for t, p in ((" A", 0.6), ("B", 0.2), ("x", 0.2))]
        answer = said("So: A")
        answer["choices"][0]["logprobs"] = {
            "content": [{"token": "So", "top_logprobs": []}, {"token": " A", "top_logprobs": tops}]
        }
        return 200, answer, {}

    with server(soft) as url:
        (reply,) = adviser(url, top_logprobs=5).ask([question("?", "A", "B")])
    assert reply.probabilities == pytest.approx((0.75, 0.25))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", 0),
        (" b\nB.", 1),
        ("**A**", 0),
        ("Answer: B", 1),
        ("B가 더 낫습니다.", 1),
        ("a", None),
        ("A or B", None),
        ("Apple", None),
        ("", None),
    ],
)
def test_labels_are_read_strictly(text: str, label: int | None) -> None:
    assert find_label(text, ("A", "B")) == label


def test_grades_are_read() -> None:
    assert find_label("4/5", ("1", "2", "3", "4", "5")) == 3
    assert find_label("between 3 and 4", ("1", "2", "3", "4", "5")) is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(status: int) -> None:
    def second_time(_: dict[str, Any], number: int) -> tuple[int, Any, dict[str, str]]:
        return (
            (status, {"error": {"message": "busy"}}, {"retry-after": "0.01"})
            if number == 0
            else (200, said("A"), {})
        )

    with server(second_time) as url:
        judge = adviser(url)
        assert judge.ask([question("?", "A", "B")])[0].probabilities == (1.0, 0.0)
    assert judge.account.num_retries == 1


def test_the_servers_wish_to_wait_is_honoured() -> None:
    def busy_once(_: dict[str, Any], number: int) -> tuple[int, Any, dict[str, str]]:
        return (429, {}, {"retry-after": "0.4"}) if number == 0 else (200, said("A"), {})

    with server(busy_once) as url:
        started = time.monotonic()
        adviser(url).ask([question("?", "A", "B")])
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2015 07:28:05 GMT", 5.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),  # has passed
        ("Thu, 22 Oct 2015 07:28:00 GMT", 60.0),  # a day: bounded
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float) -> None:
    assert retry_after(header, 1445412480.0) == seconds  # 2015-10-21 07:28:00 UTC


def test_replies_under_way_when_another_fails_are_kept() -> None:
    """The refused question fails at once; the slow ones were sent already and are paid for."""

    def one_is_refused(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        if body["messages"][0]["content"] == "2?":
            return 401, {"error": {"message": "no"}}, {}
        time.sleep(0.3)
        return 200, said("A"), {}

    kept: list[int] = []
    asks = [question(f"{k}?", "A", "B") for k in range(20)]
    with server(one_is_refused) as url:
        judge = adviser(url, concurrency=3)
        with pytest.raises(UserError, match="401 no"):
            judge.ask(asks, on_reply=lambda k, _: kept.append(k))
    assert {0, 1} <= set(kept)
    assert len(kept) < 10
    assert judge.account.num_asked == len(kept)


def test_without_a_name_the_first_model_served_is_asked() -> None:
    with running(create_app([tiny_policy()])) as address:
        one = EndpointAdviser(EndpointSettings(f"{address}/v1", **QUICK))
        assert one.ask([question("Say", max_tokens=3)])[0].tokens_output > 0
    with server(lambda *_: (200, said("A"), {})) as url, pytest.raises(EngineError, match="which models"):
        adviser(url, model="").ask([question("?", "A", "B")])


def test_sampling_settings_are_sent_where_they_say_something() -> None:
    settings = EndpointSettings("http://x/v1", "m")
    plain = request_body(question(), settings)
    assert not {"top_p", "stop", "logprobs"} & set(plain)
    body = request_body(question(top_p=0.9, stop=("\n",)), settings)
    assert (body["top_p"], body["stop"]) == (0.9, ["\n"])


def test_a_key_is_read_from_its_variable_and_written_nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret-key")
    keys: list[str] = []

    def sees(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        keys.append(body["key"])
        return 200, said("A"), {}

    with server(sees) as url:
        one = adviser(url, api_key=read_key("JUDGE_KEY"))
        Cached(one, tmp_path).ask([question("?", "A", "B")])
    assert keys == ["Bearer s3cret-key"]
    written = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*") if file.is_file())
    assert written
    assert "s3cret" not in written + one.identity + repr(one.account)
    assert read_key("") == ""
    monkeypatch.setenv("JUDGE_KEY", "")
    with pytest.raises(ConfigError, match="JUDGE_KEY holds no API key"):
        read_key("JUDGE_KEY")


def test_pauses_double_and_are_bounded() -> None:
    pauses = [pause(0.5, k, question()) for k in range(12)]
    for k, seconds in enumerate(pauses[:6]):
        assert 0.75 * 0.5 * 2**k <= seconds <= 1.25 * 0.5 * 2**k
    assert max(pauses) <= 60
    assert pauses == [pause(0.5, k, question()) for k in range(12)]


def test_a_server_that_is_down_is_an_engine_error_and_nothing_is_lost(tmp_path) -> None:
    def dies(_: dict[str, Any], number: int) -> tuple[int, Any, dict[str, str]]:
        return (200, said("A"), {}) if number < 3 else (503, {"error": {"message": "gone"}}, {})

    asks = [question(f"{k}?", "A", "B") for k in range(5)]
    with (
        server(dies) as url,
        pytest.raises(EngineError, match=r"no answer in 3 attempts \(status 503 gone\)"),
    ):
        Cached(adviser(url, concurrency=1), tmp_path).ask(asks)
    closed = adviser(url)
    with pytest.raises(EngineError, match="ConnectError"):
        closed.ask(asks[:1])
    back = EndpointAdviser(EndpointSettings(url, "m", **QUICK))
    # the same address is the same judge: three answers come from the cache, two would be asked
    cached = Cached(back, tmp_path)
    assert [r.text for r in cached.ask(asks[:3])] == ["A"] * 3
    assert back.account.num_asked == 0


def test_a_slow_server_is_an_engine_error() -> None:
    def sleeps(_: dict[str, Any], __: int) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.5)
        return 200, said("A"), {}

    with server(sleeps) as url, pytest.raises(EngineError, match=r"no answer in 2 attempts \(ReadTimeout"):
        adviser(url, timeout_s=0.1, retries=1).ask([question("?", "A", "B")])


@pytest.mark.parametrize("answer", [b"<html>", b"", {"choices": []}, [1], {"choices": [{"message": {}}]}])
def test_answers_that_are_no_completions(answer: Any) -> None:
    with (
        server(lambda *_: (200, answer, {})) as url,
        pytest.raises(EngineError, match="no chat completion"),
    ):
        adviser(url, retries=1).ask([question("?", "A", "B")])


@pytest.mark.parametrize("tops", [5, ["x", 5], [{"token": "A"}], [{"token": 1, "logprob": "x"}], {}])
def test_odd_logprobs_are_left_aside(tops: Any) -> None:
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "top_logprobs": tops}]}}
    reply = parse_answer(json.dumps({"choices": [choice]}).encode(), question("?", "A", "B"))
    assert reply is not None
    assert (reply.fault, reply.probabilities) == ("", (1.0, 0.0))


def test_odd_counts_are_no_completion() -> None:
    body = b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": 1e999}}'
    assert parse_answer(body, question("?", "A", "B")) is None


def test_refusals_nonsense_and_bad_requests_are_faults_of_one_question() -> None:
    def by_question(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        return {
            "0?": (200, said(None, refusal="I will not judge this."), {}),
            "1?": (200, said("I'd rather not say."), {}),
            "2?": (400, {"error": {"message": "context length"}}, {}),
            "3?": (
                200,
                {**said(""), "choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]},
                {},
            ),
            "4?": (200, said("B"), {}),
        }[body["messages"][0]["content"]]

    with server(by_question) as url:
        replies = adviser(url).ask([question(f"{k}?", "A", "B") for k in range(5)])
    assert [r.fault for r in replies] == ["refused", "nonsense", "rejected", "refused", ""]
    assert replies[4].probabilities == (0.0, 1.0)


def test_requests_run_side_by_side_and_not_more() -> None:
    running_now, most, lock = [0], [0], threading.Lock()

    def slow(_: dict[str, Any], __: int) -> tuple[int, Any, dict[str, str]]:
        with lock:
            running_now[0] += 1
            most[0] = max(most[0], running_now[0])
        time.sleep(0.05)
        with lock:
            running_now[0] -= 1
        return 200, said("A"), {}

    with server(slow) as url:
        adviser(url, concurrency=4).ask([question(f"{k}?", "A", "B") for k in range(12)])
    assert 2 <= most[0] <= 4


def test_a_budget_stops_the_work() -> None:
    with server(lambda *_: (200, said("A"), {})) as url:
        judge = adviser(url, price_input=1e5, budget=2.5, concurrency=1)  # 1 for each question
        with pytest.raises(EngineError, match="has cost"):
            judge.ask([question(f"{k}?", "A", "B") for k in range(9)])
    # the third passed the budget; a fourth may have been under way, and what is paid is counted
    assert judge.account.num_asked in (3, 4)


def test_reasons_through_an_endpoint() -> None:
    def thinks(body: dict[str, Any], _: int) -> tuple[int, Any, dict[str, str]]:
        if len(body["messages"]) == 2:
            return 200, said("둘 다 짧다."), {}
        assert body["messages"][2] == {"role": "assistant", "content": "둘 다 짧다."}
        return 200, said("C"), {}

    with server(thinks) as url:
        pair = AnswerPair((Message("user", "색깔 하나만 말해 줘."),), "파랑", "빨강")
        (verdict,) = judge_pairs(adviser(url), [pair], load_rubric("default"), JudgeSettings(reasons=True))
    assert verdict.probability == 0.5
    assert verdict.reasons == ("둘 다 짧다.", "둘 다 짧다.")
