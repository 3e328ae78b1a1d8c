"""A dry run of stages that sample: counts are those of the run, memory is near its peak."""

import json
from pathlib import Path

import pytest

from alignloop.config import find_stage, resolve
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.pipeline import load_function
from alignloop.runs import Run
from alignloop.stages.preview_online import OnlinePreview, make_preview, preview
from tests.stages.task import recipe, run_stage
from tests.stages.test_preview import in_a_child, text

SMALL = {"num_generations": 4, "rollout_prompts": 4, "per_device_train_batch_size": 2, "num_iterations": 2}


def made(stage: str, keys: dict[str, object]) -> OnlinePreview:
    resolved = resolve(stage, keys)
    return make_preview(resolved.config, resolved.objective)  # pyright: ignore[reportArgumentType]


def num_parameters(tmp_path: Path) -> int:
    return sum(p.numel() for p in load_model(tmp_path / "start", device="cpu").model.parameters())


def test_rollouts_and_steps_are_those_of_the_run(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SMALL, max_steps=6)
    plan = made("grpo", keys).plan
    # a rollout of 4 prompts is 2 mini-batches, passed over twice: 6 steps need 2 rollouts
    assert (plan.rounds, plan.asked, plan.num_completions, plan.work.num_steps) == (2, 8, 32, 6)
    group = len(plan.prompts[0]) + 4 * 3  # all prompts are a letter, answers have 3 tokens
    assert (plan.work.tokens, plan.work.counted) == (6 * 2 * group, 6 * 2 * 4 * 3)
    run = run_stage("grpo", keys)
    rows = list(run.metrics())
    assert (len(rows), rows[-1]["rollout"]) == (6, 1)
    assert max(row["tokens_per_s"] * row["step_s"] for row in rows) <= 2 * group + 1e-3


def test_roles_are_counted(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SMALL, max_steps=2)
    size, head = num_parameters(tmp_path), 64 + 1
    grpo, ppo = made("grpo", keys), made("ppo", keys)
    assert grpo.others == {"the reference": 4 * size}
    assert (grpo.parameters.total, grpo.parameters.trained) == (size, size)
    assert made("grpo", {**keys, "beta": 0.0, "track_kl": False}).others == {}
    assert ppo.others == {"the reference": 4 * size}
    assert (ppo.parameters.total, ppo.parameters.trained) == (2 * size + head, 2 * size + head)
    lora = made("ppo", {**keys, "lora_r": 4})
    assert lora.others == {}
    adapter = made("grpo", {**keys, "lora_r": 4}).parameters.trained
    assert lora.parameters.trained == 2 * adapter + head
    assert lora.parameters.total == size + 2 * adapter + head


def test_reward_models_are_counted(tmp_path: Path) -> None:
    keys = recipe(tmp_path)
    pairs = [{"prompt": "a", "chosen": "a", "rejected": letter} for letter in "bcd"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    train = {"model_name_or_path": keys["model_name_or_path"], "dataset": str(tmp_path / "pairs.jsonl")}
    run_stage("reward", {**train, "output_dir": str(tmp_path / "rm"), "max_steps": 1, "lora_r": 2})
    terms = [{"model": str(tmp_path / "rm")}]
    own = made("grpo", {**keys, **SMALL, "rewards": terms, "lora_r": 4}).others["reward model 1"]
    files = sum(f.stat().st_size for f in (tmp_path / "rm/model").glob("*.safetensors"))
    assert own == files  # an adapter on the policy's base
    apart = made("grpo", {**keys, **SMALL, "rewards": terms}).others["reward model 1"]
    assert apart == files + 4 * num_parameters(tmp_path)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_rounds_of_pairs(tmp_path: Path, objective: str) -> None:
    keys = {
        name: value
        for name, value in recipe(tmp_path).items()
        if name not in ("rollout_prompts", "log_samples")
    }
    keys |= {
        "objective": objective,
        "rounds": 3,
        "num_generations": 4,
        "pairs_per_prompt": 2,
        "max_prompts": 2,
    }
    plan = made("iterate", keys).plan
    rows = 2 * 2 * (2 if objective == "kto" else 1)  # prompts · pairs, and a label for each side
    assert (plan.rounds, plan.asked, plan.num_completions) == (3, 6, 24)
    assert plan.work.num_steps == 3 * -(-rows // 4)
    assert plan.work.counted == 3 * 2 * 2 * 2 * 3  # rounds · prompts · pairs · sides · tokens


def test_rounds_of_demonstrations_grow(tmp_path: Path) -> None:
    base = recipe(tmp_path, per_device_train_batch_size=1)
    keys = {name: base[name] for name in ("model_name_or_path", "dataset", "output_dir", "max_new_tokens")}
    keys |= {"reward_model": "gold", "n": 4, "rounds": 2, "per_device_train_batch_size": 1, "num_threads": 1}
    seen = made("best_of_n", keys)
    assert (seen.plan.rounds, seen.plan.num_completions, seen.plan.work.num_steps) == (2, 24, 3 + 6)
    assert seen.others == {}


def test_what_a_dry_run_prints(tmp_path: Path) -> None:
    resolved = resolve("ppo", recipe(tmp_path, **SMALL, max_steps=2, max_length=8))
    with pytest.raises(Exception, match="no prompt is within 5 tokens"):
        preview(resolved.config, resolved.objective)  # pyright: ignore[reportArgumentType]
    resolved = resolve("ppo", recipe(tmp_path, **SMALL, max_steps=2, warmup_steps=5, learning_rate=1e-12))
    told = preview(resolved.config, resolved.objective)  # pyright: ignore[reportArgumentType]
    assert told["data"] == "3 rows, 3 prompts to answer"
    assert told["sampling"] == "16 answers to 4 prompts in 1 rollouts"
    assert told["steps"].startswith("2 of 2 rows, each in 1.0 packed passes of up to ")
    assert "the reference" in told["memory"]
    assert "keys and values in sampling" in told["memory"]
    assert told["time"].startswith("at most about ")
    assert (told["trap 1"][:5], told["trap 2"][:5]) == ("AL201", "AL203")
    for stage in ("ppo", "dapo", "best_of_n", "iterate"):
        assert load_function(find_stage(stage).preview) is preview


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_memory_is_estimated_within_a_third_of_the_peak(tmp_path: Path, stage: str) -> None:
    save_model(*tiny_model(hidden_size=256, num_layers=4), tmp_path / "model")
    rows = [json.dumps({"prompt": text(number, 30)}) for number in range(8)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows), encoding="utf-8")
    keys = recipe(tmp_path, **SMALL, max_steps=2, max_new_tokens=48, max_length=256, temperature=2.0)
    keys |= {"model_name_or_path": str(tmp_path / "model"), "dataset": str(tmp_path / "long.jsonl")}
    keys |= {"rewards": [{"function": "tests.stages.task:lengths"}]}

    def run() -> list[float]:
        seen = made(stage, keys)
        run_stage(stage, keys)
        length = max(
            row["completion_length"] for row in Run.open(tmp_path / "run").metrics() if "reward" in row
        )
        return [seen.peak, seen.memory.process, length]

    (estimated, process, length), peak = in_a_child(run)
    print(stage, estimated, process, peak, length)
    assert estimated == pytest.approx(peak, rel=0.33)
