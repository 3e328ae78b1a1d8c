"""AI feedback as stages: judges, constitution, mixed labels, judges as rewards, recipes end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from alignloop import api
from alignloop.config import (
    ConstitutionConfig,
    JudgeConfig,
    MixConfig,
    RefusalsConfig,
    make_plan,
    parse_overrides,
)
from alignloop.config.shipped import find_recipe, load_recipe
from alignloop.data.columns import read_records, write_records
from alignloop.errors import ConfigError, DataError, EngineError, RunError, UserError
from alignloop.judges.adviser import Ask, Reply
from alignloop.judges.certify import CertificateMeasure
from alignloop.pipeline import run_plan
from alignloop.records import Message, Preference, Provenance
from alignloop.report import write_report
from alignloop.stages import judge as judge_stage
from alignloop.stages import judging
from tests.judges.scripted import Scripted, by_taste
from tests.stages.task import recipe, run_stage

ALL = ("swap_consistency", "length_preference", "kappa", "null_win_rate")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reply of another test or run."""
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Twenty prompts with three answers of 1, 3 and 5 words."""
    file = tmp_path / "answers.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"질문 {k}"}],
            "responses": [" ".join([f"말{k}"] * n) for n in (1, 3, 5)],
            "provenance": {"file": "p", "line": k + 1, "origin": "unknown", "details": {"model": "m"}},
        }
        for k in range(20)
    ]
    file.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return file


def use(monkeypatch: pytest.MonkeyPatch, *advisers) -> None:
    """Judges by name instead of models."""
    named = {adviser.name: adviser for adviser in advisers}
    monkeypatch.setattr(judge_stage, "open_adviser", lambda source, **_: named[source["model"]])


def config(tmp_path: Path, answers: Path, **keys) -> JudgeConfig:
    judges = keys.pop("judges", ({"model": "brief"},))
    return JudgeConfig(dataset=str(answers), output_dir=str(tmp_path / "judge"), judges=judges, **keys)


def test_labels_say_how_they_were_made(tmp_path, answers, monkeypatch):
    use(monkeypatch, by_taste(lambda text: -len(text), "brief"))
    run = api.run(config(tmp_path, answers, pairs=3, reasons=True, override=("kappa", "length_preference")))
    rows = read_records(str(run.path)).records
    assert len(rows) == 60
    for row in rows:
        assert isinstance(row, Preference)
        assert len(row.chosen) < len(row.rejected)
        assert row.probability == 1
        details = row.provenance.details
        assert row.provenance.origin == "ai"
        assert (details["judge"], details["rubric"], details["reason"]) == ("brief", "default", "because")
        assert (details["order_1"], details["order_2"], details["model"]) == (1, 1, "m")
    results = run.record["results"]
    assert results["num_pairs"] == results["num_judgements"] == 60
    found = {row["name"]: row for row in results["certification"]}
    assert found["length_preference"]["value"] == 0
    assert found["swap_consistency"]["passed"]
    assert results["labels"][0]["source"] == "ai"
    verdicts = [json.loads(line) for line in (run.path / "verdicts.jsonl").open(encoding="utf-8")]
    assert verdicts[0]["verdicts"]["brief"]["reasons"] == ["because", "because"]
    assert "brief" in write_report(run.path).read_text(encoding="utf-8")


def test_a_judge_that_fails_is_refused_and_overridden_by_name(tmp_path, answers, monkeypatch):
    use(monkeypatch, Scripted(lambda ask: Reply("", (1.0, 0.0, 0.0)), "brief"))
    with pytest.raises(UserError, match=r"judge 'brief' is not certified: swap_consistency 0\.00"):
        api.run(config(tmp_path, answers))
    certificate = judging.read_certificates(tmp_path / "judge")[0]
    assert set(certificate.failed) == set(ALL)
    done = api.run(
        config(tmp_path, answers, override=ALL).model_copy(update={"output_dir": str(tmp_path / "b")})
    )
    assert any("did not pass" in text for text in done.record["warnings"])
    assert {row.probability for row in read_records(str(done.path)).records} == {0.5}  # pyright: ignore
    dropping = config(tmp_path, answers, override=ALL, ties="drop")
    with pytest.raises(DataError, match="none of 20 pairs got a verdict other than a tie"):
        api.run(dropping.model_copy(update={"output_dir": str(tmp_path / "c")}))


def test_human_labels_give_kappa(tmp_path, answers, monkeypatch):
    use(monkeypatch, by_taste(lambda text: -len(text), "brief"))
    rows = [
        Preference((Message("user", f"q{k}"),), "short", "much longer", provenance=Provenance(origin="human"))
        for k in range(40)
    ]
    write_records(tmp_path / "human.jsonl", rows)
    run = api.run(
        config(
            tmp_path, answers, human_dataset=str(tmp_path / "human.jsonl"), override=("length_preference",)
        )
    )
    kappa = next(r for r in run.record["results"]["certification"] if r["name"] == "kappa")
    assert (kappa["value"], kappa["passed"], kappa["n"]) == (1, True, 40)


def test_a_panel_reports_its_agreement(tmp_path, answers, monkeypatch):
    use(monkeypatch, by_taste(lambda t: -len(t), "brief"), by_taste(lambda t: (len(t) * 7) % 11, "odd"))
    run = api.run(
        config(tmp_path, answers, judges=({"model": "brief"}, {"model": "odd"}), pairs=2, override=ALL)
    )
    results = run.record["results"]
    assert {row["measure"] for row in results["agreement"]} >= {"Krippendorff α", "Gwet AC1"}
    assert [row["judge"] for row in results["account"]] == ["brief", "odd"]
    rows = read_records(str(run.path)).records
    assert {row.provenance.details["judge"] for row in rows} == {"brief, odd"}
    assert {row.probability for row in rows} <= {0.5, 1.0}  # pyright: ignore


def test_principles_and_hard_labels(tmp_path, answers, monkeypatch):
    use(monkeypatch, by_taste(lambda t: -len(t), "brief"))
    soft = api.run(config(tmp_path, answers, principles="default", clamp=0.1, override=ALL))
    rows = read_records(str(soft.path)).records
    assert {row.probability for row in rows} == {0.6}  # pyright: ignore
    assert len({row.provenance.details["principle"] for row in rows}) > 3
    hard = config(tmp_path, answers, clamp=0.1, soft_labels=False, override=ALL)
    run = api.run(hard.model_copy(update={"output_dir": str(tmp_path / "hard")}))
    assert {row.probability for row in read_records(str(run.path)).records} == {1.0}  # pyright: ignore


def test_a_stopped_stage_asks_only_what_is_missing(tmp_path, answers, monkeypatch):
    """The endpoint goes down half-way; the same command goes on from there."""
    good = by_taste(lambda t: -len(t), "brief")
    left = [30]

    def dies(ask: Ask) -> Reply:
        left[0] -= 1
        if left[0] < 0:
            raise EngineError("down")
        return good.answer(ask)

    from alignloop.judges.adviser import Cached

    use(monkeypatch, Cached(Scripted(dies, "brief"), tmp_path / "replies"))
    keys = {"override": ALL, "certify_pairs": 4}
    with pytest.raises(EngineError, match="down"):
        api.run(config(tmp_path, answers, **keys))
    back = Scripted(good.answer, "brief")
    use(monkeypatch, Cached(back, tmp_path / "replies"))
    run = api.run(config(tmp_path, answers, **keys))
    # 4 examined pairs and 4 constant answers are 16 questions, 20 pairs are 40 of which 8 are the same
    assert len(back.asked) == 16 + 40 - 8 - 30
    assert len(read_records(str(run.path)).records) == 20


def test_settings_that_do_not_go_together(tmp_path, answers, monkeypatch):
    with pytest.raises(ConfigError, match="concurrency need an endpoint"):
        api.run(config(tmp_path, answers, judges=({"model": "tiny", "concurrency": 3},)))
    source = {"model": "m", "endpoint": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY_HERE"}
    with pytest.raises(ConfigError, match="environment variable NO_SUCH_KEY_HERE holds no API key"):
        judging.open_adviser(source)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="a judge is there twice"):
        config(tmp_path, answers, judges=({"model": "m"}, {"model": "m"}))
    with pytest.raises(ConfigError, match="override"):
        config(tmp_path, answers, override=("kapa",))


def test_constitution_writes_the_last_revisions_and_keeps_the_chains(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "Hello there"}\n{"prompt": "안녕하세요"}\n{"prompt": "Bye"}\n', encoding="utf-8"
    )
    keys = {"dataset": str(file), "model_name_or_path": "tiny", "max_new_tokens": 6, "max_critique_tokens": 5}
    run = api.run(ConstitutionConfig(output_dir=str(tmp_path / "c"), rounds=2, benign_prompts=3, **keys))
    chains = [json.loads(line) for line in (run.path / "chains.jsonl").open(encoding="utf-8")]
    assert [chain["benign"] for chain in chains] == [False] * 3 + [True] * 3
    assert [chain["language"] for chain in chains[:3]] == ["en", "ko", "en"]
    rows = read_records(str(run.path))
    assert rows.kind == "demonstration"
    for row, chain in zip(rows.records, chains, strict=False):
        assert row.completion == chain["rounds"][-1]["revision"].strip()  # pyright: ignore
        assert row.provenance.origin == "ai"
        names = [r["principle"] for r in chain["rounds"]]
        assert row.provenance.details["principles"] == ", ".join(names)
    metrics = run.record["results"]["metrics"]
    assert {"refusal_rate", "boilerplate_rate", "harmless_refusal_rate", "length"} <= set(metrics)
    again = api.run(ConstitutionConfig(output_dir=str(tmp_path / "d"), rounds=2, benign_prompts=3, **keys))
    assert (again.path / "chains.jsonl").read_bytes() == (run.path / "chains.jsonl").read_bytes()
    assert again.record["results"]["account"][0]["num_asked"] == 0
    other = api.run(
        ConstitutionConfig(output_dir=str(tmp_path / "e"), rounds=2, seed=1, benign_prompts=0, **keys)
    )
    drawn = [
        [r["principle"] for r in json.loads(line)["rounds"]] for line in (other.path / "chains.jsonl").open()
    ]
    assert drawn != [[r["principle"] for r in chain["rounds"]] for chain in chains[:3]]


def test_refusals_of_a_model_against_itself(tmp_path):
    stage = RefusalsConfig(
        before="tiny", after="tiny", num_prompts=4, max_new_tokens=5, output_dir=str(tmp_path / "r")
    )
    metrics = api.run(stage).record["results"]["metrics"]
    assert metrics["refusal_rate"]["before"] == metrics["refusal_rate"]["after"] == 0
    assert metrics["length"]["before"] == metrics["length"]["after"]


def test_human_and_ai_labels_are_mixed_beside_a_human_control(tmp_path):
    def rows(origin, count, flip=()):
        pairs = [("a", "b") if k not in flip else ("b", "a") for k in range(count)]
        who = {"annotator": "민지", "judgement": 7} if origin == "human" else {"judge": "m"}
        return [
            Preference(
                (Message("user", f"q{k}"),),
                *pair,
                provenance=Provenance(
                    "f", k, origin, {**who, **({"judgement": k + 1} if "annotator" in who else {})}
                ),
            )
            for k, pair in enumerate(pairs)
        ]

    write_records(tmp_path / "human.jsonl", rows("human", 20, flip=range(0, 20, 2)))
    write_records(tmp_path / "ai.jsonl", rows("ai", 40, flip=[0, 2, 4, 6, 8]))
    stage = MixConfig(
        human=str(tmp_path / "human.jsonl"),
        ai=str(tmp_path / "ai.jsonl"),
        human_weight=2,
        ai_weight=0.5,
        held_out_fraction=0.2,
        output_dir=str(tmp_path / "mix"),
    )
    run = api.run(stage)
    held = read_records(str(run.path / "held_out" / "rows.jsonl")).records
    control = read_records(str(run.path / "control" / "rows.jsonl")).records
    mixed = read_records(str(run.path)).records
    assert len(held) == 4
    assert len(control) == 32  # 16 twice
    origins = [row.provenance.origin for row in mixed]
    assert (origins.count("human"), origins.count("ai")) == (32, 18)  # half of 36
    prompts = {row.prompt for row in held}  # pyright: ignore
    assert not prompts & {row.prompt for row in [*mixed, *control]}  # pyright: ignore
    results = run.record["results"]
    by_source = {row["source"]: row for row in results["labels"]}
    assert by_source["human"]["by"] == "민지"
    assert by_source["human"]["rows"] == 32
    # 20 pairs judged by both, 5 of them differently: observed ¾; people half and half, so κ = ½
    assert results["agreement"][0]["same"] == 0.75
    assert results["agreement"][0]["kappa"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="40 of 40 rows are AI labels"):
        api.run(stage.model_copy(update={"human": stage.ai, "output_dir": str(tmp_path / "no")}))


def likes_b(ask: Ask) -> Reply:
    """Grade 5 for the answer b, grade 1 for any other."""
    good = "<answer>\nb\n</answer>" in ask.messages[1].content
    return Reply("", (0.0, 0.0, 0.0, 0.0, 1.0) if good else (1.0, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("stage", ["grpo", "iterate"])
def test_a_judge_is_a_reward(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(judging, "open_adviser", lambda *_, **__: Scripted(likes_b, "j"))
    rewards = [{"judge": "j", "certificate": "none"}]
    if stage == "grpo":
        keys = recipe(tmp_path, rewards=rewards, num_generations=8, max_steps=6)
    else:
        keys = recipe(
            tmp_path, rewards=rewards, num_generations=16, pairs_per_prompt=8, rounds=2, num_train_epochs=2
        )
        keys = {k: v for k, v in keys.items() if k not in ("rollout_prompts", "log_samples")}
        keys["learning_rate"] = 3e-4
    rows = list(run_stage(stage, keys).metrics())
    values = [row["reward"] for row in rows if "reward" in row]
    assert values[-1] > values[0] + 0.2
    assert -1 <= min(values) <= max(values) <= 1


def test_a_judge_as_reward_needs_a_certificate_of_its_own(tmp_path, monkeypatch):
    adviser = Scripted(likes_b, "j")
    monkeypatch.setattr(judging, "open_adviser", lambda *_, **__: adviser)
    with pytest.raises(ConfigError, match="needs `certificate:`"):
        run_stage("grpo", recipe(tmp_path, rewards=[{"judge": "j"}]))
    with pytest.raises(RunError, match="no certificate here"):
        judging.judge_component({"judge": "j", "certificate": str(tmp_path)})
    rubric = judging.load_rubric("default")
    for identity, failed, message in (
        ("other", [], "is not of judge 'j'"),
        (f"{adviser.identity}|{rubric.identity}|auto|False", ["kappa"], "failed its certification in kappa"),
    ):
        measure = CertificateMeasure("kappa", 0.1, 0.0, 0.2, 9, 0.2, not failed)
        judging.write_certificate([judging.Certificate("j", identity, (measure,))], tmp_path)
        with pytest.raises(ConfigError, match=message):
            judging.judge_component({"judge": "j", "certificate": str(tmp_path)})
    (tmp_path / "certificate.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="is damaged"):
        judging.judge_component({"judge": "j", "certificate": str(tmp_path)})


def test_completions_without_a_grade_get_the_mean_of_the_others() -> None:
    from alignloop.judges.rubric import load_rubric
    from alignloop.records import Prompt
    from alignloop.rl.rewards import Sample

    def sometimes(ask: Ask) -> Reply:
        return Reply(fault="nonsense") if "\nx\n" in ask.messages[1].content else likes_b(ask)

    score = judging.grader(Scripted(sometimes), load_rubric("default"))
    prompt = Prompt((Message("user", "q"),))
    samples = [Sample(prompt, text, 1, True) for text in ("b", "a", "b", "b", "a", "x")]
    assert score(samples) == pytest.approx([1, -1, 1, 1, -1, 0.2])
    with pytest.raises(EngineError, match="no grade to 1 of 2"):
        score([samples[0], samples[-1]])


@pytest.mark.parametrize("name", ["rlaif-tiny", "constitutional-tiny"])
def test_recipes_run_from_prompts_to_a_policy(tmp_path, name):
    plan = make_plan(load_recipe(find_recipe(name)), parse_overrides([f"output_dir={tmp_path / 'run'}"]))
    outcomes = {o.name: o for o in run_plan(plan, say=lambda text: None)}
    assert outcomes["judge"].results["origin"] == "ai"
    assert math.isfinite(outcomes["grpo"].results["loss"])
    labels = outcomes["reward"].results["labels"]
    assert [row["source"] for row in labels] == ["ai"]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "swap_consistency" in page
    if name.startswith("constitutional"):
        assert {"refusal_rate", "shared_sentences"} <= set(outcomes["refusals"].results["metrics"])
