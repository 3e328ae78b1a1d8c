"""Recipes: what is read, what is refused, and that every finding names its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignloop.config import (
    STAGES,
    GRPOConfig,
    SFTConfig,
    find_stage,
    markdown_table,
    parse_overrides,
    parse_recipe,
    path_values,
    read_recipe,
    resolve,
    stage_names,
    stage_schema,
    starter_recipe,
)
from alignloop.errors import ConfigError
from tests.helpers_config import findings, plan_of

REQUIRED = {"output_dir": "out", "dataset": "rows.jsonl"}


def value(line: str) -> object:
    return parse_recipe(line, file="r.yaml").entries["a"].value


# Reading YAML


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5),  # YAML 1.1 reads text
        ("5E+3", 5000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("010", 10),  # YAML 1.1 reads octal 8
        ("12:30", "12:30"),  # YAML 1.1 reads 750
        ("1_000", "1_000"),
        ("no", "no"),  # YAML 1.1 reads false
        ("off", "off"),
        ("true", True),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("'1e-5'", "1e-5"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{b: 1e-3}", {"b": 1e-3}),
        ("자료/예시.jsonl#500", "자료/예시.jsonl#500"),
    ],
)
def test_plain_values(text: str, expected: object) -> None:
    found = value(f"a: {text}")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml: empty; a recipe has one `key: value` per line"),
        ("- a", "r.yaml:1: expected `key: value` lines"),
        ("just words", "r.yaml:1: expected `key: value` lines"),
        ("a: 1\n\tb: 2", "r.yaml:2: a tab; YAML is indented with spaces"),
        ("a: 1\nb: @sft", 'r.yaml:2: a value that starts with @ needs quotes: "@name"'),
        (
            "a: 1\nb: [1,",
            "r.yaml:2: not readable as YAML: expected the node content, but found '<stream end>'",
        ),
        ("a: &x 1\nb: *x", "r.yaml:2: not readable as YAML: anchors and aliases are not supported"),
        ("a: !!python/name:os.x q", "r.yaml:1: cannot read the value 'q'; YAML tags are not supported"),
        ("a: \x01", "r.yaml: contains a character that is not text (code 0x1)"),
        ("stages: 3", "r.yaml:1: stages: expected a list, each item starting with `- stage: NAME`"),
    ],
)
def test_broken_files(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text, file="r.yaml")
    assert caught.value.findings == [expected]


def test_duplicate_keys_are_all_found() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe("a: 1\nb: 2\na: 3\nb: 4\n", file="r.yaml")
    assert caught.value.findings == [
        "r.yaml:3: duplicate key 'a'; it is already in line 1",
        "r.yaml:4: duplicate key 'b'; it is already in line 2",
    ]


def test_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: not UTF-8 text"):
        read_recipe(latin)
    with pytest.raises(ConfigError, match="No such file"):
        read_recipe(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_recipe(tmp_path)
    windows = tmp_path / "windows.yaml"
    windows.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert {k: e.value for k, e in read_recipe(windows).entries.items()} == {"a": 1, "b": "x"}


# Resolving a stage


def test_all_findings_at_once_in_file_order() -> None:
    text = """stage: dpo
lerning_rate: 1e-5
beta: -1
max_steps: true
num_train_epochs: [1, 2]
dtype: fp99
fp16: true
learning_rate: fast
dataset: 예시.jsonl
"""
    assert findings(text, "max_length=3", "seed") == ["command line: 'seed' is not of the form key=value"]
    assert findings(text, "max_length=3") == [
        "r.yaml:2: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
        "r.yaml:3: beta: value -1 is not accepted; expected a number above 0",
        "r.yaml:4: max_steps: value true is not accepted; expected a whole number of at least -1",
        "r.yaml:5: num_train_epochs: value [1, 2] is not accepted; expected a number above 0",
        "r.yaml:6: dtype: value 'fp99' is not accepted; expected one of auto, float32, bfloat16",
        "r.yaml:7: 'fp16' is not supported: float16 overflows in training; use dtype: bfloat16 or float32",
        "r.yaml:8: learning_rate: value 'fast' is not accepted; expected a number above 0 or auto",
        "command line: max_length: value 3 is not accepted; expected a whole number of at least 8",
    ]


def test_a_missing_key_says_what_it_is() -> None:
    (line,) = findings("stage: sft\n")
    assert line.startswith("r.yaml: 'dataset' is missing: rows to read")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ("warmup_ratio: 0.1\nwarmup_steps: 10", "warmup_steps"),
        ("eval_dataset: e.jsonl\neval_fraction: 0.1", "eval_fraction"),
        ("max_steps: 3\nlora_alpha: 8", "lora_alpha"),
        ("seed: 1\nmax_steps: 0", "max_steps"),
    ],
)
def test_keys_that_exclude_each_other(keys: str, key: str) -> None:
    (line,) = findings(f"stage: sft\ndataset: a\n{keys}\n")
    assert line.startswith(f"r.yaml:4: {key}: ")


@pytest.mark.parametrize("word", ["nan", ".nan", ".inf"])
def test_no_nan_and_no_infinity(word: str) -> None:
    (line,) = findings(f"stage: sft\ndataset: a\nlearning_rate: {word}\n")
    assert line.startswith("r.yaml:3: learning_rate: value")


@pytest.mark.parametrize(
    ("word", "expected"), [("no", False), ("off", False), ("Yes", True), ("on", True), ("false", False)]
)
def test_yes_and_no_where_true_or_false_is_meant(word: str, expected: bool) -> None:
    config = plan_of(f"stage: sft\ndataset: a\nshuffle: {word}\n").stages[0].config
    assert isinstance(config, SFTConfig)
    assert config.shuffle is expected


def test_defaults_equal_the_models() -> None:
    config, objective = resolve("sft", REQUIRED)
    assert config == SFTConfig(output_dir="out", dataset="rows.jsonl")
    assert objective is None
    with pytest.raises(ValidationError):
        config.seed = 3  # frozen  # pyright: ignore


def test_other_tools_names_with_a_notice() -> None:
    notices: list[str] = []
    mapping = {
        "output_dir": "o",
        "train_file": "a.jsonl",
        "lr": 1e-4,
        "epochs": 3,
        "cutoff_len": 64,
        "bf16": True,
    }
    config, objective = resolve("dpo", {**mapping, "init_kl_coef": 0.3}, notice=notices.append)
    assert (config.learning_rate, config.num_train_epochs, config.max_length) == (1e-4, 3, 64)  # pyright: ignore
    assert (config.dataset, config.dtype, objective.beta) == ("a.jsonl", "bfloat16", 0.3)  # pyright: ignore
    assert notices[0] == "call: 'train_file' is read as 'dataset'"
    assert "call: 'bf16' is read as 'dtype: bfloat16'" in notices
    assert len(notices) == 6
    config, _ = resolve("sft", {**REQUIRED, "train_on_inputs": True})
    assert config.completion_only is False  # pyright: ignore


def test_an_alias_beside_its_key() -> None:
    assert findings("stage: sft\ndataset: a\nlr: 1\nlearning_rate: 2\n") == [
        "r.yaml:4: 'learning_rate' is set by r.yaml:3 too; keep one"
    ]
    # a setting on the command line wins under either name
    for recipe, word in (("lr: 1", "learning_rate=0.5"), ("learning_rate: 1", "lr=0.5")):
        config = plan_of(f"stage: sft\ndataset: a\n{recipe}\n", word).stages[0].config
        assert config.learning_rate == 0.5  # pyright: ignore


def test_the_keys_of_a_ppo_recipe_of_old() -> None:
    old = {
        "output_dir": "o",
        "dataset": "a.jsonl",
        "rewards": [{"verifier": "exact"}],
        "batch_size": 64,
        "mini_batch_size": 16,
        "ppo_epochs": 2,
        "adap_kl_ctrl": False,
        "init_kl_coef": 0.2,
        "target": 5.0,
        "horizon": 5000,
        "cliprange": 0.1,
        "vf_coef": 0.3,
        "use_peft": True,
        "resume_from_checkpoint": True,
    }
    notices: list[str] = []
    config, objective = resolve("ppo", old, notice=notices.append)
    assert (config.rollout_prompts, config.per_device_train_batch_size, config.num_iterations) == (64, 16, 2)
    assert (config.kl_controller, config.kl_coef, config.kl_target, config.kl_horizon) == (
        "fixed",
        0.2,
        5.0,
        5000,
    )
    assert (objective.epsilon, objective.value_coefficient, config.lora_r) == (0.1, 0.3, 16)
    assert "call: 'resume_from_checkpoint: true' is so anyway" in notices
    config, _ = resolve("ppo", {**old, "lora_r": 4})
    assert config.lora_r == 4
    with pytest.raises(ConfigError, match=r"target_kl: 6 nats per token are never reached.*kl_target"):
        resolve("ppo", {**old, "target_kl": 6.0})
    with pytest.raises(ConfigError, match=r"'resume_from_checkpoint' is not supported: .*--resume"):
        resolve("ppo", {**old, "resume_from_checkpoint": "runs/x/checkpoint-10"})


def test_the_keys_of_a_grpo_recipe_of_trl() -> None:
    keys = {"output_dir": "o", "dataset": "a.jsonl", "rewards": [{"verifier": "exact"}], "epsilon": 0.1}
    keys |= {"scale_rewards": "batch", "loss_type": "dapo", "mask_truncated_completions": True, "delta": 1.5}
    config, objective = resolve("grpo", {**keys, "importance_sampling_level": "sequence"})
    assert (config.advantage, config.missing_eos) == ("group_mean_batch_std", "mask")
    assert (objective.loss_aggregation, objective.epsilon_low, objective.ratio_level) == (
        "token_mean",
        0.1,
        "sequence",
    )
    config, _ = resolve("grpo", {**keys, "scale_rewards": False})
    assert config.advantage == "group_mean"
    each = {**keys, "scale_rewards": "group", "multi_objective_aggregation": "normalize_then_sum"}
    config, _ = resolve("grpo", each)
    assert config.normalize_each_reward is True
    with pytest.raises(ConfigError, match=r"normalize_each_reward: .*kl_coef"):
        resolve("grpo", {**each, "kl_coef": 0.1})


def test_overrides() -> None:
    words = ["a=1e-5", "b=[1, x]", "c=@sft", "d=", "e='1'", "f=x: y", "g=true", "h=p=q", "a=2"]
    assert {key: entry.value for key, entry in parse_overrides(words).items()} == {
        "a": 2,
        "b": [1, "x"],
        "c": "@sft",
        "d": None,
        "e": "1",
        "f": "x: y",
        "g": True,
        "h": "p=q",
    }
    with pytest.raises(ConfigError, match=r"command line: a: .* is not readable as YAML"):
        parse_overrides(["a=[1"])


def test_data_sources() -> None:
    mixed = ["a.jsonl#5", {"path": "b.jsonl", "weight": 0.5}]
    config, _ = resolve("sft", {"output_dir": "o", "dataset": mixed, "eval_dataset": "e.jsonl"})
    assert path_values(config) == {
        "dataset[0]": "a.jsonl#5",
        "dataset[1]": "b.jsonl",
        "eval_dataset": "e.jsonl",
    }
    with pytest.raises(ConfigError, match=r"dataset: value .*wieght.* is not accepted"):
        resolve("sft", {"output_dir": "o", "dataset": {"path": "a", "wieght": 2}})


def test_names_are_no_paths() -> None:
    keys = {**REQUIRED, "model_name_or_path": "tiny", "chat_template": "alpaca", "reference": "start"}
    config, _ = resolve("dpo", keys)
    assert path_values(config) == {"dataset": "rows.jsonl"}
    config, _ = resolve("dpo", {**keys, "chat_template": "my.jinja", "reference": "runs/sft"})
    assert set(path_values(config)) == {"dataset", "chat_template", "reference"}


# Stages and objectives


def test_preference_objectives_are_stages() -> None:
    assert set(stage_names()) >= {*STAGES, "dpo", "ipo", "kto", "orpo", "simpo"}
    assert not {"bradley_terry", "ppo", "grpo"} & set(stage_names()) - set(STAGES)
    assert find_stage("simpo").objective == "simpo"
    with pytest.raises(ConfigError, match="unknown stage 'dop'; did you mean 'dpo'"):
        find_stage("dop")
    with pytest.raises(ConfigError, match="use stage reward with objective: bradley_terry"):
        find_stage("bradley_terry")


def test_the_reward_stage_takes_the_keys_of_its_objective() -> None:
    _, objective = resolve("reward", {**REQUIRED, "centring": 0.01})
    assert objective.centring == 0.01
    with pytest.raises(ConfigError, match="unknown key 'centring'"):
        resolve("reward", {**REQUIRED, "objective": "regression", "centring": 0.01})
    with pytest.raises(ConfigError, match="unknown objective 'bradly_terry'; did you mean"):
        resolve("reward", {**REQUIRED, "objective": "bradly_terry"})
    with pytest.raises(ConfigError, match="objective: 'dpo' does not read scores"):
        resolve("reward", {**REQUIRED, "objective": "dpo"})


@pytest.mark.parametrize("stage", stage_names())
def test_schema_table_and_starter_agree(stage: str) -> None:
    schema = stage_schema(stage)
    keys = schema["properties"]
    assert all(field.get("description") for field in keys.values())
    assert markdown_table(stage).count("\n| `") == len(keys)
    text = starter_recipe(stage)
    commented = {line[2:].partition(":")[0] for line in text.splitlines() if line.startswith("# ")}
    active = parse_recipe(text, file="s.yaml").entries
    assert set(active) == {"stage", *schema["required"]}
    assert set(keys) <= commented | set(active)


def test_starter_defaults_read_back() -> None:
    """Every commented line, its mark removed, is the default itself."""
    lines = starter_recipe("dpo").splitlines()[1:]
    keys = set(stage_schema("dpo")["properties"])
    defaults = [
        line.removeprefix("# ") for line in lines if line.removeprefix("# ").partition(":")[0] in keys
    ]
    plan = plan_of("stage: dpo\n" + "\n".join(defaults))
    required = {"output_dir": "runs/my-run", "dataset": "rows.jsonl"}
    assert plan.stages[0].config == resolve("dpo", required).config


def test_keys_that_a_stage_has_no_use_for() -> None:
    """They are not listed; the value that asks for nothing is taken, any other is refused with the reason."""
    keys: dict[str, Any] = {"dataset": "x", "rewards": [{"verifier": "math"}]}
    neutral: dict[str, Any] = {
        "eval_dataset": None,
        "eval_fraction": 0.0,
        "eval_steps": 0,
        "top_k": 0,
        "top_p": 1.0,
    }
    assert not neutral.keys() & stage_schema("grpo")["properties"].keys()
    assert resolve("grpo", {**keys, **neutral}).config == resolve("grpo", keys).config
    for key, value in {"val_size": 0.1, "eval_steps": 5, "eval_dataset": "y", "eval_fraction": False}.items():
        with pytest.raises(ConfigError, match=r"eval_\w+: online stages have no held-out loss"):
            resolve("grpo", {**keys, key: value})
    with pytest.raises(ConfigError, match="min_p: RL learns from the log-probs of the whole distribution"):
        GRPOConfig(**keys, min_p=0.1)
    with pytest.raises(ConfigError, match="eval_fraction: the best answers are all trained on"):
        resolve("best_of_n", {"dataset": "x", "reward_model": "math", "eval_fraction": 0.1})
