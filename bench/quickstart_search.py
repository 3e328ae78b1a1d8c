"""Which recipe makes the quickstart learn: variants of the shipped one beside it, over seeds.

    python bench/quickstart_search.py --work /tmp/search --seed 1 --variants base beta-0.2 sft-two-epochs

A variant changes keys of stages; the stages that follow from those are repeated under another name, all
others are shared, and one comparison holds all final models. What is finished is kept, so variants can be
added. Prints a line of JSON for each; what was found, with what did not help, stands in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.config.shipped import find_recipe
from alignloop.foreign import dump_yaml, load_yaml
from bench.quickstart import figures, run_json, seconds

Changes = Mapping[str, Mapping[str, Any]]
VARIANTS: Mapping[str, Changes] = {
    "base": {},
    "beta-0.05": {"dpo": {"beta": 0.05}},
    "beta-0.2": {"dpo": {"beta": 0.2}},
    "dpo-1e-5": {"dpo": {"learning_rate": 1e-5}},
    "dpo-2e-5": {"dpo": {"learning_rate": 2e-5}},
    "dpo-4e-5": {"dpo": {"learning_rate": 4e-5}},
    "dpo-lora": {"dpo": {"learning_rate": 3e-4, "lora_r": 16}},
    "dpo-nll": {"dpo": {"rpo_alpha": 1.0}},
    "sft-1e-5": {"sft": {"learning_rate": 1e-5}},
    "sft-4e-5": {"sft": {"learning_rate": 4e-5}},
    "sft-two-epochs": {"sft": {"num_train_epochs": 2}},
    "reward-3e-5": {"reward": {"learning_rate": 3e-5}},
    "reward-lora": {"reward": {"learning_rate": 3e-4, "lora_r": 16}},
    "reward-from-sft": {"reward": {"model_name_or_path": "@sft"}},
    "reward-three-epochs": {"reward": {"num_train_epochs": 3}},
}
"""Keys that differ from the shipped recipe, by name of variant and stage."""


def with_variants(recipe: Mapping[str, Any], variants: Sequence[str]) -> dict[str, Any]:
    """The recipe with each variant's stages beside its own.

    Args:
        recipe: a pipeline whose last stage is `compare`.
        variants: names in `VARIANTS`.

    Returns:
        The recipe; a repeated stage is called NAME-VARIANT.
    """
    *stages, compare = (dict(stage) for stage in recipe["stages"])
    found, models = list(stages), list(compare["models"])
    for variant in variants:
        renamed: dict[str, str] = {}
        for stage in stages:
            name = stage.get("name", stage["stage"])
            changes = VARIANTS[variant].get(name, {})
            refers = any(f"@{old}" in map(str, stage.values()) for old in renamed)
            if changes or refers:
                renamed[name] = f"{name}-{variant}"
                moved = {key: _moved(value, renamed) for key, value in stage.items()}
                found.append({**moved, "name": renamed[name], **changes})
        models += [f"@{renamed[name]}" for name in ("sft", "dpo") if name in renamed]
    return {**recipe, "stages": [*found, {**compare, "models": models}]}


def _moved(value: Any, renamed: Mapping[str, str]) -> Any:
    return f"@{renamed[value[1:]]}" if isinstance(value, str) and value[1:] in renamed else value


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with the variants and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="quickstart", help="name or file")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=["base"], choices=list(VARIANTS))
    given = parser.parse_args(argv)
    run = given.work / f"{given.dtype}-{given.seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    shipped = load_yaml(find_recipe(given.recipe).read_text(encoding="utf-8"))
    keys = {"seed": given.seed, "dtype": given.dtype, "num_threads": given.threads, "output_dir": str(run)}
    file = run.with_suffix(".yaml")
    file.write_text(dump_yaml({**with_variants(shipped, given.variants), **keys}), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "alignloop", "run", str(file)], check=True)
    spent = seconds(run)
    stages = {one.parent.name for one in run.glob("*/run.json")}
    for variant in given.variants:
        own = [f"{name}-{variant}" for name in ("dpo", "reward", "sft")]
        names = [name if name in stages else name.split("-")[0] for name in own]
        steps = {name: run_json(run / name)["results"]["num_steps"] for name in names}
        row = {"variant": variant, "seed": given.seed, "steps": steps, "seconds": spent}
        print(json.dumps({**row, **figures(run, *names)}), flush=True)


if __name__ == "__main__":
    main()
