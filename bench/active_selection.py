"""How many labels active selection saves, with simulated annotators who are wrong in 15 % of judgements.

    python bench/active_selection.py [--strategy uncertainty] [--seeds 20] [--json]

Prompts have two answers with D features each; the true reward is linear in them, heavy-tailed over
prompts, so that many comparisons are near ties and some are plain. A reward model is an ensemble of
Bradley-Terry models (ridge logistic regressions of the feature difference) on bootstrap resamples of the
labels. Each round chooses a batch with `labels.select.choose` (its random arm included), has it judged
and trains again. Labels needed: the first count at which accuracy on unseen prompts, averaged over
seeds and interpolated, reaches what random selection reaches with all its labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.labels.select import Strategy, choose

Array = NDArray[np.float64]
MEMBERS = 5
HELD_OUT = 4000


def task(num_prompts: int, dimension: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Features of two answers to each prompt, (N, 2, D), and the true weights, (D,)."""
    spread = rng.lognormal(0.0, 0.5, size=(num_prompts, 1, 1))
    features = rng.normal(size=(num_prompts, 2, dimension)) * spread
    weights = rng.normal(size=dimension)
    return features, weights / np.linalg.norm(weights)


def judged(differences: Array, weights: Array, noise: float, rng: np.random.Generator) -> Array:
    """1 where the first answer is said to be better; a share `noise` of the judgements is flipped."""
    truth = differences @ weights > 0
    return np.where(rng.random(len(truth)) < noise, ~truth, truth).astype(float)


def fitted(differences: Array, labels: Array, *, ridge: float = 1.0, steps: int = 25) -> Array:
    """Weights of a Bradley-Terry model: ridge logistic regression by Newton's method."""
    weights = np.zeros(differences.shape[1])
    for _ in range(steps):
        chance = 0.5 * (1 + np.tanh(differences @ weights / 2))
        gradient = differences.T @ (chance - labels) + ridge * weights
        curvature = (differences * (chance * (1 - chance))[:, None]).T @ differences
        step = np.linalg.solve(curvature + ridge * np.eye(len(weights)), gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def accuracies(strategy: Strategy, options: argparse.Namespace, seed: int) -> list[float]:
    """Accuracy on unseen prompts after each batch of labels."""
    rng = np.random.default_rng(seed)
    features, weights = task(options.prompts, options.dimension, rng)
    unseen, _ = task(HELD_OUT, options.dimension, rng)
    unseen_difference = unseen[:, 0] - unseen[:, 1]
    differences = features[:, 0] - features[:, 1]
    open_ones = np.arange(options.prompts)
    taken: list[int] = []
    labels: list[float] = []
    models = np.zeros((MEMBERS, options.dimension))
    curve = []
    for number in range(options.batches):
        found = choose(
            strategy if number else "random",
            options.batch,
            num_candidates=len(open_ones),
            scores=np.einsum("ed,nkd->enk", models, features[open_ones]),
            seed=seed * 1000 + number,
        )
        chosen = open_ones[found.indices]
        open_ones = np.setdiff1d(open_ones, chosen)
        taken += chosen.tolist()
        labels += judged(differences[chosen], weights, options.noise, rng).tolist()
        seen, said = differences[taken], np.array(labels)
        draws = [rng.integers(len(said), size=len(said)) for _ in range(MEMBERS)]
        models = np.array([fitted(seen[draw], said[draw]) for draw in draws])
        right = (unseen_difference @ fitted(seen, said) > 0) == (unseen_difference @ weights > 0)
        curve.append(float(right.mean()))
    return curve


def labels_needed(counts: Array, curve: Array, wanted: float) -> float:
    """Labels at which a curve first reaches an accuracy, interpolated; infinite if it never does."""
    above = np.flatnonzero(curve >= wanted)
    if not len(above):
        return float("inf")
    at = int(above[0])
    if at == 0:
        return float(counts[0])
    share = (wanted - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(counts[at - 1] + share * (counts[at] - counts[at - 1]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both curves, and the share of labels the strategy needs, with its range over halves of the seeds."""
    counts = options.batch * np.arange(1, options.batches + 1).astype(float)
    random = np.array([accuracies("random", options, seed) for seed in range(options.seeds)])
    active = np.array([accuracies(options.strategy, options, seed) for seed in range(options.seeds)])
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(1000):
        draw = rng.integers(options.seeds, size=options.seeds)
        wanted = float(random[draw].mean(0)[-1])
        shares.append(labels_needed(counts, active[draw].mean(0), wanted) / counts[-1])
    wanted = float(random.mean(0)[-1])
    return {
        "strategy": options.strategy,
        "noise": options.noise,
        "seeds": options.seeds,
        "labels": counts.tolist(),
        "random": random.mean(0).tolist(),
        "active": active.mean(0).tolist(),
        "accuracy_of_random": wanted,
        "share_of_labels": labels_needed(counts, active.mean(0), wanted) / counts[-1],
        "interval": np.percentile(shares, [2.5, 97.5]).tolist(),
        "target": 0.6,
    }


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", choices=["uncertainty", "gap"], default="uncertainty")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=4000, help="candidates")
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--batch", type=int, default=25, help="labels per round")
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main() -> None:
    options = options_of()
    found = measure(options)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    low, high = found["interval"]
    print(f"random, {found['labels'][-1]:.0f} labels: accuracy {found['accuracy_of_random']:.3f}")
    share = f"{found['share_of_labels']:.0%} of them (95 % interval {low:.0%} to {high:.0%})"
    print(f"{found['strategy']} needs {share}; target ≤ {found['target']:.0%}")


if __name__ == "__main__":
    main()
