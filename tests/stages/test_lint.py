"""Every silent trap, put in on purpose; and clean data that gives no alarm."""

import numpy as np
import pytest

from alignloop.config import PreferenceConfig, PretrainConfig, RewardConfig, SFTConfig, resolve
from alignloop.data.chat import load_template
from alignloop.data.packing import Completion, Group
from alignloop.errors import ConfigError
from alignloop.model.load import load_model
from alignloop.objectives.dpo import DPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.simpo import SimPO
from alignloop.stages import lint_settings as settings_module
from alignloop.stages.checks import agreed_template
from alignloop.stages.lint import (
    Finding,
    SpecialTokens,
    enforce,
    lint_boundary,
    lint_groups,
    special_tokens,
)
from alignloop.stages.lint_settings import lint_data_settings, lint_reference, lint_schedule, lint_settings

BOS, EOS = 1, 2
TOKENS = SpecialTokens(BOS, ((EOS,), (7, 8)))
PAIR = {"probability": 1.0, "margin": 0.0}


def completion(*ids, mask=None):
    return Completion(
        np.asarray(ids, np.int32), np.ones(len(ids), bool) if mask is None else np.asarray(mask)
    )


def group(prompt, *completions, index=0, **values):
    made = tuple(c if isinstance(c, Completion) else completion(*c) for c in completions)
    return Group(np.asarray(prompt, np.int32), made, index, values)


def pair(prompt, chosen, rejected, **values):
    return group(prompt, chosen, rejected, **{**PAIR, **values})


def label(prompt, ids, desirable, *, mismatched=()):
    values = {"desirable": np.asarray([desirable, *[False] * len(mismatched)])}
    if mismatched:
        values["mismatched"] = np.asarray([False, *[True] * len(mismatched)])
    return group(prompt, ids, *mismatched, **values)


def codes(groups, **more):
    return [(f.code, f.severity) for f in lint_groups(groups, TOKENS, **more)]


GOOD = pair([BOS, 10], [11, 12, EOS], [13, EOS])

FAULTS = {
    "double BOS": ([GOOD, pair([BOS, BOS, 10], [11, EOS], [12, EOS])], ("AL101", "error")),
    "double BOS of a document": ([group([], [BOS, BOS, 10, EOS])], ("AL101", "error")),
    "EOS masked as padding": (
        [group([10], completion(11, EOS, mask=[True, False]))],
        ("AL102", "error"),
    ),
    "end of turn masked": (
        [group([10], completion(11, 7, 8, mask=[True, True, False]))],
        ("AL102", "error"),
    ),
    "no EOS anywhere": ([pair([10], [11], [12]), pair([14], [15, 8], [16])], ("AL103", "error")),
    "every label masked": ([group([10], completion(11, EOS, mask=[False, False]))], ("AL105", "error")),
    "a single token that nothing predicts": ([GOOD, group([], [11])], ("AL105", "warning")),
    "some labels masked": (
        [GOOD, group([10], completion(11, EOS, mask=[False, False]))],
        ("AL105", "warning"),
    ),
    "completion removed": ([GOOD, pair([10], [], [12, EOS])], ("AL106", "error")),
    "chosen cut": ([GOOD, pair([10], [11, 12], [13, EOS])], ("AL107", "warning")),
    "best of a ranking cut": (
        [group([10], [11, EOS], [12], [13, EOS], ranks=[2.0, 1.0, 3.0])],
        ("AL107", "warning"),
    ),
    "chosen = rejected": ([GOOD, pair([10], [11, EOS], [11, EOS])], ("AL108", "warning")),
    "always chosen = rejected": ([pair([10], [11, EOS], [11, EOS])], ("AL108", "error")),
    "equal at two ranks": (
        [GOOD, group([10], [11, EOS], [12, EOS], [11, EOS], ranks=[1.0, 2.0, 3.0])],
        ("AL108", "warning"),
    ),
    "empty but for its end": ([GOOD, pair([10], [11, EOS], [7, 8])], ("AL109", "warning")),
    "contradictory pairs": (
        [pair([10], [11, EOS], [12, EOS]), pair([10], [12, EOS], [11, EOS])],
        ("AL110", "warning"),
    ),
    "contradictory by probability": (
        [pair([10], [11, EOS], [12, EOS]), pair([10], [11, EOS], [12, EOS], probability=0.2)],
        ("AL110", "warning"),
    ),
    "contradictory labels": (
        [label([10], [11, EOS], True), label([10], [11, EOS], False)],
        ("AL110", "warning"),
    ),
    "one class": (
        [label([10], [11, EOS], True, mismatched=[[12, EOS]]), label([13], [12, EOS], True)],
        ("AL111", "error"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found_alone(name):
    groups, expected = FAULTS[name]
    assert codes(groups) == [expected]


def test_evaluation_prompts_in_the_training_data():
    unseen = pair([BOS, 99], [11, EOS], [12, EOS])
    assert codes([GOOD], held_out=[GOOD, unseen]) == [("AL112", "warning")]
    assert codes([GOOD], held_out=[unseen]) == []
    document = group([], [5, 6, EOS])
    assert codes([document], held_out=[document]) == [("AL112", "warning")]


CLEAN = {
    "pairs": [GOOD, pair([BOS, 14], [15, 7, 8], [16, EOS])],
    "same pair twice": [GOOD, GOOD],
    "a tie both ways": [
        pair([10], [11, EOS], [12, EOS], probability=0.5),
        pair([10], [12, EOS], [11, EOS], probability=0.5),
    ],
    "rejected cut": [GOOD, pair([10], [11, EOS], [12, 13])],
    "demonstrations": [group([10], [11, EOS]), group([12], [13, 7, 8])],
    "a document in pieces": [group([], [3, 4, 5]), group([], [5, 6, EOS])],
    "labels": [
        label([10], [11, EOS], True, mismatched=[[13, EOS]]),
        label([12], [13, EOS], False, mismatched=[[11, EOS]]),
    ],
    "a ranking with a tie": [group([10], [11, EOS], [11, EOS], [12, EOS], ranks=[1.0, 1.0, 2.0])],
    "ratings": [group([10], [11, EOS], ratings=np.asarray([[3.0]], np.float32))],
    "a tool's output uncounted": [group([10], completion(11, 12, EOS, mask=[True, False, True]))],
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_data_give_no_alarm(name):
    assert codes(CLEAN[name]) == []


class Merging:
    """Characters as tokens, but a blank and the letter after it are one token (1000 + its code)."""

    bos_token_id = None
    eos_token_id = 0

    def encode(self, text, *, add_special_tokens):
        ids, i = [], 0
        while i < len(text):
            pair_here = text[i] == " " and text[i + 1 : i + 2].isalpha()
            ids.append(1000 + ord(text[i + 1]) if pair_here else ord(text[i]))
            i += 1 + pair_here
        return ids

    def decode(self, token_ids):
        return "".join(chr(i) if i < 1000 else " " + chr(i - 1000) for i in token_ids)


def test_a_merged_boundary_is_found():
    tokenizer = Merging()

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    assert [f.code for f in lint_boundary([group(encode("A: "), encode("yes"))], tokenizer)] == ["AL104"]
    assert lint_boundary([group(encode("A:\n"), encode("yes"))], tokenizer) == []
    assert lint_boundary([group(encode("A:"), encode(" yes"))], tokenizer) == []


def test_ends_are_the_eos_and_the_templates_end_of_turn():
    tokens = special_tokens(Merging(), "|E")
    assert set(tokens.ends) == {(0,), (ord("|"), ord("E"))}
    assert tokens.end_length(np.asarray([5, ord("|"), ord("E")])) == 2
    assert tokens.end_length(np.asarray([5, ord("|")])) == 0


def config(kind=PreferenceConfig, **keys):
    return kind(**{"dataset": "x.jsonl", "output_dir": "runs/x", **keys})


def found(made, objective=None, **more):
    return [(f.code, f.severity) for f in lint_settings(made, objective, **more)]


LARGE = {"num_parameters": 135_000_000}


def test_a_learning_rate_of_another_method():
    assert found(config(learning_rate=2e-4), DPO(), **LARGE) == [("AL201", "warning")]
    assert found(config(learning_rate=2e-4, lora_r=16), DPO(), **LARGE) == []
    assert found(config(learning_rate=2e-4), DPO(), num_parameters=300_000) == []  # small models want it
    assert found(config(SFTConfig, learning_rate=5e-9)) == [("AL201", "warning")]


def test_a_beta_of_another_method():
    assert found(config(), SimPO(beta=0.1)) == [("AL202", "warning")]
    assert found(config(), DPO(beta=2.0)) == [("AL202", "warning")]
    assert found(config(), DPO(beta=1e-12)) == [("AL202", "warning")]


def test_kto_with_one_row_a_step():
    assert found(config(per_device_train_batch_size=1), KTO()) == [("AL205", "error")]
    assert found(config(per_device_train_batch_size=1, gradient_accumulation_steps=8), KTO()) == []


def test_bfloat16_on_a_slow_cpu(monkeypatch):
    monkeypatch.setattr(settings_module, "bf16_is_native", lambda: False)
    assert found(config(dtype="bfloat16", device="cpu"), DPO()) == [("AL206", "error")]
    monkeypatch.setattr(settings_module, "bf16_is_native", lambda: True)
    assert found(config(dtype="bfloat16", device="cpu"), DPO()) == []


def test_a_missing_reference():
    assert found(config(reference="none"), DPO()) == [("AL207", "error")]
    assert found(config(reference="none"), ORPO()) == []


def test_another_models_reference():
    one, two = load_model("tiny", device="cpu"), load_model("tiny", device="cpu")
    mine = (one.model.config, one.tokenizer)
    assert lint_reference(mine, (two.model.config, two.tokenizer), name="b") == []
    two.model.config.num_hidden_layers += 1
    (shape,) = lint_reference(mine, (two.model.config, two.tokenizer), name="b")
    assert (shape.code, shape.severity) == ("AL208", "error")
    assert "num_hidden_layers 3 for 2" in shape.sentence
    two.tokenizer.add_tokens(["<new>"])
    other = lint_reference(mine, (two.model.config, two.tokenizer), name="b")
    assert [(f.code, f.severity) for f in other] == [("AL208", "error")]


def test_the_schedule():
    assert [f.code for f in lint_schedule(config(warmup_steps=50), 20)] == ["AL203"]
    assert [f.code for f in lint_schedule(config(), 20, done=20)] == ["AL211"]
    assert lint_schedule(config(warmup_ratio=0.1), 20, done=19) == []


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("top_p", 0.9, "AL204"),
        ("top_k", 40, "AL204"),
        ("min_p", 0.1, "AL204"),
        ("num_generations", 1, "AL210"),
    ],
)
def test_rl_settings_that_the_recipe_reader_refuses(key, value, code):
    """Truncated sampling and groups of one never get as far as the linter."""
    rest = {"dataset": "x.jsonl", "output_dir": "runs/x", "rewards": [{"verifier": "math"}]}
    assert resolve("grpo", rest).config
    with pytest.raises(ConfigError, match=rf"^{key}: .*{code}"):
        resolve("grpo", {**rest, key: value})


@pytest.mark.parametrize(
    ("stage", "key"), [("dpo", "beta"), ("dpo", "learning_rate"), ("orpo", "lam"), ("sft", "learning_rate")]
)
def test_a_strength_of_zero_is_refused(stage, key):
    with pytest.raises(ConfigError, match=rf"^{key}: value 0 is not accepted.*AL212"):
        resolve(stage, {"dataset": "x.jsonl", "output_dir": "runs/x", key: 0})
    with pytest.raises(ConfigError, match=r"above 0( or auto)?$"):
        resolve(stage, {"dataset": "x.jsonl", "output_dir": "runs/x", key: -1})


def data_codes(config, objective, groups, num_positions=1000):
    found = lint_data_settings(config, objective, groups, num_positions=num_positions)
    return [(f.code, f.severity) for f in found]


def test_a_row_longer_than_the_token_budget():
    groups = [pair([5] * 40, [6] * 20, [7] * 30)]  # 70 tokens with the longer completion, 90 in all
    assert data_codes(config(token_budget=69), DPO(), groups) == [("AL113", "warning")]
    assert data_codes(config(token_budget=70), DPO(), groups) == []  # the group runs in two pieces


def test_a_row_longer_than_the_model_has_positions():
    groups = [pair([5] * 40, [6] * 20, [7] * 30)]
    assert data_codes(config(), DPO(), groups, num_positions=69) == [("AL115", "error")]
    assert data_codes(config(), DPO(), groups, num_positions=70) == []


def test_class_weights_of_kto():
    groups = [label([i], [11, EOS], i < 2) for i in range(8)]  # 2 good, 6 bad
    assert data_codes(config(), KTO(), groups) == [("AL114", "warning")]
    assert data_codes(config(), KTO(desirable_weight=3.0), groups) == []
    assert data_codes(config(), KTO(), groups[:2]) == []  # one class: AL111


def test_a_template_other_than_that_of_training(tmp_path):
    loaded = load_model("tiny", device="cpu")
    load_template("chatml", loaded.tokenizer).save(tmp_path)
    loaded.path = tmp_path
    assert agreed_template(loaded, "tokenizer").name == "chatml"
    assert agreed_template(loaded, "chatml").name == "chatml"
    with pytest.raises(ConfigError, match="AL209 error: the model was trained with chat template 'chatml'"):
        agreed_template(loaded, "alpaca")


@pytest.mark.parametrize("kind", [PreferenceConfig, RewardConfig, SFTConfig, PretrainConfig])
def test_default_settings_give_no_alarm(kind):
    assert found(config(kind), None, **LARGE) == []


def test_errors_stop_and_warnings_are_told():
    told = []
    warning = Finding("AL1", "warning", "odd", "look")
    enforce([warning], told.append)
    assert told == ["AL1: odd; look"]
    with pytest.raises(ConfigError, match="AL2 error: bad; change it"):
        enforce([Finding("AL2", "error", "bad", "change it"), warning], told.append)


def test_the_tiny_models_templates_end_a_completion():
    """What the encoder makes of an answer ends for the linter too, with every built-in template."""
    tokenizer = load_model("tiny", device="cpu").tokenizer
    for name in ("tokenizer", "chatml", "alpaca", "plain"):
        template = load_template(name, tokenizer)
        tokens = special_tokens(tokenizer, template.end)
        ids = tokenizer.encode(template.render_completion("yes"), add_special_tokens=False)
        assert tokens.end_length(np.asarray(ids)) > 0, name
