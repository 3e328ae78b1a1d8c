"""Results of every family of stages: what is written, what is read, and that nobody else knows the keys."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from alignloop.errors import RunError
from alignloop.runs import Run, evaluation_results, results
from alignloop.runs.evaluation_results import BeforeAfter, Compared, Evaluated, MetricRow, WinRow
from alignloop.runs.record import needed
from alignloop.runs.results import (
    Estimate,
    HeldOut,
    ResultPart,
    RewardTrained,
    Trained,
    estimates,
    numbers,
    read_results,
)

PACKAGE = Path(__file__).resolve().parent.parent / "alignloop"
FAMILIES = [
    shape
    for module in (results, evaluation_results)
    for shape in vars(module).values()
    if isinstance(shape, type) and issubclass(shape, ResultPart)
]
ODD = (
    None, True, 3, 10**400, 1e400, "text", "\ud800", [], [3], [None, 1], {}, [{}], {"\ud800": {"a": [1]}},
    {"value": "x", "interval": [1]}, {"a": {"b": {"c": 1}}},
)  # fmt: skip


@pytest.mark.parametrize("shape", FAMILIES, ids=lambda shape: shape.__name__)
def test_reading_never_fails(shape):
    for odd in ODD:
        read_results(odd, shape)
        for key in shape.model_fields:
            read_results({key: odd}, shape)


def test_what_was_written_is_read_again_and_stays_the_same_json():
    win = WinRow(
        set="chat", judge="gold", model="dpo", value=0.6, interval=(0.5, 0.7), num_prompts=20, p=None
    )
    line = MetricRow(name="exact", models={"dpo": {"value": 0.5, "interval": [0.4, 0.6]}})
    found = Evaluated(
        num_prompts=20,
        metrics={"kl": BeforeAfter(before=0.0, after=2.5, unit="nats", higher_is_better=None)},
        models=("start", "dpo"),
        win_rates=(win,),
        comparison=(line,),
        win_rate=Estimate(value=0.6, interval=(0.5, 0.7), n=20, level=0.95),
    )
    row = json.loads(json.dumps(found.row()))
    assert row == {
        "num_prompts": 20,
        "metrics": {"kl": {"before": 0.0, "after": 2.5, "unit": "nats", "higher_is_better": None}},
        "win_rate": {"value": 0.6, "interval": [0.5, 0.7], "n": 20, "level": 0.95},
        "models": ["start", "dpo"],
        "comparison": [{"name": "exact", "models": {"dpo": {"value": 0.5, "interval": [0.4, 0.6]}}}],
        "win_rates": [
            {
                "set": "chat", "judge": "gold", "model": "dpo", "value": 0.6, "interval": [0.5, 0.7],
                "p": None, "num_prompts": 20,
            }
        ],
    }  # fmt: skip
    again = read_results(row, Evaluated)
    assert again.row() == row
    assert read_results(row, Compared).win_rates == (win,)
    assert again.known_rates == {"": Estimate(value=0.6, interval=(0.5, 0.7), n=20, level=0.95)}


def test_held_out_means_have_one_form_in_metrics_and_one_in_results():
    logged = {"step": 4, "eval_loss": 0.6, "eval_loss_low": 0.5, "eval_loss_high": 0.7, "eval_kl": 1.0}
    found = HeldOut.of_logged(logged)
    assert found.row() == {"eval_loss": 0.6, "eval_loss_interval": [0.5, 0.7], "eval_kl": 1.0}
    results = {"num_steps": 4, **found.row(), "eval_rows": 12, "loss": 0.9}
    read = read_results(results, Trained).means_held_out
    assert (read.mean("loss"), read.rows) == (Estimate(value=0.6, interval=(0.5, 0.7)), 12)
    assert (read.mean("kl").interval, read.mean("margin").value) == (None, None)
    assert read.row() == {**found.row(), "eval_rows": 12}


def test_data_counted_is_of_the_data_set_or_by_input():
    one = {"kind": "preference", "rows": 9, "origins": {"simulated": 9}}
    assert read_results({"data": one}, Trained).data_by_input == {"dataset": one}
    two = {"human": {"rows": 3}, "ai": {"rows": 4}}
    assert read_results({"data": two}, Trained).data_by_input == two


def test_a_share_is_told_from_a_half_by_its_whole_interval():
    said = {ends: Estimate(interval=ends).against_half for ends in ((0.51, 0.6), (0.4, 0.49), (0.5, 0.6))}
    assert list(said.values()) == ["better", "worse", "undecided"]
    assert Estimate(value=0.9).against_half == ""


def test_numbers_are_found_at_any_depth_with_the_interval_beside_them():
    found = {"a": 1, "b": {"value": 2, "interval": [1, 3]}, "c": {"d": 4, "d_interval": [0, 5]}, "e": [6]}
    assert list(estimates(found)) == [("a", 1, None), ("b", 2, (1, 3)), ("c.d", 4, (0, 5))]
    assert numbers(found) == {"a": 1, "b.value": 2, "c.d": 4}
    assert numbers("damaged") == {}


def test_a_result_that_is_needed_and_not_there_is_a_damaged_run(tmp_path):
    with Run.create(tmp_path / "run", stage="reward", config={"seed": 1}, seed=1) as run:
        run.finish({"reward_std": "much", "loss": 0.5})
    found = Run.open(run.path).results(RewardTrained)
    assert needed(found.loss, "loss", run.path) == 0.5
    with pytest.raises(RunError, match="no usable 'reward_std'"):
        needed(found.reward_std, "reward_std", run.path)


HOLDERS = ("api/results.py", "pipeline.py", "report/folder.py", "runs/folder.py")
"""Files that hand on the results of run.json as a whole."""


def _key(node: ast.AST) -> tuple[ast.expr, str] | None:
    """What is asked for a key by `x["key"]` or `x.get("key")`, and the key."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        owner, key = node.value, node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        owner, key = node.func.value, node.args[0] if node.args else None
    else:
        return None
    return (owner, key.value) if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def asked_keys(source: str) -> list[str]:
    """Keys that a source asks untyped results for, and `results` asked of a record."""
    found = []
    for node in ast.walk(ast.parse(source)):
        owner, key = _key(node) or (None, "")
        name = getattr(owner, "id", getattr(owner, "attr", ""))
        if key == "results" or name == "results" or name.endswith("_results"):
            found.append(key)
    return found


def test_keys_of_results_are_found():
    assert asked_keys('run.record["results"]\nx.results.get("loss")\nresults["a"]\nnews["b"]') == [
        "results", "loss", "a",
    ]  # fmt: skip


def test_no_reader_asks_untyped_results_for_a_key():
    asked = {
        file: keys
        for path in sorted(PACKAGE.rglob("*.py"))
        if (keys := asked_keys(path.read_text("utf-8")))
        for file in [path.relative_to(PACKAGE).as_posix()]
        if not (file in HOLDERS and set(keys) == {"results"})
    }
    assert not asked
