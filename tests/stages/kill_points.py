"""Kill stages at random points, take them up, and compare with an uninterrupted run.

    python -m tests.stages.kill_points FOLDER STAGE TRIALS [SEED]

A point is a change of a file in the run folder or a step of the sampler, so every gap between two writes is
hit as often as any other. Each attempt is a fork of this process, which ends by SIGKILL. Prints a JSON line
for each trial: {"stage", "trial", "kills", "differs"}; `differs` names what is not bit for bit the same.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alignloop.config import make_plan, parse_recipe
from alignloop.data.columns import write_records
from alignloop.data.instructions import instruction_prompts
from alignloop.model.scheduler import Scheduler
from alignloop.pipeline import run_plan
from alignloop.records import Preference
from alignloop.rl.rewards import Sample

KILLS = 5
SAMPLED = "temperature: 1.0\nmax_new_tokens: 40\nrollout_save_s: 0.02\n"
TRAINED = "learning_rate: 1e-3\nper_device_train_batch_size: 2\nsave_steps: 1\n"
REWARDS = 'rewards: [{function: "tests.stages.kill_points:reward"}]\n'
RECIPES = {
    "sample": f"{SAMPLED}num_samples: 3\ntoken_budget: 400\n",
    "best_of_n": f"{SAMPLED}{TRAINED}reward_model: constraints\nn: 4\nmax_steps: 3\n",
    "iterate": f"{SAMPLED}{TRAINED}{REWARDS}rounds: 2\nnum_generations: 3\nmax_steps: 2\n",
    "grpo": f"{SAMPLED}{TRAINED}{REWARDS}num_generations: 3\nrollout_prompts: 2\nmax_steps: 3\n",
    "dpo": f"{TRAINED}max_steps: 4\n",
    "evaluate": "before: tiny\nafter: tiny\nmax_new_tokens: 30\nbootstrap: 1000\n",
    "constitution": "rounds: 1\nmax_new_tokens: 30\nmax_critique_tokens: 20\nbenign_prompts: 2\n",
}


def reward(samples: Sequence[Sample]) -> list[float]:
    """The share of letters `e`."""
    return [s.completion.count("e") / (1 + len(s.completion)) for s in samples]


def write_rows(folder: Path) -> None:
    """Data of all stages."""
    prompts = instruction_prompts("train", 6, 0, ("lowercase", "no_commas"))
    write_records(folder / "prompts.jsonl", prompts)
    pairs = [Preference(prompt.prompt, f"yes {i}", f"No {i}!") for i, prompt in enumerate(prompts)]
    write_records(folder / "pairs.jsonl", pairs)


def attempt(folder: Path, stage: str, out: Path, kill_at: int) -> int | None:
    """Run the stage in a fork until its point `kill_at` (0: to the end); the number of points if it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            os.write(writer, str(_run(folder, stage, out, kill_at)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    assert status == 0, (out.parent / f"{out.name}.log").read_text(encoding="utf-8")[-3000:]
    return int(said)


def _run(folder: Path, stage: str, out: Path, kill_at: int) -> int:
    log = os.open(out.parent / f"{out.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(900, exit=True)
    points = 0

    def count() -> None:
        nonlocal points
        points += 1
        if points == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open"
            and isinstance(arguments[2], int)
            and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if changes and str(out) in str(arguments[0]):
            count()

    step = Scheduler.step

    def counted(self: Scheduler) -> Any:
        count()
        return step(self)

    Scheduler.step = counted  # pyright: ignore[reportAttributeAccessIssue]
    sys.addaudithook(look)
    data = folder / ("pairs.jsonl" if stage == "dpo" else "prompts.jsonl")
    model = "" if stage == "evaluate" else "model_name_or_path: tiny\n"
    text = f"stage: {stage}\noutput_dir: {out}\ndataset: {data}\n{model}num_threads: 1\n{RECIPES[stage]}"
    run_plan(make_plan(parse_recipe(text, file="r.yaml"), {}, output_dir=str(out)))
    return points


def untimed(value: Any) -> Any:
    """`value` without the figures that differ from run to run: seconds, speeds and memory."""
    if isinstance(value, dict):
        timed = ("time_s", "tokens_per_s", "memory_gb", "generation_s", "step_s")
        return {key: untimed(item) for key, item in value.items() if key not in timed}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def content(out: Path) -> dict[str, Any]:
    """Everything a run made that shall not depend on interruptions, by file."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in out.rglob("*") if p.is_file()):
        name = file.relative_to(out).as_posix()
        if file.name == "run.json":
            found[name] = untimed(json.loads(file.read_text(encoding="utf-8"))["results"])
        elif file.name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            found[name] = untimed(rows)
        elif file.suffix in (".safetensors", ".jsonl") and "checkpoints" not in file.parts:
            found[name] = file.read_bytes().replace(str(out).encode(), b"OUT")
    return found


def trials(folder: Path, stage: str, number: int, seed: int = 0) -> list[dict[str, Any]]:
    """The outcome of each trial."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ALIGNLOOP_CACHE"] = str(folder / "cache")
    write_rows(folder)
    whole = folder / f"{stage}-whole"
    points = attempt(folder, stage, whole, 0)
    assert points
    expected, draw, outcomes = content(whole), random.Random(seed), []
    for trial in range(number):
        out, kills = folder / f"{stage}-{trial}", list[int]()
        for _ in range(KILLS):
            kill_at = draw.randint(1, points // 4)
            if attempt(folder, stage, out, kill_at) is not None:
                break
            kills.append(kill_at)
        else:
            attempt(folder, stage, out, 0)
        found = content(out)
        differs = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        outcomes.append({"stage": stage, "trial": trial, "kills": kills, "of": points, "differs": differs})
        print(json.dumps(outcomes[-1]), flush=True)
    return outcomes


if __name__ == "__main__":
    trials(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
