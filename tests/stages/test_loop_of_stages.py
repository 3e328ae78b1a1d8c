"""The loop on the tiny model: every offline stage, its results, and what it refuses."""

import json
import math

import pytest
import torch

from alignloop import api
from alignloop.config import (
    BestOfNConfig,
    EvaluateConfig,
    FeedbackConfig,
    PreferenceConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
)
from alignloop.data.columns import read_records
from alignloop.errors import ConfigError, DataError, ModelError
from alignloop.model.load import load_model
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.listwise import Listwise
from alignloop.runs import Run, lineage
from alignloop.stages.answers import read_answers
from alignloop.stages.reward import RewardModel

TINY = {"model_name_or_path": "tiny"}
SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def loop(rows, tmp_path_factory):
    """SFT → answers → judgements, once for all tests of this file."""
    root = tmp_path_factory.mktemp("loop")
    sft = api.run(
        SFTConfig(
            dataset=str(rows / "demos.jsonl"),
            output_dir=str(root / "sft"),
            num_train_epochs=2,
            **TINY,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            warmup_ratio=0,
            eval_fraction=0,
        )
    )
    sample = api.run(
        SampleConfig(
            dataset=str(rows / "prompts.jsonl"),
            output_dir=str(root / "sample"),
            model_name_or_path=str(sft.path),
            max_new_tokens=24,
        )
    )
    pairs = root / "pairs.jsonl"
    lines = []
    for prompt, texts in read_answers(str(sample.path)):
        messages = [{"role": m.role, "content": m.content} for m in prompt.prompt]
        lines.append(json.dumps({"prompt": messages, "chosen": texts[0] + " a", "rejected": texts[1] + " b"}))
    pairs.write_text("\n".join(lines), encoding="utf-8")
    return root, sft, sample, pairs


def test_sft_lowers_the_loss_and_leaves_a_plain_folder(loop):
    _, sft, _, _ = loop
    losses = [row["loss"] for row in Run.open(sft.path).metrics()]
    assert losses[-1] < losses[0] - 0.2
    names = {p.name for p in sft.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert load_model(sft.path).model.num_parameters() == load_model("tiny").model.num_parameters()


def test_answers_keep_prompt_constraints_and_the_models_name(loop):
    _, sft, sample, _ = loop
    rows = read_answers(str(sample.path))
    assert len(rows) == 12
    for prompt, texts in rows:
        assert len(texts) == 4
        assert prompt.constraints
        assert prompt.provenance.details["model"] == str(sft.path)


def test_every_kind_of_judgement_is_marked_as_simulated(loop):
    root, _, sample, _ = loop
    run = api.run(FeedbackConfig(dataset=str(sample.path), output_dir=str(root / "labels"), kind="label"))
    labels = read_records(str(run.path))
    assert labels.kind == "label"
    assert len(labels.records) == 48
    assert {record.provenance.origin for record in labels.records} == {"simulated"}
    scores = api.run(FeedbackConfig(dataset=str(sample.path), output_dir=str(root / "scores"), kind="score"))
    assert read_records(str(scores.path)).kind == "rating"


@pytest.mark.parametrize("lora_r", [0, 4])
def test_dpo_starts_at_log_2_full_and_lora(loop, lora_r):
    root, sft, _, pairs = loop
    config = PreferenceConfig(
        dataset=str(pairs),
        output_dir=str(root / f"dpo{lora_r}"),
        model_name_or_path=str(sft.path),
        lora_r=lora_r,
        **SHORT,
    )
    run = api.run(config, DPO())
    first, second = Run.open(run.path).metrics()
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert second["loss"] != first["loss"]
    assert (run.model / ("adapter_config.json" if lora_r else "model.safetensors")).exists()
    start, after = load_model(sft.path).model, load_model(run.path).model
    moved = sum(
        float((a - b).abs().sum()) for a, b in zip(start.parameters(), after.parameters(), strict=True)
    )
    assert moved > 0


def test_kto_and_rankings_train(loop):
    root, sft, _, pairs = loop
    labels = root / "kto.jsonl"
    rankings = root / "rankings.jsonl"
    with labels.open("w") as one, rankings.open("w") as two:
        for i, line in enumerate(pairs.read_text().splitlines()):
            row = json.loads(line)
            one.write(
                json.dumps({"prompt": row["prompt"], "response": row["chosen"], "label": i % 2 == 0}) + "\n"
            )
            texts = [row["chosen"], row["rejected"], "third"]
            two.write(json.dumps({"prompt": row["prompt"], "responses": texts, "ranking": [1, 2, 2]}) + "\n")
    shared = {"model_name_or_path": str(sft.path), **SHORT}
    kto = api.run(PreferenceConfig(dataset=str(labels), output_dir=str(root / "kto"), **shared), KTO())
    assert next(Run.open(kto.path).metrics())["loss"] == pytest.approx(
        0.5, abs=1e-6
    )  # σ(0) for every row at π = ref
    ranked = api.run(
        PreferenceConfig(dataset=str(rankings), output_dir=str(root / "pl"), **shared), Listwise()
    )
    assert all(math.isfinite(row["loss"]) for row in Run.open(ranked.path).metrics())


def test_reward_model_is_normalised_and_scores_the_same_after_loading(loop):
    root, sft, _, pairs = loop
    config = RewardConfig(
        dataset=str(pairs), output_dir=str(root / "reward"), model_name_or_path=str(sft.path), **SHORT
    )
    run = api.run(config, BradleyTerry())
    model = RewardModel(run.path)
    records = read_records(str(pairs)).records
    scores = torch.tensor(model.score([r.prompt for r in records], [[r.chosen, r.rejected] for r in records]))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scores.std()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ModelError, match="is no reward model"):
        RewardModel(sft.path)


def test_best_of_n_trains_on_the_best_answers(loop, rows):
    root, sft, _, _ = loop
    config = BestOfNConfig(
        dataset=str(rows / "prompts.jsonl"),
        output_dir=str(root / "bon"),
        model_name_or_path=str(sft.path),
        reward_model=str(root / "reward"),
        n=3,
        max_new_tokens=16,
        **SHORT,
    )
    run = api.run(config)
    curve = run.record["results"]["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 3]
    assert curve[0]["reward"] < curve[1]["reward"] < curve[2]["reward"]
    assert curve[2]["kl"] == pytest.approx(math.log(3) - 2 / 3)
    chosen = read_records(str(run.path)).records
    assert {record.provenance.origin for record in chosen} == {"derived"}


def test_a_model_against_itself_wins_half(loop, rows):
    root, sft, _, _ = loop
    config = EvaluateConfig(
        dataset=str(rows / "held_out.jsonl"),
        output_dir=str(root / "same"),
        before=str(sft.path),
        after=str(sft.path),
        num_prompts=10,
        max_new_tokens=16,
    )
    results = api.run(config).record["results"]
    assert results["win_rate"]["value"] == 0.5
    assert results["metrics"]["kl"]["after"] == pytest.approx(0, abs=1e-5)
    assert results["num_prompts"] == 10


def test_lineage_leads_from_the_model_to_the_rows(loop, rows):
    root, _, sample, _ = loop
    text = json.dumps(lineage(sample), default=str)
    assert "demos.jsonl" in text
    assert "prompts.jsonl" in text
    assert str(root / "sft") in text


def test_dpo_without_a_reference_is_refused(loop):
    root, sft, _, pairs = loop
    config = PreferenceConfig(
        dataset=str(pairs), output_dir=str(root / "none"), model_name_or_path=str(sft.path), reference="none"
    )
    with pytest.raises(ConfigError, match="this objective needs one"):
        api.run(config, DPO())


def test_everything_too_long_is_one_error(loop):
    root, sft, _, pairs = loop
    config = PreferenceConfig(
        dataset=str(pairs), output_dir=str(root / "long"), model_name_or_path=str(sft.path), max_length=8
    )
    with pytest.raises(DataError, match=r"no row is left to train on \(12× overlength\)"):
        api.run(config, DPO())


def test_unusable_rows_are_counted_or_with_strict_an_error(loop):
    root, sft, _, _ = loop
    file = root / "mixed.jsonl"
    good = json.dumps({"prompt": "안녕", "chosen": "반가워요", "rejected": "몰라요"}, ensure_ascii=False)
    bad = json.dumps({"prompt": "안녕", "chosen": 7, "rejected": "몰라요"}, ensure_ascii=False)
    file.write_text(f"{good}\n{bad}\n{good}\n", encoding="utf-8")
    keys = {"dataset": str(file), "model_name_or_path": str(sft.path)}
    run = api.run(PreferenceConfig(output_dir=str(root / "lenient"), **keys), DPO())
    assert (run.record["results"]["data"]["rows"], run.record["results"]["data"]["used"]) == (3, 2)
    assert sum(run.record["results"]["data"]["dropped"].values()) == 1
    with pytest.raises(DataError, match=r"mixed.jsonl:2: field 'chosen'"):
        api.run(PreferenceConfig(output_dir=str(root / "strict"), strict=True, **keys), DPO())


def test_equally_good_answers_are_no_feedback(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {
        "prompt": "Say it.",
        "responses": ["a b c d e f", "a b c d e g"],
        "constraints": [{"kind": "max_words", "limit": 50}],
    }
    file.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="none of 1 prompts has answers of different quality"):
        api.run(FeedbackConfig(dataset=str(file), output_dir=str(tmp_path / "out")))
