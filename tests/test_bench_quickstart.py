"""The quickstart's bench: variants share what they do not change; the page says what the runs said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.quickstart import figures
from bench.quickstart_report import page
from bench.quickstart_search import with_variants

RECIPE = {
    "seed": 1,
    "stages": [
        {"stage": "sft", "dataset": "rows"},
        {"stage": "sample", "name": "answers", "model_name_or_path": "@sft"},
        {"stage": "reward", "dataset": "@answers"},
        {"stage": "dpo", "model_name_or_path": "@sft", "dataset": "@answers", "beta": 0.1},
        {"stage": "compare", "models": ["start", "@sft", "@dpo"], "reward_model": "@reward"},
    ],
}


def test_a_variant_repeats_the_stages_that_follow_from_its_change_and_no_others() -> None:
    stages = with_variants(RECIPE, ["base", "beta-0.2", "sft-4e-5"])["stages"]
    named = {stage.get("name", stage["stage"]): stage for stage in stages}
    assert list(named) == [
        *("sft", "answers", "reward", "dpo", "dpo-beta-0.2"),
        *("sft-sft-4e-5", "answers-sft-4e-5", "reward-sft-4e-5", "dpo-sft-4e-5", "compare"),
    ]
    assert named["dpo"]["beta"] == 0.1
    assert named["dpo-beta-0.2"]["beta"] == 0.2
    assert named["dpo-beta-0.2"]["dataset"] == "@answers"
    assert named["sft-sft-4e-5"]["learning_rate"] == 4e-5
    assert named["dpo-sft-4e-5"] == {
        "stage": "dpo",
        "name": "dpo-sft-4e-5",
        "model_name_or_path": "@sft-sft-4e-5",
        "dataset": "@answers-sft-4e-5",
        "beta": 0.1,
    }
    models = ["start", "@sft", "@dpo", "@dpo-beta-0.2", "@sft-sft-4e-5", "@dpo-sft-4e-5"]
    assert named["compare"]["models"] == models


def finished(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"results": results}), encoding="utf-8")


def test_the_page_gives_each_run_and_what_they_have_in_common(tmp_path: Path) -> None:
    finished(
        tmp_path / "compare",
        {
            "comparison": [
                {
                    "name": "instructions",
                    "models": {
                        "start": {"value": 0.25},
                        "sft": {"value": 0.4},
                        "dpo": {"value": 0.55, "difference": 0.3, "difference_interval": [0.2, 0.4]},
                    },
                },
                {
                    "name": "perplexity",
                    "models": {"start": {"value": 40.0}, "sft": {"value": 40.2}, "dpo": {"value": 41.0}},
                },
            ],
            "win_rates": [
                {"judge": "gold", "model": "sft", "value": 0.1, "interval": [0.0, 0.2]},
                {"judge": "gold", "model": "dpo", "value": 0.65, "interval": [0.6, 0.7]},
                {"judge": "reward", "model": "dpo", "value": 0.55, "interval": [0.45, 0.65]},
            ],
        },
    )
    held_out = {"accuracy": 0.66, "accuracy_interval": [0.49, 0.75], "pairs": 206}
    finished(tmp_path / "reward", {"held_out": held_out})
    row = {
        "seed": 3,
        "dtype": "bfloat16",
        "threads": 1,
        "machine": {"cpu": "a processor", "load_average": 1.0},
        "wall_s": 500.0,
        "stages": {"sft": 60.2},
        **figures(tmp_path),
    }
    text = page({"rows": [row], "timed": [row]})
    assert (
        "| 3 | 25.0 % | 40.0 % | 55.0 % | +30.0 [+20.0, +40.0] | 0.650 [0.600, 0.700] | 0.550 [0.450, 0.650] "
        "| 0.660 [0.490, 0.750] (206) | 40.0 | 40.2 | 41.0 |"
    ) in text
    assert "in 1 of 1, the reward model's in 0 of 1" in text
    assert (
        "Median gain 30.0 points, median win rate 0.650; held-out perplexity changes by +2.5 to +2.5 %."
        in text
    )
    assert "| bfloat16 | 3 | 500 | 60 |" in text
    assert "The figures are of: cpu a processor." in text
