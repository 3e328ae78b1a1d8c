"""Before against after: its numbers from the models' own, and what of it is computed once."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from alignloop import api
from alignloop.config import CompareConfig, EvaluateConfig
from alignloop.errors import DataError
from alignloop.model.load import load_model
from alignloop.records import Message
from alignloop.stages import local
from alignloop.stages.common import inference_encoder

QUESTIONS = [
    "How do bees make honey?",
    "나무는 왜 푸른가요?",
    "Name a colour.",
    "Write a list of three animals.",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))


def evaluated(folder: Path, name: str, **keys: Any) -> dict[str, Any]:
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    shared = {"dataset": str(data), "output_dir": str(folder / name), "max_new_tokens": 12}
    given = {"before": "tiny:3", "after": "tiny:4"} | shared | keys
    return api.run(EvaluateConfig(**given)).record["results"]


def log_ratio_of_greedy_answers() -> float:
    """log π_after(y) − log π_before(y) of the new model's answers, by transformers alone, float64."""
    before, after = (load_model(name, dtype="float64", device="cpu") for name in ("tiny:3", "tiny:4"))
    ratios = []
    for question in QUESTIONS:
        prompt = inference_encoder(after).prompt((Message("user", question),)).tolist()
        whole = after.model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=after.tokenizer.pad_token_id,
        )
        sums = []
        for loaded in (after, before):
            with torch.no_grad():
                logits = loaded.model(whole).logits[0, len(prompt) - 1 : -1]
            answer = whole[0, len(prompt) :, None]
            sums.append(float(logits.log_softmax(-1).gather(1, answer).sum()))
        ratios.append(sums[0] - sums[1])
    return statistics.mean(ratios)


@pytest.fixture
def rows_run(monkeypatch) -> list[str]:
    """Names the passes over packed rows; generation makes none."""
    passes: list[str] = []
    original = local.sequence_logprobs

    def counting(model, groups, budget):
        passes.append("packed")
        return original(model, groups, budget)

    monkeypatch.setattr(local, "sequence_logprobs", counting)
    return passes


def test_kl_needs_no_forward_pass_of_its_own(tmp_path, rows_run):
    kl = evaluated(tmp_path, "one")["metrics"]["kl"]
    assert kl["after"] == pytest.approx(log_ratio_of_greedy_answers(), abs=1e-4)
    assert abs(kl["after"]) > 0.05
    assert rows_run == []


def test_kl_is_the_same_from_the_engine_and_from_packed_rows(tmp_path, rows_run, monkeypatch):
    first = evaluated(tmp_path, "one", temperature=1.0)["metrics"]["kl"]
    assert rows_run == []
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(local.Local, "_keep_logprobs", lambda *_: None)
    second = evaluated(tmp_path, "two", temperature=1.0)["metrics"]["kl"]
    assert rows_run == ["packed", "packed"]
    assert second["after"] == pytest.approx(first["after"], abs=1e-4)
    # bootstrap-t divides by what the prompts of a resample vary by, which makes rounding larger
    assert second["after_interval"] == pytest.approx(first["after_interval"], rel=2e-4, abs=1e-3)


def test_log_probs_of_a_changed_distribution_are_not_taken_for_the_models_own(tmp_path, rows_run):
    cut = evaluated(tmp_path, "cut", temperature=1.0, top_k=1)["metrics"]["kl"]
    assert rows_run == ["packed"]  # the new model's; the old one reads its answers while it samples
    greedy = evaluated(tmp_path, "greedy")["metrics"]["kl"]
    assert cut["after"] == pytest.approx(greedy["after"], abs=1e-4)  # top-1 draws the greedy answers


def test_a_model_against_itself_is_asked_once_and_differs_by_nothing(tmp_path, rows_run, asked):
    results = evaluated(tmp_path, "same", before="tiny:4")
    assert asked == [4]
    assert rows_run == []
    assert results["metrics"]["kl"]["after"] == 0
    evaluated(tmp_path, "again", before="tiny:4")
    assert asked == [4]


def test_it_says_what_a_comparison_of_the_two_says(tmp_path):
    results = evaluated(tmp_path, "one", temperature=1.0)
    sets = [{"kind": "prompts", "path": str(tmp_path / "prompts.jsonl")}]
    keys = {"temperature": 1.0, "max_new_tokens": 12, "output_dir": str(tmp_path / "two")}
    compared = api.run(CompareConfig(models=("tiny:3", "tiny:4"), sets=sets, **keys)).record["results"]
    assert results["models"] == compared["models"] == ["tiny:3", "tiny:4"]
    rows = {row["name"]: row["models"]["tiny:4"] for row in compared["comparison"]}
    length = results["metrics"]["length"]
    assert length["change"] == rows["prompts.length"]["difference"] == length["after"] - length["before"]
    assert length["change_interval"] == rows["prompts.length"]["difference_interval"]
    empty = results["metrics"]["empty"]
    assert (empty["change_interval"], empty["verdict"]) == (
        rows["prompts.empty"]["difference_interval"],
        rows["prompts.empty"]["verdict"],
    )
    assert [row["name"] for row in results["comparison"]] == ["length", "empty"]


def test_perplexity_is_compared_text_by_text(tmp_path):
    texts = tmp_path / "texts.jsonl"
    rows = [{"text": f"{word} " * 9} for word in ("red", "green", "blue", "나무", "bird")]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = evaluated(tmp_path, "one", perplexity_dataset=str(texts), require=("perplexity.change < 1e9",))
    row = run["metrics"]["perplexity"]
    low, high = row["change_interval"]
    assert row["change"] == pytest.approx(row["after"] / row["before"] - 1)
    assert low <= row["change"] <= high
    assert row["verdict"] == (
        "no difference shown" if low <= 0 <= high else "better" if high < 0 else "worse"
    )
    assert run["requirements"] == [{**run["requirements"][0], "met": True}]


def test_one_prompt_repeated_is_refused_before_an_answer(tmp_path):
    data = tmp_path / "same.jsonl"
    data.write_text('{"prompt": "hi"}\n' * 4, encoding="utf-8")
    with pytest.raises(DataError, match=r"same\.jsonl: an interval needs at least 2 different prompts"):
        evaluated(tmp_path, "run", dataset=str(data))
