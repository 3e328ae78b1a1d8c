"""Rotary frequencies that depend on the row's length: a long row beside a short one changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from alignloop.data.packing import Group, collate, completion
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.rope import length_kinds
from bench import zoo
from tests.model.test_packed import gradients, relative, separate_logprobs

LIMIT = 16
"""Tokens the zoo's two models were "trained" on."""


def some_groups(*shapes: tuple[int, tuple[int, ...]]) -> list[Group]:
    rng = np.random.default_rng(3)
    return [
        Group(
            rng.integers(3, 100, p).astype(np.int32),
            tuple(completion(rng.integers(3, 100, n)) for n in ns),
            i,
        )
        for i, (p, ns) in enumerate(shapes)
    ]


# a short and a long completion of one prompt, a short group, a group without a prompt, a long group
MIXED = ((10, (3, 12, 6)), (4, (5,)), (0, (7, 20)), (18, (4, 9)))


def test_kinds_are_found_out() -> None:
    longrope = length_kinds(zoo.tiny("phi3-longrope"))
    assert longrope is not None
    assert [longrope.of(n) for n in (1, LIMIT, LIMIT + 1, 500)] == [0, 0, 1, 1]
    dynamic = length_kinds(zoo.tiny("llama-dynamic"))
    assert dynamic is not None
    assert [dynamic.of(n) for n in (1, LIMIT, LIMIT + 1, 500)] == [0, 0, LIMIT + 1, 500]
    for name in ("llama", "phi3", "gemma3_text", "gpt2", "gpt_oss"):
        assert length_kinds(zoo.tiny(name)) is None


def test_looking_leaves_the_frequencies_of_short_rows() -> None:
    for name in ("phi3-longrope", "llama-dynamic"):
        model = zoo.tiny(name)
        before = model.model.rotary_emb.inv_freq.clone()
        kinds = length_kinds(model)
        assert torch.equal(model.model.rotary_emb.inv_freq, before)
        model(torch.arange(3, 30)[None], use_cache=False)
        assert not torch.equal(model.model.rotary_emb.inv_freq, before)
        assert kinds is not None
        kinds.reset()
        assert torch.equal(model.model.rotary_emb.inv_freq, before)


@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("name", ["phi3-longrope", "llama-dynamic"])
def test_rows_of_all_lengths_in_one_batch(name: str, shared_prefix: bool) -> None:
    groups = some_groups(*MIXED)
    batch = collate(groups)
    rows, own_gradients = [], None
    for group in groups:  # each completion alone, with a fresh model: dynamic frequencies are remembered
        for item in group.completions:
            model = zoo.tiny(name)
            one = [Group(group.prompt_ids, (item,), 0)]
            logprobs = separate_logprobs(model, collate(one), one)[0]
            found = gradients(logprobs.square().sum(), model)
            own_gradients = (
                found if own_gradients is None else [a + b for a, b in zip(own_gradients, found, strict=True)]
            )
            rows.append(torch.nn.functional.pad(logprobs, (0, batch.mask.shape[1] - len(logprobs))))
    model = zoo.tiny(name)
    packed = PackedModel(model, shared_prefix=shared_prefix)
    ours = packed(batch, {"logprobs", "entropy"})
    assert (ours.logprobs - torch.stack(rows)).abs().max() <= 1e-5
    assert own_gradients is not None
    assert relative(gradients(ours.logprobs.square().sum(), model), own_gradients) <= 1e-5


@pytest.mark.parametrize("name", ["phi3-longrope", "llama-dynamic"])
def test_a_short_row_is_the_same_after_and_beside_a_long_one(name: str) -> None:
    short, long = some_groups((4, (5, 3)), (20, (9,)))
    packed = PackedModel(zoo.tiny(name))
    with torch.no_grad():
        alone = packed(collate([short]), {"logprobs", "prompt_logprob"})
        packed(collate([long]))
        after = packed(collate([short]))
        beside = packed(collate([long, short]), {"logprobs", "prompt_logprob"})
    assert torch.equal(alone.logprobs, after.logprobs)
    assert torch.allclose(beside.logprobs[1:, :5], alone.logprobs, atol=1e-6)
    assert torch.allclose(beside.prompt_logprob[1:], alone.prompt_logprob, atol=1e-5)


def test_scores_and_values_are_read_from_each_kinds_own_rows() -> None:
    groups = some_groups(*MIXED)
    packed = PackedModel(zoo.tiny("phi3-longrope"), head=ScalarHead(32))

    def read(some: list[Group]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            out = packed(collate(some), {"scores", "values"})
        return out.scores, out.values

    scores, values = read(groups)
    number = 0
    for group in groups:
        for item in group.completions:
            score, value = read([Group(group.prompt_ids, (item,), 0)])
            assert torch.allclose(scores[number], score[0], atol=1e-5)
            assert torch.allclose(values[number, : value.shape[1]], value[0], atol=1e-5)
            number += 1
