"""The step that attention layers hand their tensors to, what stands for a mask, and positions of models."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from alignloop.errors import ModelError
from alignloop.model.positions import max_positions, steady_positions
from alignloop.model.step import CALLS, Rules, attend, marked_mask, masked, running

RULES = Rules(0.5, None, None)


class Noted:
    """A step that keeps the numbers of the stores that it was asked for."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        self.layers.append(layer)
        return query + rules.scaling


def ask(*layers: int) -> None:
    x = torch.zeros(1)
    for layer in layers:
        assert attend(layer, x, x, x, RULES).item() == 0.5


def test_a_layers_second_call_has_a_store_of_its_own_in_each_step() -> None:
    first, second = Noted(), Noted()
    with running(first):
        ask(3, 4, 3, 3)
        with running(second):
            ask(3, 4)
        ask(4, 5)
    with running(second):
        ask(3)
    assert first.layers == [3, 4, 3 + CALLS, 3 + 2 * CALLS, 4 + CALLS, 5]
    assert second.layers == [3, 4, 3]
    with pytest.raises(ModelError, match="set up for decoding and was called without a step"):
        ask(3)
    with pytest.raises(ZeroDivisionError), running(first):
        _ = 1 / 0
    with pytest.raises(ModelError, match="without a step"):
        ask(3)


def test_each_thread_has_its_own_step() -> None:
    said: list[str] = []

    def other() -> None:
        try:
            ask(1)
        except ModelError as error:
            said.append(str(error))

    with running(Noted()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1


def test_a_mark_carries_a_window_and_nothing_else_passes_for_one() -> None:
    layer = torch.nn.Identity()
    assert marked_mask() is None
    assert masked(RULES, None, layer) is RULES
    for size in (1, 8, 4096):
        mark = marked_mask("anything", local_size=size, config=None)
        assert mark is not None
        assert mark.shape == (size, 1, 1, 1)
        assert masked(RULES, mark, layer) == Rules(0.5, size, None)
        # what the layer itself says comes first
        assert masked(Rules(0.5, 3, 2.0), mark, layer) == Rules(0.5, 3, 2.0)
    refused = [
        marked_mask(use_vmap=True),
        marked_mask(local_size=8, use_vmap=True),
        torch.zeros(1, 1, 4, 4),
        torch.ones(4, 1, 1, 1, dtype=torch.bool),
    ]
    for mask in refused:
        assert mask is not None
        sentence = r"generation: Identity has a mask of its own, .*; use a model of another architecture"
        with pytest.raises(ModelError, match=sentence):
            masked(RULES, mask, layer)


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
SHAPE = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


def phi(**more: Any) -> hf.PreTrainedConfig:
    return hf.Phi3Config(**SHAPE, max_position_embeddings=256, rope_parameters=dict(LONG), **more)


class Bare(hf.PreTrainedConfig):
    """A configuration with nothing but what is put into it."""

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        return self


def bare(**fields: Any) -> Any:
    config = Bare()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    return config


@pytest.mark.parametrize(
    ("config", "most", "steady"),
    [
        (hf.LlamaConfig(**SHAPE, max_position_embeddings=77), 77, 77),
        (hf.MambaConfig(), None, None),
        (bare(max_position_embeddings=0), None, None),
        (bare(max_position_embeddings=-1), None, None),
        (bare(max_position_embeddings=1), 1, 1),
        (bare(max_position_embeddings="many"), None, None),
        (phi(original_max_position_embeddings=64), 256, 64),
        (bare(rope_parameters={**LONG, "original_max_position_embeddings": 16}), None, 16),
        # a set of frequencies for each kind of layer
        (
            bare(
                max_position_embeddings=100,
                rope_parameters={
                    "full": {**LONG, "original_max_position_embeddings": 40},
                    "sliding": {"rope_type": "default"},
                },
            ),
            100,
            40,
        ),
        (bare(max_position_embeddings=100, rope_parameters={"full": {"rope_type": "default"}}), 100, 100),
        # longer than the positions there are
        (
            bare(
                max_position_embeddings=20, rope_parameters={**LONG, "original_max_position_embeddings": 64}
            ),
            20,
            20,
        ),
        (bare(max_position_embeddings=20, rope_parameters=[1]), 20, 20),
        (bare(rope_parameters=LONG), None, None),
    ],
)
def test_positions_that_a_model_has_and_keeps(config: Any, most: int | None, steady: int | None) -> None:
    assert max_positions(config) == most
    assert steady_positions(config) == steady
