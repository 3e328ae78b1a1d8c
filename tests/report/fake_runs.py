"""Run folders as training would leave them, made in milliseconds."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPTS = (
    "Write a short note about lighthouses. Use at most 40 words.",
    "Explain what a hash table is to a child. Do not use the word 'key'.",
    "한국의 가을을 두 문장으로 설명해 주세요.",
    "List three ways to save water at home, as bullet points.",
    "Name one advantage of walking to work, in lower case only.",
)
BEFORE = (
    "Lighthouses are tall towers that have been built on the coast for many hundreds of years.",
    "A hash table is a data structure that maps keys to values with a hash function.",
    "한국의 가을은 날씨가 매우 좋고 단풍이 아름답습니다. 많은 사람들이 여행을 갑니다. 음식도 맛있습니다.",
    "You can take shorter showers, fix leaking taps and collect rain water.",
    "Walking To Work keeps you fit and costs nothing.",
)
AFTER = (
    "Lighthouses are tall towers on the coast. They warn ships of rocks with a bright light.",
    "A hash table is like a row of labelled boxes: you look at the label and know where to look.",
    "한국의 가을은 하늘이 높고 단풍이 아름답습니다. 많은 사람들이 산으로 여행을 갑니다.",
    "- take shorter showers\n- fix leaking taps\n- collect rain water",
    "walking to work keeps you fit and costs nothing.",
)

RECIPE = """learning_rate: 5.0e-07
beta: 0.1
seed: 17
system: 친절한 도우미
"""


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_run(
    folder: Path, *, stage: str, metrics: Sequence = (), samples: Sequence = (), **info: Any
) -> Path:
    """A finished run folder; keyword arguments replace fields of its run.json."""
    folder.mkdir(parents=True)
    run = {
        "schema": 1,
        "stage": stage,
        "name": folder.name,
        "status": "finished",
        "created": "2026-05-04T09:12:01.123456+00:00",
        "started": "2026-05-04T09:12:01.123456+00:00",
        "finished": "2026-05-04T09:17:43.123456+00:00",
        "duration_s": 342.0,
        "parents": [],
        "inputs": {},
        "config_sha256": "9f2c7a51" * 8,
        "code": {"version": "0.1.0", "git_commit": "0ab7350", "sha256": "51aa0c3e" * 8},
        "seed": 17,
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "cpu": "Intel Xeon, 2 cores",
            "threads": 2,
            "device": "cpu",
            "memory_gb": 24,
            "os": "Debian 12",
        },
        "results": {},
        "warnings": [],
    }
    write_json(folder / "run.json", run | info)
    parents = info.get("parents") or [{}]
    model = f"{parents[0]['path']}/model" if "path" in parents[0] else "smollm2-135m-instruct"
    recipe = f"stage: {stage}\nmodel_name_or_path: {json.dumps(model)}\n{RECIPE}"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    if metrics:
        write_lines(folder / "metrics.jsonl", metrics)
    if samples:
        write_lines(folder / "samples.jsonl", samples)
    return folder


def curve(num_steps: int, *, seed: int = 0) -> list[dict[str, float]]:
    """Metrics of a preference run: everything the main pictures show, with noise."""
    noise = random.Random(seed)
    rows = []
    for step in range(1, num_steps + 1):
        t = step / num_steps
        margin = 0.9 * t + noise.gauss(0, 0.12)
        row = {
            "step": step,
            "time_s": 1.7 * step,
            "epoch": t,
            "loss": 0.6931 * math.exp(-0.8 * t) + noise.gauss(0, 0.03),
            "learning_rate": 5e-7 * min(1.0, 10 * t) * (1 - 0.9 * t),
            "grad_norm": 8 + noise.expovariate(0.5) + (200 if step == num_steps // 2 else 0),
            "tokens_per_s": 1450 + noise.gauss(0, 60),
            "step_s": 1.7 + noise.gauss(0, 0.1),
            "memory_gb": 3.1 + 0.3 * min(1.0, 4 * t),
            "chosen_reward": margin / 3 + noise.gauss(0, 0.05),
            "rejected_reward": -2 * margin / 3 + noise.gauss(0, 0.05),
            "margin": margin,
            "accuracy": min(1.0, 0.5 + 0.35 * t + noise.gauss(0, 0.05)),
            "chosen_logprob": -92 - 6 * t + noise.gauss(0, 4),
            "rejected_logprob": -95 - 16 * t + noise.gauss(0, 4),
            "kl": 2.4 * t * t + abs(noise.gauss(0, 0.08)),
            "completion_length": 58 - 14 * t + noise.gauss(0, 2),
            "reward": -0.4 + 1.5 * t + noise.gauss(0, 0.15),
        }
        if step % max(1, num_steps // 8) == 0:
            row |= {"eval_loss": row["loss"] + 0.04, "eval_accuracy": row["accuracy"] - 0.04}
        rows.append(row)
    return rows


def comparisons(count: int, *, step: int = 200) -> list[dict[str, Any]]:
    """Sample rows with the completion before and after training."""
    return [
        {
            "step": step,
            "prompt": [
                {"role": "system", "content": "You are helpful."},
                {"role": "user", "content": f"{PROMPTS[i % 5]}{f' ({i})' if i >= 5 else ''}"},
            ],
            "completion": AFTER[i % 5],
            "completion_before": BEFORE[i % 5],
            "reward": round(0.3 + 0.11 * (i % 9), 3),
            "gold_before": float(i % 3 == 0),
            "gold": float(i % 3 != 1),
            "model": "dpo/model",
        }
        for i in range(count)
    ]


EVALUATION = {
    "metrics": {
        "gold_pass_rate": {
            "before": 0.182, "after": 0.347, "unit": "share", "before_interval": [0.132, 0.236],
            "after_interval": [0.285, 0.412], "higher_is_better": True,
        },
        "reward_model_score": {
            "before": -0.41, "after": 0.38, "before_interval": [-0.55, -0.27], "after_interval": [0.21, 0.54],
            "unit": "", "higher_is_better": True,
        },
        "held_out_perplexity": {
            "before": 14.21, "after": 14.63, "unit": "", "before_interval": [13.5, 14.9],
            "after_interval": [13.9, 15.3], "higher_is_better": False,
        },
        "repetition": {
            "before": 0.031, "after": 0.052, "unit": "share", "before_interval": [0.027, 0.035],
            "after_interval": [0.045, 0.06], "higher_is_better": False,
        },
        "completion_length": {"before": 58.2, "after": 44.9, "unit": "tokens", "higher_is_better": None},
        "kl": {"before": 0.0, "after": 2.31, "unit": "nats", "higher_is_better": None},
    },
    "win_rate": {"value": 0.631, "interval": [0.568, 0.692], "n": 208, "level": 0.95},
    "win_rate_reward": {"value": 0.534, "interval": [0.47, 0.6], "n": 208, "level": 0.95},
    "num_prompts": 208,
}  # fmt: skip


DEMONSTRATIONS = {"path": "data/지시문.jsonl", "sha256": "ab12cd34" * 8, "rows": 1804}
COUNTED = {
    "kind": "demonstration",
    "rows": 1804,
    "used": 1752,
    "dropped": {"duplicate": 37, "empty_completion": 3, "overlength": 12},
    "truncated": 0,
    "prompt_tokens": 122_640,
    "completion_tokens": 227_760,
    "origins": {"human": 1804},
}
HELD_OUT = {"path": "data/held-out.jsonl", "sha256": "77e1f00d" * 8, "rows": 208}


def make_pipeline(folder: Path, *, num_steps: int = 200, num_samples: int = 60) -> Path:
    """Ten stages of a loop: start, feedback by a simulated annotator, four ways to train, evaluation."""
    stages = {
        "sft": ("sft", []),
        "sample": ("sample", ["sft"]),
        "feedback": ("feedback", ["sample"]),
        "reward": ("reward", ["sft", "feedback"]),
        "best-of-n": ("best_of_n", ["sft", "reward"]),
        "dpo": ("dpo", ["best-of-n", "feedback"]),
        "kto": ("kto", ["best-of-n", "feedback"]),
        "grpo": ("grpo", ["best-of-n"]),
        "ppo": ("ppo", ["best-of-n", "reward"]),
        "evaluate": ("evaluate", ["dpo", "sft"]),
    }
    for number, (name, (stage, parents)) in enumerate(stages.items()):
        trains = stage not in ("sample", "feedback", "evaluate")
        inputs = {"sft": {"dataset": DEMONSTRATIONS}, "evaluate": {"prompts": HELD_OUT}}.get(name, {})
        info: dict[str, Any] = {
            "parents": [{"path": f"../{p}", "stage": stages[p][0], "fingerprint": "c0ffee"} for p in parents],
            "inputs": inputs,
        }
        if stage == "sft":
            info["results"] = {"num_steps": 200, "loss": 0.34, "data": COUNTED}
        if stage == "best_of_n":
            info["results"] = {"best_of_n": [{"n": n, "kl": n / 4, "reward": 0.2 * n} for n in (1, 2, 4)]}
        if stage == "feedback":
            info["results"] = {
                "num_prompts": 400,
                "num_judgements": 640,
                "kind": "pair",
                "origin": "simulated",
            }
        if stage == "evaluate":
            info["results"] = EVALUATION
        if stage == "ppo":
            info["warnings"] = ["length_growth: completions became 31 % longer since step 120"]
        make_run(
            folder / "stages" / name,
            stage=stage,
            metrics=curve(num_steps, seed=number) if trains else (),
            samples=comparisons(num_samples) if stage not in ("reward", "feedback") else (),
            **info,
        )
    write_json(
        folder / "pipeline.json",
        {
            "schema": 1,
            "recipe": f"name: full-loop\nstages: [{', '.join(stages)}]\n",
            "stages": [{"name": n, "stage": s, "path": f"stages/{n}"} for n, (s, _) in stages.items()],
        },
    )
    return folder
