"""Objectives are found by file name, one at a time, with their hyperparameters' documentation."""

import dataclasses
import subprocess
import sys
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

import alignloop.objectives.registry as registry
from alignloop.errors import ConfigError
from alignloop.records import KINDS

EXPECTED = {
    "sft", "bradley_terry", "regression", "plackett_luce", "dpo", "ipo", "kto", "orpo", "simpo",
    "listwise", "ppo", "grpo",
}  # fmt: skip


def test_names_are_the_files():
    assert set(registry.names()) >= EXPECTED
    assert registry.names() == sorted(registry.names())


@pytest.mark.parametrize("name", registry.names())
def test_every_objective_is_documented_and_frozen(name):
    objective = registry.load(name)
    instance = objective()
    assert objective.__doc__
    assert set(instance.records) <= set(KINDS)
    assert instance.needs <= {
        "logprobs", "reference_logprobs", "scores", "values", "entropy", "prompt_logprob",
    }  # fmt: skip
    fields = dataclasses.fields(objective)
    assert [doc.name for doc in registry.describe(name)] == [field.name for field in fields]
    if fields:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, fields[0].name, 0)


@pytest.mark.parametrize("name", registry.names())
def test_defaults_satisfy_their_constraints(name):
    for doc in registry.describe(name):
        adapter = pydantic.TypeAdapter(doc.annotation)
        assert adapter.validate_python(doc.default) == doc.default
        if doc.choices:
            with pytest.raises(pydantic.ValidationError):
                adapter.validate_python("no such choice")


def test_description_of_a_field():
    loss = next(doc for doc in registry.describe("dpo") if doc.name == "loss")
    assert loss.default == "sigmoid"
    assert loss.choices == ("sigmoid", "hinge", "robust")
    assert "hinge" in loss.description


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'simpo'"):
        registry.load("simppo")


def test_listing_imports_nothing_heavy_and_loading_one_file_only():
    code = (
        "import sys; from alignloop.objectives import registry; registry.names();"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules;"
        "registry.load('simpo');"
        "print(sorted(m for m in sys.modules if m.startswith('alignloop.objectives.')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([f"alignloop.objectives.{m}" for m in ("base", "registry", "simpo")])


def test_a_file_must_define_one_objective(monkeypatch):
    monkeypatch.setattr(registry, "names", lambda: ["base"])  # a file without an objective
    with pytest.raises(TypeError, match="exactly one objective"):
        registry.load.__wrapped__("base")  # past the cache


@pytest.mark.parametrize("annotation", [float, Annotated[float, "seconds"], Annotated[float, Field(gt=0)]])
def test_a_hyperparameter_without_a_description_is_refused(monkeypatch, annotation: Any) -> None:
    found = dataclasses.make_dataclass("Silent", [("beta", annotation, 0.1)])
    monkeypatch.setattr(registry, "load", lambda name: found)
    with pytest.raises(TypeError, match=r"Silent\.beta has no description"):
        registry.describe("silent")


def test_only_words_have_choices(monkeypatch):
    """The arguments of another type are no words to choose from."""
    described = Field(description="what it does")
    fields = [
        ("word", Annotated[Literal["a", "b"], described], "a"),
        ("sizes", Annotated[tuple[int, ...], described], (1, 2)),
        ("share", Annotated[float | None, described], None),
    ]
    found = dataclasses.make_dataclass("Made", fields)
    monkeypatch.setattr(registry, "load", lambda name: found)
    assert [doc.choices for doc in registry.describe("made")] == [("a", "b"), (), ()]
    assert [doc.default for doc in registry.describe("made")] == ["a", (1, 2), None]
