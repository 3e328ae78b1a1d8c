"""A group longer than the token budget gives the loss and the gradient of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate, completion
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import GRPO
from alignloop.objectives.kto import KTO, with_mismatched
from alignloop.objectives.listwise import Listwise
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.plackett_luce import PlackettLuce
from alignloop.training import loop
from alignloop.training.loop import Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from alignloop.training.pieces import run_in_pieces, split_group
from alignloop.training.reference import with_reference_logprobs
from tests.training.helpers import make_trainer, pair_groups


def long_group(*lengths, prompt=6, index=0, **values):
    rng = np.random.default_rng(index)
    texts = tuple(completion(rng.integers(5, 300, n).astype(np.int32)) for n in lengths)
    return Group(rng.integers(5, 300, prompt).astype(np.int32), texts, index, values)


def sizes(group, budget):
    return [[len(c.ids) for c in part.completions] for part in split_group(group, budget)]


def test_pieces_fit_beside_the_prompt():
    group = long_group(4, 5, 3, 9, 2)
    assert sizes(group, 15) == [[4, 5], [3], [9], [2]]
    assert sizes(group, 17) == [[4, 5], [3], [9, 2]]
    assert sizes(group, 1) == [[4], [5], [3], [9], [2]]  # longer than the budget: alone
    assert sizes(group, 1000) == [[4, 5, 3, 9, 2]]
    assert all(np.array_equal(part.prompt_ids, group.prompt_ids) for part in split_group(group, 15))


def with_values(groups, name):
    rng = np.random.default_rng(1)
    return [
        replace(
            g,
            completions=tuple(
                replace(c, values={**c.values, name: rng.normal(-2, 1, len(c.ids)).astype(np.float32)})
                for c in g.completions
            ),
        )
        for g in groups
    ]


def ranked():
    return [
        long_group(7, 3, 9, 4, ranks=[2.0, 1.0, 2.0, 4.0]),
        long_group(5, 6, 8, index=1, ranks=[3.0, 1.0, 2.0]),
    ]


CASES = {
    "dpo": (DPO(rpo_alpha=0.5), pair_groups(3)),
    "orpo with prompt": (ORPO(nll="prompt_and_completion"), pair_groups(3)),
    "kto": (
        KTO(),
        with_mismatched([long_group(8, desirable=np.asarray([i != 1]), index=i) for i in range(3)]),
    ),
    "plackett_luce": (PlackettLuce(), ranked()),
    "bradley_terry": (BradleyTerry(centring=0.01), ranked()),
    "listwise": (Listwise(), ranked()),
    "lipo_lambda": (Listwise(method="lipo_lambda"), ranked()),
    "group_relative": (Listwise(method="group_relative"), with_values(ranked(), "old_logprobs")),
    "grpo": (
        GRPO(),
        with_values(with_values([replace(g, values={}) for g in ranked()], "old_logprobs"), "advantages"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_whole(name, monkeypatch):
    objective, groups = CASES[name]
    longest = []
    forward = loop._forward

    def watched(trainer, batch, needs):
        if torch.is_grad_enabled():
            longest.append(batch.num_tokens)
        return forward(trainer, batch, needs)

    monkeypatch.setattr(loop, "_forward", watched)
    results = []
    for budget in (10_000, 16):
        trainer = make_trainer(head=True, budget=budget, max_grad_norm=0.0)
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)  # weights − gradient
        given = groups
        if "reference_logprobs" in objective.needs:
            given, _ = with_reference_logprobs(groups, make_trainer(1).model, token_budget=1000)
        longest.clear()
        report = train_step(trainer, objective, given)
        results.append((report.metrics, [p.detach().clone() for p in trainer.model.parameters()]))
    assert max(longest) <= 16
    (whole, expected), (pieces, got) = results
    for metric in whole.keys() - {"tokens_per_s", "step_s", "memory_gb"}:
        assert pieces[metric] == pytest.approx(whole[metric], rel=2e-5, abs=1e-6), metric
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_dropout_is_the_same_in_both_passes(monkeypatch):
    """The gradient under dropout is that of the loss that was reported."""
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    add_adapter(hf, LoraSettings(r=4, dropout=0.5), seed=0)
    model = PackedModel(hf)
    settings = OptimizerSettings(learning_rate=1e-3)
    trainer = Trainer(model, build_optimizer(model.parameters(), settings), settings, 5, token_budget=16)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_(std=0.3)
    seen = []
    forward = loop._forward

    def watched(*args):
        out = forward(*args)
        seen.append(out.logprobs.detach().clone())
        return out

    monkeypatch.setattr(loop, "_forward", watched)
    train_step(trainer, Listwise(method="group_relative"), with_values(ranked()[:1], "old_logprobs"))
    half = len(seen) // 2
    assert half == 3  # 7 + 3, 9 and 4 tokens beside a prompt of 6
    for first, second in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[0].roll(1))


def test_every_output_of_three_pieces_is_that_of_the_whole():
    """Gradients of each output, the prompt's log-prob among them, which every piece computes again."""
    group = long_group(7, 3, 9)
    every = dict.fromkeys(("logprobs", "entropy", "scores", "values", "prompt_logprob"))
    found = []
    for budget in (1000, 16):
        trainer = make_trainer(head=True)
        model = trainer.model
        out, finish = run_in_pieces(
            lambda batch, model=model: model(batch, every.keys()), group, budget, model.device
        )
        # weights that differ from place to place, so that nothing cancels or is taken for another
        loss = sum(
            (value * torch.arange(1, value.numel() + 1).view(value.shape)).sum()
            for value in (getattr(out, name) for name in every)
        )
        loss.backward()
        finish()
        grads = [p.grad for p in model.parameters()]
        assert all(grad is not None for grad in grads)
        found.append((loss.detach(), grads))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    for whole, pieces in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def test_outputs_are_padded_with_zeros_to_the_longest():
    group = long_group(7, 3, 9)
    trainer = make_trainer()
    out, _ = run_in_pieces(lambda batch: trainer.model(batch), group, 16, trainer.model.device)
    whole = trainer.model(collate([group]))
    assert out.logprobs.shape == whole.logprobs.shape == (3, 9)
    torch.testing.assert_close(out.logprobs, whole.logprobs, rtol=1e-5, atol=1e-5)
    assert (out.logprobs[1, 3:] == 0).all()
    assert out.scores is out.values is out.entropy is None


def test_pieces_know_only_their_tokens():
    """The group's index goes along, its values and its completions' stay behind."""
    (group,) = with_values([long_group(4, 5, index=3, margin=1.0)], "old_logprobs")
    parts = split_group(group, 1)
    assert [(part.index, dict(part.values)) for part in parts] == [(3, {}), (3, {})]
    assert all(not item.values for part in parts for item in part.completions)
