"""The reward bench and averaged reward models, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alignloop.config import RewardBenchConfig
from alignloop.errors import DataError, ModelError
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.scorer import load_head
from alignloop.model.tiny import tiny_model
from alignloop.records import Message, Preference, Ranking
from alignloop.runs import Run
from alignloop.stages.reward_bench import best_and_worst
from alignloop.stages.reward_model import RewardModel
from tests.stages.task import run_stage

P = (Message("user", "q"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model, pairs in two subsets and rankings of four."""
    folder = tmp_path_factory.mktemp("bench")
    save_model(*tiny_model(), folder / "start")
    pairs = [
        {
            "prompt": f"질문 {i}",
            "chosen": "yes. rain falls",
            "rejected": "no",
            "subset": "가" if i % 2 else "b",
        }
        for i in range(8)
    ]
    ranked = [
        {"prompt": f"q {i}", "responses": ["one", "two", "three", "four"], "ranking": [2, 1, 3, 3]}
        for i in range(4)
    ]
    for name, rows in (("pairs", pairs), ("ranked", ranked)):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for seed, head in ((1, 7), (2, 7), (3, 8)):
        run_stage(
            "reward",
            {
                "model_name_or_path": str(folder / "start"),
                "dataset": str(folder / "pairs.jsonl"),
                "output_dir": str(folder / f"reward{seed}"),
                "per_device_train_batch_size": 4,
                "learning_rate": 3e-3,
                "seed": seed,
                "head_seed": head,
                "num_threads": 1,
            },
        )
    return folder


def bench(folder: Path, out: Path, **more: object) -> Run:
    keys = {"reward_model": str(folder / "reward1"), "dataset": str(folder / "pairs.jsonl")}
    return run_stage(
        "reward_bench", {**keys, "output_dir": str(out), "num_threads": 1, "bootstrap": 1000, **more}
    )


def test_two_models_side_by_side(folder: Path, tmp_path: Path) -> None:
    results = bench(folder, tmp_path / "b", before=str(folder / "reward2")).record["results"]
    row = results["metrics"]["accuracy"]
    assert row["after_interval"][0] <= row["after"] <= row["after_interval"][1]
    assert row["higher_is_better"] is True
    assert 0 <= row["before"] <= 1
    assert [row["subset"] for row in results["by_subset"]] == ["b", "가"]
    assert sum(row["pairs"] for row in results["by_length"]) == 8
    assert [row["probe"] for row in results["probes"]] == ["longer", "bullets", "bold", "flattery"]
    assert "accuracy_where_shorter_is_better" not in results["metrics"]  # chosen is longer in all rows
    assert results["accuracy_if_longer_wins"] == 1.0
    assert len(results["prompts"]) == 6


def test_a_probe_is_the_reward_of_the_changed_text(folder: Path, tmp_path: Path) -> None:
    probe = bench(folder, tmp_path / "b", probes=["longer"]).record["results"]["probes"][0]
    model = RewardModel(folder / "reward1")
    prompts = [(Message("user", f"질문 {i}"),) for i in range(8)]
    plain = np.asarray(model.score(prompts, [["yes. rain falls", "no"]] * 8))
    twice = ["yes. rain falls\n\nIn other words: yes. rain falls", "no\n\nIn other words: no"]
    changed = np.asarray(model.score(prompts, [twice] * 8))
    assert probe["shift"] == pytest.approx((changed - plain).mean(), abs=1e-4)


def test_rankings_have_best_of_four_and_ties(folder: Path, tmp_path: Path) -> None:
    metrics = bench(folder, tmp_path / "b", dataset=str(folder / "ranked.jsonl")).record["results"]["metrics"]
    assert {"best_of_4", "tie_separation", "accuracy"} <= metrics.keys()
    model = RewardModel(folder / "reward1")
    texts = ["one", "two", "three", "four"]
    scores = np.asarray(model.score([(Message("user", f"q {i}"),) for i in range(4)], [texts] * 4))
    assert metrics["best_of_4"]["after"] == pytest.approx((scores.argmax(1) == 1).mean())
    right = [[s[i] > s[j] for i, j in ((1, 0), (0, 2), (0, 3), (1, 2), (1, 3))] for s in scores]
    assert metrics["accuracy"]["after"] == pytest.approx(np.mean(right))


def test_best_and_worst() -> None:
    assert best_and_worst(Preference(P, "a", "b")) == ("a", "b")
    assert best_and_worst(Preference(P, "a", "b", probability=0.2)) == ("b", "a")
    assert best_and_worst(Preference(P, "a", "b", probability=0.5)) is None
    assert best_and_worst(Ranking(P, ("a", "b", "c"), (2, 3, 1))) == ("c", "b")
    assert best_and_worst(Ranking(P, ("a", "b"), (1, 1))) is None


def test_rows_without_comparisons_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "q", "completion": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="reads preferences or rankings"):
        bench(folder, tmp_path / "b", dataset=str(file))
    assert RewardBenchConfig.model_fields["before"].default is None


def average(folder: Path, out: Path, names: list[str], **more: object) -> Run:
    models = [str(folder / name) for name in names]
    return run_stage("average_rewards", {"models": models, "output_dir": str(out), "num_threads": 1, **more})


def test_an_average_is_the_mean_of_the_weights(folder: Path, tmp_path: Path) -> None:
    run = average(folder, tmp_path / "a", ["reward1", "reward2"])
    one, two, mean = (
        dict(load_model(p).model.named_parameters())
        for p in (folder / "reward1", folder / "reward2", run.path)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)
    for name, parameter in mean.items():
        torch.testing.assert_close(parameter, (one[name] + two[name]) / 2)
    heads = [load_head(p / "model").gain for p in (folder / "reward1", folder / "reward2", run.path)]
    torch.testing.assert_close(heads[2], (heads[0] + heads[1]) / 2)
    assert run.record["results"]["num_models"] == 2


def test_an_average_is_measured_and_rescaled_on_rows(folder: Path, tmp_path: Path) -> None:
    run = average(folder, tmp_path / "a", ["reward1", "reward2"], dataset=str(folder / "pairs.jsonl"))
    assert run.record["results"]["held_out"]["pairs"] == 8
    prompts = [(Message("user", f"질문 {i}"),) for i in range(8)]
    scores = np.asarray(RewardModel(run.path).score(prompts, [["yes. rain falls", "no"]] * 8))
    assert (scores.mean(), scores.std(ddof=1)) == pytest.approx((0, 1), abs=1e-3)


def test_heads_that_began_differently_are_not_averaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one head_seed"):
        average(folder, tmp_path / "a", ["reward1", "reward3"])
    with pytest.raises(ModelError, match="at least two"):
        average(folder, tmp_path / "b", ["reward1"])
