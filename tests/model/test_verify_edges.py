"""What is compared before a model is used: probes, verdicts, lengths that change frequencies."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from alignloop.data.packing import Batch
from alignloop.errors import ModelError
from alignloop.model import own_numbers, probe, rope, verify
from alignloop.model.layouts import Layout
from alignloop.model.own_numbers import LONG, SHORT, Probe, check_engine, check_shape
from alignloop.model.rope import length_kinds
from alignloop.model.verify import Verification
from bench import zoo
from tests.model.helpers import small_model


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_verdicts", {})


def right(own: Any) -> Any:
    return lambda batch, layout: own.logprobs


def test_each_layout_is_tried_once_until_one_is_right() -> None:
    model = zoo.tiny("llama")
    own = probe.own_logprobs(model)
    tried: list[str] = []

    def read(batch: Batch, layout: Layout) -> Tensor:
        tried.append(layout)
        return own.logprobs + 0.01 * (layout != "alone")

    with pytest.warns(
        UserWarning, match=r"padded rows \(0.01 nats off, .* would be rounding\); each row runs by itself"
    ):
        assert Verification(model).layout(read) == "alone"
    assert tried == ["packed", "padded", "alone"]
    with pytest.warns(UserWarning, match="padded rows"):
        assert Verification(model).layout(read) == "alone"
    with pytest.warns(UserWarning, match="padded rows"):
        assert Verification(model, False).layout(read) == "alone"
    sentence = r"gives other log-probs on packed rows \(0\.01 nats off, .*\); leave out shared_prefix=True"
    with pytest.raises(ModelError, match=sentence):
        Verification(model, True).layout(read)
    assert tried == ["packed", "padded", "alone"]
    # another type of products is another verdict
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert Verification(model, autocast=torch.float64).layout(right(own)) == "packed"


def test_a_layout_is_compared_without_dropout_in_the_models_attention() -> None:
    model: Any = zoo.tiny("llama").train()
    own = probe.own_logprobs(model)
    current = model.config._attn_implementation

    def read(batch: Batch, layout: Layout) -> Tensor:
        assert not model.training
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        model.set_attn_implementation("eager")
        return own.logprobs

    with torch.autocast("cpu", torch.bfloat16):
        assert Verification(model).layout(read) == "packed"
    assert model.training
    assert model.config._attn_implementation == current


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            NotImplementedError("its way\nmore"),
            r"LlamaForCausalLM cannot run packed rows, its way; padded rows are used",
        ),
        (
            ValueError("odd"),
            r"LlamaForCausalLM cannot run packed rows, its code fails on them \(odd\); padded",
        ),
    ],
)
def test_a_layout_that_fails_is_passed_over(error: Exception, sentence: str) -> None:
    model = zoo.tiny("llama")
    own = probe.own_logprobs(model)

    def read(batch: Batch, layout: Layout) -> Tensor:
        if layout == "packed":
            raise error
        return own.logprobs

    with pytest.warns(UserWarning, match=sentence):
        assert Verification(model).layout(read) == "padded"
    verify._verdicts.clear()
    with pytest.raises(torch.OutOfMemoryError):
        Verification(model).layout(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))


@pytest.mark.parametrize("how", ["weights", "products"])
def test_longer_rows_have_to_be_finite_in_the_type_that_is_used(how: str) -> None:
    dtype = torch.bfloat16 if how == "weights" else torch.float32
    model = zoo.tiny("llama", dtype=dtype)
    own = probe.own_logprobs(model)
    lengths: list[tuple[str, int, bool]] = []

    def read(batch: Batch, layout: Layout) -> Tensor:
        lengths.append((layout, batch.num_tokens, torch.is_autocast_enabled("cpu")))
        long = batch.num_tokens > 50
        if long and layout == "packed":
            return torch.tensor([1.0, torch.inf])
        return torch.zeros(2) if long else own.logprobs

    autocast = torch.bfloat16 if how == "products" else None
    with pytest.warns(
        UserWarning, match="gives log-probs on packed rows that are not finite in bfloat16; padded rows"
    ):
        assert Verification(model, autocast=autocast).layout(read) == "padded"
    assert lengths == [
        ("packed", 21, False),
        ("packed", 72, how == "products"),
        ("padded", 21, False),
        ("padded", 72, how == "products"),
    ]


def test_without_values_the_first_layout_is_taken() -> None:
    with torch.device("meta"):
        model = zoo.tiny("llama")

    def read(*_: Any) -> Tensor:
        raise AssertionError("nothing can be read")

    assert Verification(model).layout(read) == "packed"
    assert Verification(model, False).layout(read) == "padded"
    assert verify._verdicts == {}


def config_of(positions: int | None, vocabulary: int) -> Any:
    text = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=positions)
    text.get_text_config = lambda decoder=False: text
    return SimpleNamespace(config=text)


@pytest.mark.parametrize(
    ("probed", "positions", "tokens"),
    [
        (SHORT, None, 6),
        (SHORT, 100, 6),
        (SHORT, 9, 6),
        (SHORT, 8, 5),
        (SHORT, 4, 1),
        (SHORT, 3, None),
        (LONG, 100, 21),
        (LONG, 33, 21),
        (LONG, 20, 8),
    ],
)
def test_prompts_of_a_comparison_fit_the_model(
    probed: Probe, positions: int | None, tokens: int | None
) -> None:
    prompts = own_numbers._prompts(config_of(positions, 5000), probed)
    if tokens is None:
        assert prompts == []
        return
    assert [len(prompt) for prompt in prompts] == [tokens, tokens]
    assert prompts[0][:-1] == prompts[1][:-1]
    assert prompts[0][-1] != prompts[1][-1]
    assert all(10 <= token < 1000 for prompt in prompts for token in prompt)


@pytest.mark.parametrize(("vocabulary", "low"), [(11, 9), (12, 10), (5, 3), (2, 0), (1, None)])
def test_prompts_of_a_comparison_are_of_the_vocabulary(vocabulary: int, low: int | None) -> None:
    prompts = own_numbers._prompts(config_of(None, vocabulary), LONG)
    assert (prompts == []) == (low is None)
    assert all(low <= token < vocabulary for prompt in prompts for token in prompt)


def test_a_lack_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(own_numbers, "_largest_gap", full)
    with pytest.raises(torch.OutOfMemoryError):
        check_engine(small_model())


@pytest.mark.parametrize(
    ("name", "runs", "outcome"),
    [
        ("llama", True, "LlamaForCausalLM does not run in the local engine \\(odd\\)"),
        ("mistral", True, "MistralForCausalLM does not run in the local engine \\(odd\\)"),
        ("mistral", False, ""),  # its sizes may depend on its window, so it is compared as it is
        ("llama", False, "LlamaForCausalLM does not run in the local engine \\(odd\\)"),
    ],
)
def test_an_engine_that_fails_is_an_answer_unless_small_windows_are_at_fault(
    name: str, runs: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = small_model(name)
    windows: list[Any] = []

    def gap(model: Any, *_: Any) -> float:
        windows.append(getattr(model.config, "sliding_window", None))
        if len(windows) == 1:
            raise ValueError("odd\nmore")
        return 0.0

    monkeypatch.setattr(own_numbers, "_largest_gap", gap)
    monkeypatch.setattr(own_numbers, "_runs", lambda *_: runs)
    if outcome:
        with pytest.raises(ModelError, match=outcome):
            check_engine(model)
    else:
        check_engine(model)
        assert windows == [4, 8]


@pytest.mark.parametrize(("gap", "fine"), [(2e-3, True), (2.1e-3, False), (torch.nan, False)])
def test_a_gap_beyond_rounding_is_refused(gap: float, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_numbers, "_largest_gap", lambda *_: gap)
    if fine:
        check_engine(small_model())
    else:
        with pytest.raises(
            ModelError, match=r"own log-probs, they differ by up to .* nats where rounding explains 0\.002"
        ):
            check_engine(small_model())


def test_whether_a_model_runs_a_row() -> None:
    model: Any = small_model()
    assert own_numbers._runs(model, [5, 6, 7])
    model.model.layers[0].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("no")))
    assert not own_numbers._runs(model, [5, 6, 7])


def test_a_shape_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(own_numbers, "_known_shapes", set())
    monkeypatch.setattr(own_numbers, "small_twin", lambda config: seen.append(config))
    for _ in range(2):
        check_shape(
            small_model().config
        )  # no twin can be made: its outline is set up and nothing is compared
    check_shape(small_model("qwen2").config)
    assert len(seen) == 2
    config = small_model().config
    config.layer_types = ["linear_attention"] * 4
    with pytest.raises(ModelError, match="has layers of kind linear_attention"):
        check_shape(config)


class Turning(nn.Module):
    """A rotary module whose frequencies change once a row is longer than a limit."""

    def __init__(self, limit: int, *, each: bool = False, kind: Any = "own") -> None:
        super().__init__()
        self.limit, self.each, self.rope_type = limit, each, kind
        self.calls: list[str | None] = []

    def forward(self, x: Tensor, positions: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        self.calls.append(layer_type)
        length = int(positions.max()) + 1
        limit = self.limit if layer_type != "never" else 2**30
        factor = 1.0 if length <= limit else float(length) if self.each else 2.0
        angles = positions[..., None] * factor
        return angles.cos(), angles.sin()


def model_of(*modules: nn.Module) -> Any:
    model: Any = nn.Sequential(*modules)
    model.device = torch.device("cpu")
    return model


@pytest.mark.parametrize("limit", [4, 5, 16, 1000, 4097, 2**20 - 1])
@pytest.mark.parametrize("each", [False, True])
def test_the_length_at_which_frequencies_change_is_found(limit: int, each: bool) -> None:
    found = length_kinds(model_of(nn.Linear(2, 2), Turning(limit, each=each)))
    assert found is not None
    assert found.limit == limit
    if limit < 2**20 - 1:
        assert found.each is each
    assert [found.of(limit), found.of(limit + 1)] == [0, limit + 1 if found.each else 1]
    assert length_kinds(model_of(Turning(2**20))) is None


def test_sets_for_kinds_of_layers_are_looked_at_one_by_one() -> None:
    module = Turning(50, kind={"full": "own", "never": "other", "none": None})
    found = length_kinds(model_of(module))
    assert found is not None
    assert (found.limit, found.each) == (50, False)
    assert set(module.calls) == {"full", "never"}
    for kind in (None, 3, ["own"]):
        assert length_kinds(model_of(Turning(50, kind=kind))) is None


def test_both_modules_are_reset_and_different_ones_are_refused() -> None:
    one, other = Turning(50), Turning(50)
    found = length_kinds(model_of(one, other))
    assert found is not None
    one.calls.clear()
    other.calls.clear()
    found.reset()
    assert (len(one.calls), len(other.calls)) == (1, 1)
    for third in (Turning(51), Turning(50, each=True)):
        with pytest.raises(
            ModelError, match="has layers with rotary frequencies that change at different lengths"
        ):
            length_kinds(model_of(one, third))


def test_frequencies_that_change_inside_of_layers_are_refused() -> None:
    class Layer(GradientCheckpointingLayer):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.rotary = Turning(limit)

    assert length_kinds(model_of(Layer(2**20))) is None
    with pytest.raises(ModelError, match="chooses rotary frequencies by a row's length inside of its layers"):
        length_kinds(model_of(Layer(50)))
    meta = model_of(Layer(50))
    meta.device = torch.device("meta")
    assert length_kinds(meta) is None
    assert rope._FAR == 2**20
