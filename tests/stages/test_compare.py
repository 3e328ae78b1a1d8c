"""Any number of models on any number of sets, on the tiny model and a small server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignloop import api
from alignloop.config import CompareConfig, EvaluateConfig, resolve
from alignloop.data.columns import write_records
from alignloop.errors import AlignLoopError, ConfigError, DataError, EngineError, ModelError, UserError
from alignloop.evaluation.gate import RequirementError
from alignloop.judges.adviser import Reply
from alignloop.judges.certify import CertificateMeasure
from alignloop.model.load import load_model
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.records import Demonstration, Message
from alignloop.runs import Run
from alignloop.stages import candidates, judging, local
from tests.judges.scripted import Scripted, by_taste


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained tiny model, recorded answers, and a set of every kind."""
    root = tmp_path_factory.mktemp("compare")
    save_model(*tiny_model(seed=1), root / "trained")
    letters = [{"prompt": letter} for letter in "abc"]
    write(root / "prompts.jsonl", letters)
    constraint = [{"kind": "lowercase"}]
    write(root / "instructions.jsonl", [{**row, "constraints": constraint} for row in letters])
    requests = [{"prompt": f"{word} 해 줘", "safe": i % 2 == 0} for i, word in enumerate("가나다라")]
    write(root / "harm.jsonl", requests)
    truth = {"best_answer": "b", "correct_answers": ["b"], "incorrect_answers": ["x y", "z"]}
    write(root / "truth.jsonl", [{**truth, "question": f"b{i}"} for i in range(3)])
    mmlu = [{"question": f"q{i}", "choices": ["one", "two", "둘"], "answer": "ABC"[i % 3]} for i in range(4)]
    write(root / "mmlu.jsonl", mmlu)
    write(root / "gsm8k.jsonl", [{"question": f"1+{i}?", "answer": f"… #### {i + 1}"} for i in range(3)])
    write(root / "texts.jsonl", [{"text": f"some text number {i}, 한국어" * (i + 1)} for i in range(4)])
    answers = [Demonstration(p, "b") for p in prompts_of(root)]
    write_records(root / "recorded.jsonl", answers)
    return root


def prompts_of(root):
    from alignloop.evaluation.sets import read_prompts

    return [p.prompt for p in read_prompts(str(root / "prompts.jsonl"))]


def config(root, out, models, sets, **keys):
    keys = {"max_new_tokens": 4, "num_threads": 1, "token_budget": 2048, **keys}
    entries = [{"kind": kind, "path": str(root / file)} for kind, file in sets.items()]
    return CompareConfig(output_dir=str(out), models=models, sets=entries, **keys)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))


def test_every_kind_of_set_in_one_table(place, tmp_path):
    sets = {
        "instructions": "instructions.jsonl",
        "harmlessness": "harm.jsonl",
        "truthfulness": "truth.jsonl",
        "toxicity": "prompts.jsonl",
        "multiple_choice": "mmlu.jsonl",
        "exact": "gsm8k.jsonl",
        "perplexity": "texts.jsonl",
    }
    models = ["tiny", {"model": str(place / "trained"), "name": "학습"}]
    results = api.run(config(place, tmp_path / "out", models, sets)).record["results"]
    names = [row["name"] for row in results["comparison"]]
    assert names == [
        "instructions",
        "harmlessness.compliance_if_safe",
        "harmlessness.refusal_if_unsafe",
        "harmlessness.degenerate",
        "truthfulness.mc1",
        "truthfulness.mc2",
        "toxicity",
        "toxicity.degenerate",
        "multiple_choice",
        "exact",
        "perplexity",
    ]
    assert results["baseline"] == "tiny"
    for row in results["comparison"]:
        assert set(row["models"]) == {"tiny", "학습"}
        low, high = row["models"]["학습"]["difference_interval"]
        assert low <= row["models"]["학습"]["difference"] <= high
    (win,) = results["win_rates"]
    assert (win["judge"], win["model"], win["against"]) == ("gold", "학습", "tiny")


def test_answers_are_sampled_once_and_found_again(place, tmp_path, asked):
    sets = {"prompts": "prompts.jsonl", "toxicity": "prompts.jsonl"}
    first = api.run(config(place, tmp_path / "one", [str(place / "trained")], sets))
    assert asked == [3]
    again = api.run(config(place, tmp_path / "two", [str(place / "trained"), "tiny"], sets))
    assert asked == [3, 3]  # the tiny model's
    rows = [row["completion"] for row in Run.open(first.path).samples()]
    assert rows[:3] == rows[3:] == [row["completion_before"] for row in Run.open(again.path).samples()][:3]
    api.run(config(place, tmp_path / "hot", [str(place / "trained")], sets, max_new_tokens=5))
    assert asked == [3, 3, 3]  # other settings, other answers


def test_evaluate_takes_the_answers_of_a_comparison_and_of_a_stopped_evaluation(place, tmp_path, monkeypatch):
    sets = {"instructions": "instructions.jsonl"}
    compared = api.run(config(place, tmp_path / "compared", ["tiny", str(place / "trained")], sets))
    monkeypatch.setattr(local, "generate", lambda *_, **__: pytest.fail("sampled again"))
    keys = {"max_new_tokens": 4, "num_threads": 1, "token_budget": 2048, "num_prompts": 3}
    run = api.run(
        EvaluateConfig(
            output_dir=str(tmp_path / "out"),
            dataset=str(place / "instructions.jsonl"),
            before="tiny",
            after=str(place / "trained"),
            **keys,
        )
    )
    for mine, theirs in zip(Run.open(run.path).samples(), Run.open(compared.path).samples(), strict=True):
        assert mine["prompt"] == theirs["prompt"]
        assert mine["completion"] == theirs["completion"]
        assert mine["completion_before"] == theirs["completion_before"]
    assert run.record["results"]["metrics"]["kl"]["after"] != 0


def test_one_model_only_is_shown_with_a_warning(place, tmp_path):
    run = api.run(config(place, tmp_path / "out", ["tiny"], {"exact": "gsm8k.jsonl"}))
    row = run.record["results"]["comparison"][0]["models"]["tiny"]
    assert "difference" not in row
    assert any("one model only" in text for text in run.record["warnings"])


def test_the_gate_stops_with_exit_code_5_and_keeps_the_results(place, tmp_path):
    models = [{"model": "tiny", "name": "start"}, {"model": str(place / "trained"), "name": "dpo"}]
    keys = {"require": ("dpo.exact.low >= 0", "dpo.exact > 0.9")}
    with pytest.raises(RequirementError, match=r"dpo\.exact > 0\.9 \(measured 0") as stopped:
        api.run(config(place, tmp_path / "out", models, {"exact": "gsm8k.jsonl"}, **keys))
    assert stopped.value.exit_code == 5
    record = Run.open(tmp_path / "out").record
    assert record["status"] == "failed"
    assert [row["met"] for row in record["results"]["requirements"]] == [True, False]
    with pytest.raises(ConfigError, match=r"'dpo\.exakt' was not measured; .* dpo\.exact"):
        api.run(config(place, tmp_path / "b", models, {"exact": "gsm8k.jsonl"}, require=("dpo.exakt > 0",)))


def test_a_missing_model_is_found_before_anything_is_sampled(place, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "generate", lambda *a, **k: pytest.fail("sampled"))
    for out, missing in (("a", "./gone"), ("b", str(tmp_path / "gone/deep/model"))):
        with pytest.raises(ModelError, match=r"no such file or folder|neither a folder nor"):
            api.run(config(place, tmp_path / out, ["tiny", missing], {"exact": "gsm8k.jsonl"}))


@pytest.mark.parametrize(("key", "message"), [("reward_model", "is no reward model"), ("labels", "no such")])
def test_a_wrong_judge_is_found_before_anything_is_sampled(place, tmp_path, monkeypatch, key, message):
    monkeypatch.setattr(local, "generate", lambda *a, **k: pytest.fail("sampled"))
    wrong = str(place if key == "reward_model" else tmp_path / "gone.jsonl")
    with pytest.raises(AlignLoopError, match=message):
        api.run(config(place, tmp_path / "c", ["tiny"], {"exact": "gsm8k.jsonl"}, **{key: wrong}))


def test_recorded_answers_must_cover_the_same_prompts(place, tmp_path):
    recorded = str(place / "recorded.jsonl")
    sets = {"prompts": "prompts.jsonl", "multiple_choice": "mmlu.jsonl"}
    run = api.run(config(place, tmp_path / "out", ["tiny", recorded], sets))
    rows = {row["name"]: row["models"] for row in run.record["results"]["comparison"]}
    assert rows["prompts.length"]["recorded.jsonl"]["value"] == 1.0
    assert rows["multiple_choice"]["recorded.jsonl"] == {"missing": "recorded answers have no log-probs"}
    with pytest.raises(DataError, match="has no answer to 3 of 3 prompts"):
        api.run(config(place, tmp_path / "b", ["tiny", recorded], {"exact": "gsm8k.jsonl"}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"models": [{"model": "tiny", "name": "x"}, {"model": "b", "name": "x"}]}, "two are called 'x'"),
        ({"models": ["tiny"], "baseline": "sft"}, "one of tiny is expected"),
        ({"models": ["tiny"], "bootstrap": 500}, "1000"),
    ],
)
def test_what_a_recipe_cannot_say(keys, message):
    with pytest.raises(ConfigError, match=message):
        resolve("compare", {"output_dir": "o", "sets": [{"kind": "exact", "path": "a"}], **keys})


def test_public_suites_come_through_their_own_harness_once(place, tmp_path, monkeypatch):
    calls = []

    def run_tasks(loaded, tasks, *, limit, seed):
        calls.append((loaded.name, tasks, limit))
        return {tasks[0]: [1.0, 0.0, 1.0] if loaded.name == "tiny" else [1.0, 1.0, 1.0]}

    monkeypatch.setattr(local, "run_tasks", run_tasks)
    models = ["tiny", str(place / "trained"), str(place / "recorded.jsonl")]
    for out in ("one", "two"):
        made = CompareConfig(
            output_dir=str(tmp_path / out),
            models=models,
            sets=[{"kind": "lm_eval", "path": "arc_easy, mmlu", "rows": 3, "margin": 0.02}],
        )
        rows = api.run(made).record["results"]["comparison"]
    assert calls == [(m, [t], 3) for m in models[:2] for t in ("arc_easy", "mmlu")]
    assert [row["name"] for row in rows] == ["lm_eval.arc_easy", "lm_eval.mmlu"]
    assert rows[0]["models"]["trained"]["difference"] == pytest.approx(1 / 3)
    assert rows[0]["models"]["recorded.jsonl"] == {"missing": "recorded answers have no log-probs"}


class Server(ThreadingHTTPServer):
    """Answers with the prompt's last word, upper case; `failures` counts down 503s, `broken` is for good."""

    failures = 0
    broken = False
    asked: list


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": [{"id": "policy"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.server.broken and len(self.server.asked) > 2:
            return self.reply({"error": {"message": "no such model"}}, 404)
        if "reject" in body["messages"][-1]["content"]:
            return self.reply({"error": {"message": "too long"}}, 400)
        if self.server.failures > 0:
            self.server.failures -= 1
            return self.reply({}, 503)
        text = body["messages"][-1]["content"].upper()
        self.reply({"choices": [{"message": {"content": text}}]})

    def reply(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_an_endpoint_is_asked_once_and_a_stopped_run_goes_on(place, tmp_path, server):
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    made = config(
        place, tmp_path / "out", [{"model": url, "name": "api"}, "tiny"], {"prompts": "prompts.jsonl"}
    )
    server.broken = True
    with pytest.raises(UserError, match="refuses model 'policy': 404 no such model"):
        api.run(made)
    server.broken, server.failures = False, 1
    before = len(server.asked)
    run = api.run(made)
    assert {row["completion_before"] for row in Run.open(run.path).samples()} == {"A", "B", "C"}
    assert len(server.asked) - before <= 3  # two were kept, one was asked again after a 503
    assert {body["model"] for body in server.asked} == {"policy"}
    asked = len(server.asked)
    params = SamplingParams(temperature=0.5, top_p=0.9, max_tokens=7, stop=("\n",), seed=3)
    served = candidates.open_served("api", url, "policy", "", params, tmp_path / "answers")
    assert served.answers([(Message("user", "e"),)]) == ["E"]
    body = server.asked[asked]
    assert {key: body[key] for key in ("temperature", "top_p", "max_tokens", "stop")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["\n"],
    }
    with pytest.raises(EngineError, match="api: the endpoint rejects 1 of 2 prompts: too long"):
        served.answers([(Message("user", "e"),), (Message("user", "reject"),)])


def test_endpoints_do_not_know_every_setting(place, tmp_path):
    made = config(
        place,
        tmp_path / "out",
        ["http://127.0.0.1:9/v1"],
        {"prompts": "prompts.jsonl"},
        top_k=4,
        temperature=1,
    )
    with pytest.raises(ConfigError, match="top_k, min_p and repetition_penalty"):
        api.run(made)


def test_an_endpoint_without_its_key_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    entry = {"model": "http://127.0.0.1:9/v1", "name": "api", "api_key_env": "MY_KEY"}
    with pytest.raises(ConfigError, match="MY_KEY holds no API key"):
        api.run(config(place, tmp_path / "out", [entry], {"prompts": "prompts.jsonl"}))


def test_a_judge_model_compares_answers(place, tmp_path, monkeypatch):
    """The judge likes long answers: the recorded "b" wins where tiny says nothing, else the longer one."""
    longer = by_taste(lambda text: len(text), "judge")
    monkeypatch.setattr(judging, "open_adviser", lambda source, **_: longer)
    write(tmp_path / "short.jsonl", [{"prompt": letter, "completion": "b"} for letter in "abc"])
    write(tmp_path / "long.jsonl", [{"prompt": letter, "completion": "b b b"} for letter in "abc"])
    models = [str(tmp_path / "short.jsonl"), str(tmp_path / "long.jsonl")]
    source = {"model": "judge", "certificate": "none"}
    made = config(place, tmp_path / "out", models, {"prompts": "prompts.jsonl"}, judge_model=source)
    run = api.run(made)
    (win,) = run.record["results"]["win_rates"]
    assert (win["judge"], win["model"], win["value"]) == ("judge_model", "long.jsonl", 1.0)
    assert win["same_in_both_orders"] == 1.0
    assert run.record["results"]["account"][0]["num_asked"] == 6  # three pairs in both orders
    assert any("without having been examined" in warning for warning in run.record["warnings"])
    # a judge that always takes the first one shown is a tie everywhere
    first = Scripted(lambda ask: Reply("", (1.0, 0.0, 0.0)), "judge")
    monkeypatch.setattr(judging, "open_adviser", lambda source, **_: first)
    again = config(place, tmp_path / "first", models, {"prompts": "prompts.jsonl"}, judge_model=source)
    (win,) = api.run(again).record["results"]["win_rates"]
    assert (win["value"], win["same_in_both_orders"]) == (0.5, 0.0)


def test_a_judge_model_needs_its_certificate(place, tmp_path, monkeypatch):
    adviser = by_taste(lambda text: len(text), "judge")
    monkeypatch.setattr(judging, "open_adviser", lambda source, **_: adviser)
    models, sets = [str(place / "recorded.jsonl")], {"prompts": "prompts.jsonl"}
    with pytest.raises(ConfigError, match="certificate"):
        resolve(
            "compare",
            {
                "output_dir": "o",
                "models": models,
                "sets": [{"kind": "exact", "path": "a"}],
                "judge_model": {"model": "judge"},
            },
        )
    rubric = judging.load_rubric("default")
    failed = CertificateMeasure("kappa", 0.1, 0.0, 0.2, 9, 0.2, passed=False)
    identity = f"{adviser.identity}|{rubric.identity}|auto|False"
    judging.write_certificate([judging.Certificate("judge", identity, (failed,))], tmp_path)
    source = {"model": "judge", "certificate": str(tmp_path)}
    with pytest.raises(ConfigError, match="judge_model: judge 'judge' failed its certification in kappa"):
        api.run(config(place, tmp_path / "out", models, sets, judge_model=source))


def test_answers_of_a_hub_model_are_those_of_its_revision(tmp_path, monkeypatch):
    snapshot = {"revision": "0a1"}
    monkeypatch.setattr(
        local,
        "try_to_load_from_cache",
        lambda name, file: str(tmp_path / name / "snapshots" / snapshot["revision"] / file),
    )
    opened: list[str] = []
    monkeypatch.setattr(local, "load_model", lambda name, **_: opened.append(name) or load_model("tiny"))
    asked = [(Message("user", "a"),)]

    def answer() -> None:
        local.Local("x", "somebody/model", local.SamplingParams(max_tokens=2)).answers(asked)

    generated = []
    original = local.generate
    monkeypatch.setattr(local, "generate", lambda *a, **k: generated.append(1) or original(*a, **k))
    answer()
    answer()
    assert (len(generated), opened) == (1, ["somebody/model"])
    snapshot["revision"] = "0a2"
    answer()
    assert len(generated) == 2
