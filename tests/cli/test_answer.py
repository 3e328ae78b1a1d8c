"""`alignloop answer`: best-of-n at inference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.cli.answer import reward_term, rewards_config
from alignloop.config.reward_models import RewardsConfig
from alignloop.data.columns import read_records, write_records
from alignloop.data.instructions import instruction_prompts
from alignloop.errors import ConfigError
from alignloop.evaluation.best_of_n import best_of_n_kl
from alignloop.model.generate import generate
from alignloop.model.sampling import SamplingParams
from alignloop.records import Demonstration, Message, Prompt
from alignloop.serve.served import open_policy
from alignloop.stages.best_answers import BestAnswer, best_answers, reward_curve
from alignloop.stages.scoring import build_reward


def vowels(samples):
    """A reward that random texts differ in."""
    return [float(sum(letter in "aeiou" for letter in s.completion)) for s in samples]


VOWELS = "tests.cli.test_answer:vowels"


def test_the_best_of_the_samples_is_chosen() -> None:
    policy = open_policy("tiny")
    prompts = [Prompt((Message("user", text),)) for text in ("비가 오나요?", "one two")]
    reward = build_reward(RewardsConfig(rewards=({"function": VOWELS},)), prompts, max_tokens=12)
    params = SamplingParams(max_tokens=12, seed=3)
    found = best_answers(policy.loaded, policy.encoder, prompts, reward, params, n=4)
    ids = [policy.encoder.prompt(p.prompt).tolist() for p in prompts]
    want = generate(policy.loaded.model, policy.loaded.tokenizer, ids, params, n=4)
    for best, row in zip(found, want, strict=True):
        texts = [one.text.strip() for one in row]
        assert best.answers == tuple(texts)
        counts = [sum(letter in "aeiou" for letter in text) for text in texts]
        assert best.rewards == tuple(map(float, counts))
        assert best.text == texts[counts.index(max(counts))]


def test_cut_answers_pay_for_it() -> None:
    policy, prompts = open_policy("tiny"), [Prompt((Message("user", "a"),))]
    config = RewardsConfig(rewards=({"function": VOWELS},), missing_eos="replace", missing_eos_value=-7.0)
    reward = build_reward(config, prompts, max_tokens=1)
    found = best_answers(policy.loaded, policy.encoder, prompts, reward, SamplingParams(max_tokens=1), n=3)
    assert found[0].rewards == (-7.0,) * 3


def test_ties_take_the_first_and_the_curve_is_that_of_subsets() -> None:
    best = BestAnswer(Prompt((Message("user", "?"),)), ("a", "b", "c"), (1.0, 2.0, 2.0))
    assert (best.index, best.text, best.reward) == (1, "b", 2.0)
    row = best.row("m")
    assert row["rewards"] == [1.0, 2.0, 2.0]
    curve = reward_curve([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]], 3)
    # best of 2 of (1, 2, 4): (2 + 4 + 4)/3; of (0, 0, 3): (0 + 3 + 3)/3
    expected = [(7 / 3 + 1) / 2, (10 / 3 + 2) / 2, (4 + 3) / 2]
    assert [point["reward"] for point in curve] == pytest.approx(expected)
    assert [point["kl"] for point in curve] == [best_of_n_kl(n) for n in (1, 2, 3)]


def test_one_prompt_prints_its_best_answer() -> None:
    words = ["answer", "tiny", "비가 오나요?", "--reward", VOWELS, "-n", "4", "--max-tokens", "12"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    policy = open_policy("tiny")
    ids = [policy.encoder.prompt([Message("user", "비가 오나요?")]).tolist()]
    row = generate(policy.loaded.model, policy.loaded.tokenizer, ids, SamplingParams(max_tokens=12), n=4)[0]
    texts = [one.text.strip() for one in row]
    counts = [sum(letter in "aeiou" for letter in text) for text in texts]
    assert result.stdout == texts[counts.index(max(counts))] + "\n"
    assert f"reward {max(counts):.4g}, mean of the 4 {sum(counts) / 4:.4g}" in result.stderr
    assert "at most 0.64 nats" in result.stderr  # ln 4 − 3/4


def test_a_file_of_prompts_becomes_demonstrations(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    write_records(file, instruction_prompts("train", 3, 0, ("lowercase",)))
    file.write_text(file.read_text(encoding="utf-8") + '{"prompt": 7}\n', encoding="utf-8")
    words = ["answer", "tiny", "--prompts", str(file), "--max-tokens", "8"]
    words += ["--reward", "constraints", "--reward", "{penalty: length, weight: 0.5}", "--best-of", "2"]
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "best.jsonl")])
    assert result.exit_code == 0, result.output
    records = read_records(str(tmp_path / "best.jsonl"), kind="demonstration").records
    assert len(records) == 3
    rows = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text("utf-8").splitlines()]
    for record, row in zip(records, rows, strict=True):
        assert isinstance(record, Demonstration)
        assert record.completion == row["completion"]
        assert record.provenance.details["reward"] == max(row["rewards"])
    assert "3 prompts, reward of the best: " in result.stderr
    assert "1 rows dropped; first: " in result.stderr
    again = CliRunner().invoke(app, words)
    assert again.stdout == (tmp_path / "best.jsonl").read_text(encoding="utf-8")


def test_rewards_by_their_shortest_name(tmp_path: Path) -> None:
    assert reward_term("math") == {"verifier": "math"}
    assert reward_term("overlong") == {"penalty": "overlong"}
    assert reward_term("my.module:score") == {"function": "my.module:score"}
    assert reward_term("runs/reward") == {"model": "runs/reward"}
    assert reward_term("C:/runs/reward") == {"model": "C:/runs/reward"}
    assert reward_term("{model: runs/r, weight: 2}") == {"model": "runs/r", "weight": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["?"], "--reward is missing"),
        (["--reward", "math"], "either a prompt or --prompts"),
        (["?", "--prompts", "x.jsonl", "--reward", "math"], "either a prompt or --prompts"),
        (["?", "--reward", "{model: a, verifier: math}"], "each part has exactly one of"),
        (["?", "--reward", "{model: ["], "not readable as YAML"),
        (["?", "--reward", "constraints"], "constraints"),
        (["?", "--reward", "no/such/run"], "no/such/run"),
    ],
)
def test_what_cannot_be_answered_is_said(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["answer", "tiny", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_chat_answers_with_the_best() -> None:
    words = ["chat", "tiny", "--best-of", "3", "--reward", VOWELS, "--max-tokens", "6", "--seed", "5"]
    result = CliRunner().invoke(app, [*words, "--votes", "none"], input="비가 오나요?\n")
    assert result.exit_code == 0, result.output
    policy = open_policy("tiny")
    prompt = [Prompt((Message("user", "비가 오나요?"),))]
    reward = build_reward(rewards_config([VOWELS]), prompt, max_tokens=6)
    params = SamplingParams(temperature=0.8, max_tokens=6, seed=5)
    best = best_answers(policy.loaded, policy.encoder, prompt, reward, params, n=3)[0]
    assert result.stdout == best.text + "\n"
    missing = CliRunner().invoke(app, ["chat", "tiny", "--best-of", "3", "--votes", "none"], input="?\n")
    assert (missing.exit_code, "--reward is missing" in missing.stderr) == (2, True)


def test_a_judge_needs_what_a_recipe_needs() -> None:
    with pytest.raises(ConfigError, match="a judge needs `certificate:`"):
        rewards_config(["{judge: tiny}"])
