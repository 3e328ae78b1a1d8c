"""The audit on real run folders: one of the task's PPO, and one that fools a reward by length."""

import json

import numpy as np
import pytest

from alignloop import api
from alignloop.config import AuditConfig
from alignloop.errors import RunError
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.runs import Run
from tests.report.fake_runs import make_run
from tests.stages.task import prompts_file, recipe, run_stage


def length_reward(samples):
    """A proxy that pays for words."""
    return [0.1 * len(s.completion.split()) for s in samples]


PHRASES = ["red car", "blue house", "old tree", "warm bread", "cold lake", "green hill", "long road"]


def fooled_run(folder, dataset):
    """Gold falls while the proxy rises with length; the kept completions grow."""
    rng = np.random.default_rng(0)
    metrics, samples = [], []
    for step in range(1, 81):
        d = step / 20
        reward, gold = d + 0.02 * rng.normal(), d * (0.3 - 0.2 * d) + 0.02 * rng.normal()
        metrics.append({"step": step, "kl": d * d, "reward": reward, "gold": gold})
        count = 5 + step // 4 + int(rng.integers(0, 4))
        text = " ".join(rng.choice(PHRASES) for _ in range(count))
        prompt = [{"role": "user", "content": f"질문 {step % 9}"}]
        paid = 0.1 * len(text.split())
        samples.append({"step": step, "prompt": prompt, "completion": text, "reward": paid})
    run = make_run(folder, stage="grpo", metrics=metrics, samples=samples, fingerprint="f", work_sha256="w")
    keys = {
        "stage": "grpo",
        "output_dir": str(folder),
        "dataset": str(dataset),
        "model_name_or_path": "tiny",
        "rewards": [{"function": "tests.stages.test_audit:length_reward"}],
        "gold": "regex",
    }
    (run / "recipe.yaml").write_text(json.dumps(keys, ensure_ascii=False), encoding="utf-8")
    return run


@pytest.fixture
def dataset(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"질문 {i}", "answer": "^red"} for i in range(9)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_run_that_fools_its_reward_is_found_out(tmp_path, dataset):
    target = fooled_run(tmp_path / "grpo", dataset)
    audit = api.run(AuditConfig(output_dir=str(tmp_path / "audit"), run=str(target)))
    results = audit.record["results"]
    assert results["verdict"] == "fools its reward"
    levels = {finding["name"]: finding["level"] for finding in results["findings"]}
    assert levels["gold"] == "alarm"
    assert levels["length"] == "alarm"
    assert levels["canary: an answer said twice"] == "alarm"
    assert levels["canary: the empty answer"] == "fine"
    assert {fit["form"] for fit in results["fits"]} == {"best_of_n", "rl"}
    assert len(results["curve"]) == 80
    shown = list(Run.open(audit.path).samples())
    assert len(shown) == min(20, results["num_disagreements"])
    assert all(row["gold"] == 0.0 for row in shown[:5])  # the proxy likes them, gold does not
    assert shown[0]["rank_gap"] >= shown[-1]["rank_gap"] > 0


def test_without_the_reward_the_rest_is_still_audited(tmp_path, dataset):
    target = fooled_run(tmp_path / "grpo", dataset)
    dataset.unlink()
    audit = api.run(AuditConfig(output_dir=str(tmp_path / "audit"), run=str(target)))
    findings = {f["name"]: f for f in audit.record["results"]["findings"]}
    assert findings["canaries"]["level"] == "unknown"
    assert "cannot be asked again" in findings["canaries"]["text"]
    assert findings["gold"]["level"] == "alarm"


def test_a_real_run_of_the_trainer_is_audited(tmp_path):
    save_model(*tiny_model(), tmp_path / "start")
    prompts_file(tmp_path / "prompts.jsonl")
    keys = recipe(tmp_path, max_steps=10, num_generations=4, max_new_tokens=2)
    run_stage("grpo", keys)
    audit = api.run(AuditConfig(output_dir=str(tmp_path / "audit"), run=str(keys["output_dir"])))
    findings = {f["name"]: f["level"] for f in audit.record["results"]["findings"]}
    assert {"proxy", "gold", "length", "diversity", "spread"} <= set(findings)
    assert findings["gold"] == "unknown"
    assert Run.open(tmp_path / "audit").record["parents"][0]["stage"] == "grpo"


def test_a_run_without_rewards_and_completions_is_refused(tmp_path):
    target = make_run(tmp_path / "sft", stage="sft", metrics=[{"step": 1, "loss": 1.0}])
    info = json.loads((target / "run.json").read_text(encoding="utf-8"))
    info |= {"fingerprint": "f", "work_sha256": "w"}
    (target / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(RunError, match="nothing to audit"):
        api.run(AuditConfig(output_dir=str(tmp_path / "audit"), run=str(target)))
