"""The benchmarks of online RL on the tiny model, in this process and without TRL: they run, and add up."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from bench import forgetting, gpu_rl, grpo_step, hack_page, online, planted_hack, ppo_memory, time_to_reward
from bench.stages import over_seeds, running_mean

TINY = ["--threads", "1", "--prompts", "2", "--completions", "4", "--tokens", "12"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Small sizes, and a tiny model in a folder, which adapters can name as their base."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(*tiny_model(), folder)
    return ["--model", str(folder), *TINY]


def test_ppo_memory_measures_all_sides(tmp_path: Path, tiny: list[str]) -> None:
    sides = {}
    for side in ("data", "reward", "ppo", "grpo", "sft"):
        options = ppo_memory.arguments().parse_args(
            [*tiny, "--steps", "2", "--side", side, "--root", str(tmp_path)]
        )
        if side == "data":
            ppo_memory.make_prompts(options, tmp_path)
        else:
            sides[side] = ppo_memory.one_side(options)
    assert sides.pop("reward") == {}
    found = ppo_memory.summary(sides)
    assert found["step_ratio"] > 0
    assert 0 < found["outside_model_share"]["ppo"] < 1
    tokens = found["update_tokens"]
    assert tokens["ppo"] == pytest.approx(tokens["grpo"])
    assert tokens["sft"] == pytest.approx(tokens["ppo"], rel=0.5)
    assert len(sides["ppo"]["rollout_and_learning_s"]) == 2
    assert all(
        whole > part > 0
        for side in ("ppo", "grpo")
        for whole, part in zip(sides[side]["rollout_and_learning_s"], sides[side]["learning_s"], strict=True)
    )


def test_time_inside_calls_counts_once() -> None:
    clock = ppo_memory.Clock()
    inner = clock.wrapped(lambda: sum(range(1000)))
    outer = clock.wrapped(lambda: [inner() for _ in range(50)])
    outer()
    assert 0 < clock.inside_s < 1
    assert clock.depth == 0


def test_planted_hack_runs_on_a_named_model(tmp_path: Path, tiny: list[str]) -> None:
    small = ["--seeds", "3", "--members", "2", "--rows", "40", "--held-out", "40", "--steps", "3"]
    small += ["--every", "3", "--answers", "1", "--window", "1", "--reward-epochs", "0.2", "--lora-r", "4"]
    arms = ["min", "guard"]
    options = planted_hack.arguments().parse_args([*tiny, *small, "--arms", *arms])
    found = planted_hack.run(options, tmp_path)["seeds"][3]["arms"]
    assert set(found) == set(arms)
    assert [len(runs) for runs in found.values()] == [1, 2]  # two members, so two guarded runs
    for run in (*found["min"], *found["guard"]):
        assert run["held_out"]["rollouts"][0] == 0
        assert 0 <= run["end"] <= 1


def test_planted_hack_runs_all_arms_on_a_small_model(tmp_path: Path) -> None:
    small = ["--start-steps", "20", "--base-steps", "4", "--seeds", "0", "--members", "2", "--rows", "40"]
    small += ["--held-out", "16", "--answers", "1", "--steps", "2", "--every", "1", "--window", "1"]
    small += ["--reward-epochs", "0.5", "--singles", "1", "--arms", *planted_hack.ARMS]
    options = planted_hack.arguments().parse_args([*TINY, *small])
    result = planted_hack.run(options, tmp_path)
    found = result["seeds"][0]
    assert set(found["arms"]) == set(planted_hack.ARMS)
    runs = [run for arm in ("single", "min", "uwo", "one_base") for run in found["arms"][arm]]
    assert len(runs) == 4
    for run in runs:
        assert run["held_out"]["rollouts"] == [0, 1, 2]
        assert run["end"] == run["held_out"]["measured"][-1]  # the same weights and the same seeds
        assert len(run["curves"]["gold"]) == 2
    starts = {run["start"] for run in runs}
    assert len(starts) == 1  # one start, whatever it is trained on
    assert {kind: len(shares) for kind, shares in found["agreement"].items()} == {"own": 2, "one": 2}
    bases = {(tmp_path / "seed-0" / f"base-{i}" / "model" / "model.safetensors").read_bytes() for i in (0, 1)}
    assert len(bases) == 2
    verdicts = [(tmp_path / "seed-0" / f"pairs-{i}" / "data" / "rows.jsonl").read_text() for i in (0, 1)]
    assert verdicts[0] != verdicts[1]
    assert hack_page.drawing(result["seeds"], 1).startswith("<svg")
    assert "one seed" in hack_page.page(result)


def test_the_peak_is_chosen_by_one_half_and_measured_by_the_other() -> None:
    curve = {"rollouts": [0, 5, 10], "choosing": [0.5, 0.9, 0.2], "measured": [0.5, 0.8, 0.1]}
    stopped = {"rollouts": [0], "choosing": [0.5], "measured": [0.5]}
    rows = {"single": [{"end": 0.1, "held_out": curve}], "guard": [{"end": 0.7, "held_out": stopped}]}
    found = planted_hack.with_kept(rows)
    assert found["single"][0]["peak"] == 0.8  # not the 0.9 that chose it
    assert found["single"][0]["peak_rollouts"] == 5
    assert found["single"][0]["kept"] == pytest.approx(0.125)
    assert found["guard"][0]["kept"] == pytest.approx(0.875)  # of the unguarded run's peak
    assert found["guard"][0]["kept_of_own"] == pytest.approx(1.4)


def test_what_is_kept_of_the_peak() -> None:
    assert running_mean([0.0, 1.0, 0.5, 0.5], 2) == [0.5, 0.75, 0.5]
    assert running_mean([], 2) == []
    arms = {
        arm: [{"start": 0.2, "peak": 0.5, "end": end, "kept": end / 0.5, "kept_of_own": 1.0}]
        for arm, end in zip(("single", "min", "uwo", "guard"), (0.3, 0.5, 0.45, 0.5), strict=True)
    }
    found = planted_hack.summary({0: {"arms": arms}, 1: {"arms": arms}})
    assert found["single_over_optimises"]
    assert found["single"]["kept_interval"] == pytest.approx((0.6, 0.6))
    assert found["reached"] == {"min": True, "uwo": False, "guard": True}
    said = hack_page.verdict({"summary": found})
    assert "`uwo` misses it" in said
    assert "`guard` reaches it" in said


def test_interval_over_seeds() -> None:
    mean, low, high = over_seeds([1.0, 2.0, 3.0])  # t(0.975, 2 degrees of freedom) = 4.302653
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_forgetting_compares_all_models(tmp_path: Path, tiny: list[str]) -> None:
    for name in ("demonstrations", "texts"):
        rows = [f'{{"prompt": "Say {i}.", "completion": "This is {name} {i}."}}' for i in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    sizes = ["--rows", "8", "--held-out", "4", "--text-rows", "8", "--steps", "1", "--shares", "0.5"]
    sizes += [f"--demonstrations={tmp_path}/demonstrations.jsonl", f"--texts={tmp_path}/texts.jsonl"]
    options = forgetting.arguments().parse_args([*tiny, *sizes, "--seeds", "0"])
    result = forgetting.run(options, tmp_path / "runs")
    assert set(result["summary"]) == {"start", "ppo", "ppo-ptx", "ppo-0.5"}
    assert len(result["seeds"][0]["curves"]["ppo-ptx"]["ptx_nll"]) >= 1
    assert forgetting.table(result["summary"]).count("\n") == 5
    twice = {0: result["seeds"][0], 1: copy.deepcopy(result["seeds"][0])}
    for name, models in twice[1]["metrics"].items():
        models["start"]["value"] = models["ppo"]["value"] = 1.0
        result["seeds"][0]["metrics"][name]["start"]["value"] = 2.0
        result["seeds"][0]["metrics"][name]["ppo"]["value"] = 4.0
    found = forgetting.summary(twice)["ppo"]["gold"]
    # changes 2 and 0: mean 1, standard error 1, t quantile with one degree of freedom 12.706
    assert [round(found[k], 2) for k in ("value", "change", "low", "high")] == [2.5, 1.0, -11.71, 13.71]
    assert "| ppo | 2.500 (-11.706 to +13.706) |" in forgetting.table(forgetting.summary(twice))


def test_the_watch_stands_still_while_it_measures() -> None:
    rates = iter([0.2, 0.25, 0.31])
    watch = time_to_reward.Watch(lambda: next(rates), every=2, rise=0.1)
    assert [watch.look(step) for step in range(5)] == [False, False, False, False, True]
    assert [row["step"] for row in watch.rows] == [0, 2, 4]
    assert watch.reached == watch.rows[-1]["seconds"] < 0.1


def test_times_sooner() -> None:
    def side(reached: float | None) -> dict:
        return {"reached_s": reached, "curve": [{"seconds": 90.0}]}

    seeds = {0: {"alignloop": side(10.0), "trl": side(50.0)}, 1: {"alignloop": side(10.0), "trl": side(None)}}
    assert time_to_reward.summary(seeds)["times_sooner"] == [5.0, 9.0]
    seeds[2] = {"alignloop": side(None), "trl": side(50.0)}
    assert time_to_reward.summary(seeds)["median"] is None


def test_our_side_is_looked_at_after_every_step(tmp_path: Path, tiny: list[str]) -> None:
    small = ["--rows", "8", "--held-out", "4", "--steps", "3", "--every", "1", "--rise", "2"]
    watch = time_to_reward.our_side(time_to_reward.arguments().parse_args([*tiny, *small]), tmp_path)
    assert [row["step"] for row in watch.rows] == [0, 1, 2, 3]
    seconds = [row["seconds"] for row in watch.rows]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0


def test_online_methods_from_one_start(tmp_path: Path, tiny: list[str]) -> None:
    small = ["--rows", "40", "--held-out", "6", "--steps", "2", "--demonstrations", "16", "--seed", "1"]
    rows = {}
    for part in ("start", "ppo", "dpo"):
        words = [*tiny, *small, "--part", part, "--root", str(tmp_path)]
        online.one_part(online.arguments().parse_args(words))
        if part != "start":
            rows[part] = online.one_part(online.arguments().parse_args([*words, "--evaluate"]))
    found = online.summary({0: rows})
    assert set(found) == {"ppo", "dpo"}
    assert found["ppo"]["gold_before"] == found["dpo"]["gold_before"]
    assert online.table(found).count("\n") == 3
    rows["ppo"] |= {"win_rate": 0.5, "win_rate_interval": (0.4, 0.6)}
    pooled = online.summary({0: rows, 1: rows, 2: rows, 3: rows})["ppo"]["win_rate_interval"]
    assert pooled == pytest.approx((0.45, 0.55))  # four times the prompts, half the width
    assert online.drawing({0: rows}).startswith("<svg")
    options = online.arguments().parse_args([*tiny, *small])
    for method in online.METHODS:  # every method's keys are ones its stage knows
        assert online.checked(options, tmp_path, method, 0)


def test_whole_grpo_steps_are_timed(tiny: list[str]) -> None:
    options = grpo_step.arguments().parse_args([*tiny, "--steps", "3", "--side", "alignloop"])
    found = grpo_step.one_side(options)
    assert len(found["step_s"]) == 2
    assert found["parts_s"].keys() == {"rollout", "reward", "reference", "update"}
    assert 0 < sum(found["parts_s"].values()) < sum(found["step_s"])
    slow = {"step_s": [8.0, 8.0], "step_cpu_s": [6.0, 6.0], "peak_memory_gb": 4.0}
    quick = {"step_s": [2.0, 2.0], "step_cpu_s": [2.0, 2.0], "peak_memory_gb": 1.0}
    quick |= {"parts_s": {"rollout": 1.0, "update": 2.0}}
    result = grpo_step.summary([{"trl": slow, "alignloop": quick}])
    assert (result["speedup"], result["speedup_cpu"], result["memory_ratio"]) == (4.0, 3.0, 0.25)
    assert result["shares"] == {"rollout": 0.25, "update": 0.5, "rest": 0.25}


def test_pieces_of_the_gpu_benchmark_run_on_a_cpu(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_rl, "matmul_rate", lambda device: (1e9, 1e9))
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    options = gpu_rl.parsed([*tiny, "--device", "cpu", "--tiny", "--rounds", "1"])
    rates = gpu_rl.rollout_rates(options)
    assert rates["alignloop"]["runs"][0]["tokens"] == rates["generate"]["runs"][0]["tokens"] == 2 * 4 * 12
    words = [*tiny, "--steps", "3", "--side", "alignloop", "--bfloat16"]
    own = grpo_step.one_side(grpo_step.arguments().parse_args(words))
    assert own["parts_s"].keys() == {*gpu_rl.PARTS} - {"rest"}
    assert len(own["useful_flops"]) == len(own["mismatch"]) == 3
    assert all(0 < gap["mean_abs"] < gap["max_abs"] < 0.5 for gap in own["mismatch"])
    assert all(gap["mean_weight"] == pytest.approx(gap["mean_ratio"], abs=0.01) for gap in own["mismatch"])
    trl = {**own, "step_s": [2 * s for s in own["step_s"]], "peak_memory_gb": 2 * own["peak_memory_gb"]}
    found = gpu_rl.summary([{"alignloop": own, "trl": trl}], rates)
    assert (found["speedup"], found["memory_ratio"]) == pytest.approx((2.0, 0.5))
    assert sum(found["shares"].values()) == pytest.approx(1)
    used = sum(own["useful_flops"][1:]) / rates["matmul_flops_per_s"]
    assert found["utilisation"]["step"] == pytest.approx(1.25 * used / sum(own["step_s"]))
    row = {"model": "tiny", "rollouts": rates, "summary": found}
    shown = gpu_rl.page([row], {"gpu": "none"}, gpu_rl.TINY_SIZES)
    assert shown.count("| tiny |") == 4
    assert "not measured" not in shown


def test_without_a_gpu_nothing_is_said_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_rl.py", "--output", str(tmp_path)])
    gpu_rl.main()
    assert capsys.readouterr().out == gpu_rl.NO_GPU + "\n"
    shown = (tmp_path / "gpu_rl.md").read_text(encoding="utf-8")
    assert shown.count("not measured") == 2 * (3 + 8 + 6 + 6)
    assert not (tmp_path / "gpu_rl.json").exists()
