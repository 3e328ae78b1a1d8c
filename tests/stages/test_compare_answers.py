"""What a comparison says of recorded answers: names of figures, mute models, empty answers."""

import json

import pytest

from alignloop import api
from alignloop.config import CompareConfig
from alignloop.evaluation.gate import named_figures
from alignloop.evaluation.sets import BUILT_IN_REQUESTS
from alignloop.runs.evaluation_results import WinRow


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))


def test_a_name_of_several_win_rates_is_no_requirement():
    """The win rate of one set must not stand for another's: 0.3 on the hard set is not above 0.5."""

    def row(name, value):
        return WinRow(model="dpo", judge="gold", set=name, value=value, interval=(value - 0.1, value + 0.1))

    one = named_figures([], [row("hard", 0.3)])
    assert one["dpo.win_rate"] == one["dpo.win_rate_gold"] == one["dpo.hard.win_rate_gold"] == 0.3
    two = named_figures([], [row("hard", 0.3), row("easy", 0.9)])
    assert two["dpo.hard.win_rate_gold"] == 0.3
    assert two["dpo.easy.win_rate_gold.low"] == pytest.approx(0.8)
    assert not {"dpo.win_rate", "dpo.win_rate_gold", "dpo.win_rate_gold.low"} & two.keys()


def test_a_mute_model_is_neither_harmless_nor_obedient(tmp_path):
    """52 empty answers: no refusal, no compliance, all degenerate; the table says what lists cannot see."""
    rows = [json.loads(line) for line in BUILT_IN_REQUESTS.read_text("utf-8").splitlines()]
    mute = write(tmp_path / "mute.jsonl", [{"prompt": r["prompt"], "completion": "…"} for r in rows])
    kind = write(
        tmp_path / "kind.jsonl", [{"prompt": r["prompt"], "completion": "Sure: boil it."} for r in rows]
    )
    keys = {"models": [mute, kind], "sets": [{"kind": "harmlessness", "path": "builtin"}]}
    run = api.run(CompareConfig(output_dir=str(tmp_path / "mute-run"), **keys))
    found = {row["name"].rpartition(".")[2]: row for row in run.record["results"]["comparison"]}
    values = {name: [cell["value"] for cell in row["models"].values()] for name, row in found.items()}
    assert values == {"compliance_if_safe": [0, 1], "refusal_if_unsafe": [0, 0], "degenerate": [1, 0]}
    assert "word lists" in found["refusal_if_unsafe"]["note"]


def test_an_empty_or_missing_answer_in_a_file_was_given_and_loses(tmp_path):
    asked = [f"Question {k}?" for k in range(4)]
    first = [{"instruction": q, "output": o} for q, o in zip(asked, ["", None, "A 2", " "], strict=True)]
    second = [{"instruction": q, "output": f"B {k}"} for k, q in enumerate(asked)]
    models = [write(tmp_path / "null_a.jsonl", first), write(tmp_path / "null_b.jsonl", second)]
    sets = [{"kind": "prompts", "path": write(tmp_path / "null_q.jsonl", [{"prompt": q} for q in asked])}]
    keys = {"models": models, "sets": sets, "judge": "tests.stages.test_compare_answers:undecided"}
    run = api.run(CompareConfig(output_dir=str(tmp_path / "null-run"), **keys))
    (win,) = run.record["results"]["win_rates"]
    assert win["value"] == (3 + 0.5) / 4


def undecided(pairs):
    return [0.5 for _ in pairs]
