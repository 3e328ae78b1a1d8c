"""The quickstart over seeds and types, as a user runs it: docs/results/quickstart.md.

    python bench/quickstart.py --work /tmp/quick --seeds 42 1 2 3 4     # finished ones are kept
    python bench/quickstart.py --work /tmp/quick --timed 42             # alone, all cores, a new folder
    python bench/quickstart.py --write                                  # the page from what was measured

Each run is `alignloop quickstart --seed N dtype=…`. With `--at-once 2` two run side by side, a thread each;
the page gives the times of `--timed` only. `docs/results/quickstart.json` holds a row for each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from bench.measure import ROOT, machine
from bench.quickstart_report import page

FILE = ROOT / "docs" / "results" / "quickstart.json"
BASELINE = "start"
Row = dict[str, Any]


def run_json(folder: Path) -> Mapping[str, Any]:
    """run.json of a finished stage."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def figures(run: Path, model: str = "dpo", reward: str = "reward", sft: str = "sft") -> Row:
    """What one run says of its final model.

    Args:
        run: folder of the pipeline.
        model: name of the final model in `compare`.
        reward: name of its reward model's stage.
        sft: name of the model after SFT.

    Returns:
        Shares, win rates with intervals, perplexities, and the reward model's held-out accuracy.
    """
    results = run_json(run / "compare")["results"]
    numbers = {one["name"]: one["models"] for one in results["comparison"]}
    gold, perplexity = numbers["instructions"], numbers["perplexity"]
    wins = {one["judge"]: one for one in results["win_rates"] if one["model"] == model}
    held_out = run_json(run / reward)["results"]["held_out"]
    return {
        "gold": {name: gold[name]["value"] for name in (BASELINE, sft, model)},
        "gain": [gold[model]["difference"], *gold[model]["difference_interval"]],
        "win": [wins["gold"]["value"], *wins["gold"]["interval"]],
        "win_by_reward": [wins["reward"]["value"], *wins["reward"]["interval"]],
        "reward_accuracy": [held_out["accuracy"], *held_out["accuracy_interval"]],
        "reward_pairs": held_out["pairs"],
        "perplexity": {name: perplexity[name]["value"] for name in (BASELINE, sft, model)},
    }


def seconds(run: Path) -> dict[str, float]:
    """Duration of each stage that takes a second or more, in their order."""
    stages = [run_json(file.parent) for file in run.glob("*/run.json")]
    stages.sort(key=lambda one: one["started"])
    return {one["name"]: one["duration_s"] for one in stages if one["duration_s"] >= 1}


def one_run(work: Path, seed: int, dtype: str, threads: int) -> Row:
    """Run the quickstart (a finished one is read again) and read it."""
    folder = work / f"{dtype}-{seed}"
    whole = not folder.exists()
    command = [sys.executable, "-m", "alignloop", "quickstart", "--seed", str(seed), f"dtype={dtype}"]
    command += [f"output_dir={folder}", f"num_threads={threads}"]
    start = time.perf_counter()
    log = work / f"{dtype}-{seed}.log"
    with log.open("w") as out:
        subprocess.run(command, check=True, stdout=out, stderr=out, cwd=work, env=_environment(threads))
    wall = time.perf_counter() - start if whole else None  # stages used again take no time
    return {
        "seed": seed,
        "dtype": dtype,
        "threads": threads,
        "machine": machine(threads or os.cpu_count() or 1),
        "wall_s": wall,
        "stages": seconds(folder),
        **figures(folder),
    }


def _environment(threads: int) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, print a line for each run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side, a thread each from 2 on")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: as many as cores")
    parser.add_argument("--timed", type=int, help="this seed alone, in a new folder, on all cores")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(argv)
    found: dict[str, Any] = (
        json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"rows": [], "timed": []}
    )
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    if given.timed is not None:
        for dtype in given.dtypes:
            shutil.rmtree(given.work / f"{dtype}-{given.timed}", ignore_errors=True)
            _keep(found, "timed", one_run(given.work, given.timed, dtype, 0))
    jobs = [(seed, dtype) for seed in given.seeds for dtype in given.dtypes]
    threads = 1 if given.at_once > 1 else given.threads
    with ThreadPoolExecutor(given.at_once) as pool:
        for row in pool.map(lambda job: one_run(given.work, job[0], job[1], threads), jobs):
            _keep(found, "rows", row)
    if given.write:
        write_whole(FILE.with_suffix(".md"), [page(found)])


def _keep(found: dict[str, Any], part: str, row: Row) -> None:
    same = [one for one in found[part] if (one["seed"], one["dtype"]) == (row["seed"], row["dtype"])]
    found[part] = sorted(
        [*(one for one in found[part] if one not in same), row], key=lambda one: (one["dtype"], one["seed"])
    )
    write_whole(FILE, [json.dumps(found, indent=1) + "\n"])
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
