"""What one step does to the weights, with plain gradient descent: the move is rate × gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate, completion
from alignloop.errors import NonFiniteError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.tiny import tiny_model
from alignloop.objectives.base import Inputs, Objective, with_statistics
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import PRESETS
from alignloop.objectives.kto import KTO, with_mismatched
from alignloop.objectives.odin import Odin
from alignloop.objectives.sft import SFT
from alignloop.training.held_out import evaluate
from alignloop.training.loop import Trainer, fill_inputs, train, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from alignloop.training.reference import with_reference_logprobs
from tests.training.helpers import make_trainer, pair_groups, plain_descent, weights


def distance(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Euclidean length of the move in float64."""
    return sum(float((before[n].double() - after[n].double()).square().sum()) for n in before) ** 0.5


@pytest.mark.parametrize(("limit", "factor"), [(0.0, None), (0.5, 0.5), (1e9, None)])
def test_a_step_is_as_long_as_the_gradient_but_for_the_limit(limit: float, factor: float | None) -> None:
    trainer = plain_descent(lr=1e-2, lr_scheduler_type="constant", max_grad_norm=limit)
    before = weights(trainer)
    norm = train_step(trainer, SFT(), pair_groups(4, k=1)).metrics["grad_norm"]
    assert norm > 1  # so that a limit of 0.5 binds
    assert distance(before, weights(trainer)) == pytest.approx(1e-2 * (factor or norm), rel=1e-4)


def test_a_limit_just_above_the_norm_changes_nothing() -> None:
    moved = []
    norm = train_step(plain_descent(lr=1e-2), SFT(), pair_groups(4, k=1)).metrics["grad_norm"]
    for limit in (0.0, 1.001 * norm):
        trainer = plain_descent(lr=1e-2, max_grad_norm=limit)
        train_step(trainer, SFT(), pair_groups(4, k=1))
        moved.append(weights(trainer))
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


def test_each_step_has_its_own_rate() -> None:
    # linear from 4 to 0 over four steps: 4, 3, 2, 1 (times 1e-2)
    trainer = plain_descent(lr=4e-2, max_grad_norm=0.0)
    before, rates = weights(trainer), []
    for number, report in enumerate(train(trainer, SFT(), [pair_groups(4, k=1)] * 4), 1):
        after = weights(trainer)
        rates.append(distance(before, after) / report.metrics["grad_norm"])
        assert report.metrics["learning_rate"] == pytest.approx((5 - number) * 1e-2, rel=1e-12)
        assert (report.step, trainer.step, report.indices) == (number, number, (0, 1, 2, 3))
        assert all(p.grad is None for p in trainer.model.parameters())  # nothing is left for the next
        before = after
    assert rates == pytest.approx([4e-2, 3e-2, 2e-2, 1e-2], rel=1e-4)


def test_a_group_of_parameters_may_have_a_multiple_of_the_rate() -> None:
    trainer = plain_descent(lr=4e-2, max_grad_norm=0.0)
    embedding = trainer.model.hf.get_input_embeddings().weight
    others = [p for p in trainer.model.parameters() if p is not embedding]
    groups = [{"params": others}, {"params": [embedding], "scale": 0.25}]
    trainer.optimizer = torch.optim.SGD(groups, lr=123.0)
    list(train(trainer, SFT(), [pair_groups(4, k=1)] * 2))
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([3e-2, 0.75e-2])
    one, other = plain_descent(lr=4e-2, max_grad_norm=0.0), plain_descent(lr=4e-2, max_grad_norm=0.0)
    other.optimizer = torch.optim.SGD(
        [
            {
                "params": [
                    p
                    for p in other.model.parameters()
                    if p is not other.model.hf.get_input_embeddings().weight
                ]
            },
            {"params": [other.model.hf.get_input_embeddings().weight], "scale": 0.25},
        ],
        lr=123.0,
    )
    start = weights(one)
    for each in (one, other):
        train_step(each, SFT(), pair_groups(4, k=1))
    for name, first in start.items():
        share = 0.25 if "embed" in name else 1.0
        move, quarter = weights(one)[name] - first, weights(other)[name] - first
        assert torch.allclose(quarter, share * move, rtol=1e-3, atol=1e-6), name


def with_dropout() -> tuple[Trainer, list[bool]]:
    """A trainer over an adapter with dropout, and whether dropout was on in each pass through it."""
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    add_adapter(hf, LoraSettings(r=4, dropout=0.5), seed=0)
    model, seen = PackedModel(hf), []
    settings = OptimizerSettings(learning_rate=1e-3)
    dropout = next(m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p == 0.5)
    dropout.register_forward_hook(lambda module, _args, _out: seen.append(module.training))
    return Trainer(model, build_optimizer(model.parameters(), settings), settings, 5), seen


def test_dropout_is_on_in_training_and_off_in_evaluation_whatever_came_before() -> None:
    trainer, seen = with_dropout()
    groups = pair_groups(2, k=1)
    trainer.model.eval()
    train_step(trainer, SFT(), groups)
    assert seen == [True]
    evaluate(trainer, SFT(), groups)
    assert seen == [True, False]
    train_step(trainer, SFT(), groups)
    assert seen == [True, False, True]
    assert evaluate(trainer, SFT(), groups) == evaluate(trainer, SFT(), groups)


def odin_trainer(budget: int) -> Trainer:
    trainer = make_trainer(budget=budget, max_grad_norm=0.0, num_steps=4)
    torch.manual_seed(0)
    trainer.model = PackedModel(trainer.model.hf, head=ScalarHead(32, 2, seed=0))
    with torch.no_grad():
        trainer.model.head.weight.normal_(std=0.5)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=123.0)
    return trainer


def labelled(number: int) -> list[Group]:
    groups = [
        replace(g, values={"desirable": np.asarray([g.index % 3 == 0])}) for g in pair_groups(number, k=1)
    ]
    return with_mismatched(groups)


TIMES = {"tokens_per_s", "step_s", "memory_gb"}


@pytest.mark.parametrize("name", ["odin", "kto", "dpo"])
def test_statistics_and_metrics_are_those_of_the_step_not_of_a_micro_batch(name: str) -> None:
    """ODIN's correlations over a pair alone would be ±1."""
    results = []
    for budget in (10_000, 1):
        trainer = odin_trainer(budget) if name == "odin" else plain_descent(budget=budget, max_grad_norm=0.0)
        objective = {"odin": Odin(), "kto": KTO(), "dpo": DPO(rpo_alpha=0.5)}[name]
        groups = labelled(7) if name == "kto" else pair_groups(7)
        if name != "odin":
            other = make_trainer(seed=1).model
            groups, _ = with_reference_logprobs(groups, other, token_budget=100)
        held_out = evaluate(trainer, objective, groups)
        report = train_step(trainer, objective, groups)
        results.append((report.metrics, held_out, weights(trainer)))
    (whole, whole_out, expected), (parts, parts_out, got) = results
    assert whole.keys() == parts.keys()
    for metric in whole.keys() - TIMES:
        assert parts[metric] == pytest.approx(whole[metric], rel=1e-4, abs=1e-5), metric
    assert whole_out.keys() == parts_out.keys()
    assert {k.removeprefix("eval_") for k in whole_out} == whole.keys() - TIMES - {
        "learning_rate",
        "grad_norm",
    }
    for metric, value in whole_out.items():
        # before the step, so equal to the step's own
        assert parts_out[metric] == pytest.approx(value, rel=1e-4, abs=1e-5), metric
        assert value == pytest.approx(whole[metric.removeprefix("eval_")], rel=1e-4, abs=1e-5), metric
    for key, tensor in expected.items():
        assert torch.allclose(tensor, got[key], rtol=1e-4, atol=1e-6), key


def test_odins_gradient_is_that_of_the_correlations_of_all_completions() -> None:
    """Against autograd through Pearson's formula over the whole step."""
    groups = pair_groups(5)
    trainer = odin_trainer(1)
    trainer.settings = replace(trainer.settings, learning_rate=1.0, lr_scheduler_type="constant")
    other = odin_trainer(10_000)
    batch = collate(groups)
    scores = other.model(batch, {"scores"}).scores.double()
    quality, length = scores[:, 0], scores[:, 1]
    tokens = batch.mask.sum(-1).double()

    def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()

    both = (quality + length).view(-1, 2)
    ranking = -torch.nn.functional.logsigmoid(both[:, 0] - both[:, 1]).mean()
    loss = ranking + pearson(quality, tokens).abs() - pearson(length, tokens) + pearson(quality, length).abs()
    loss.backward()
    before = weights(trainer)
    report = train_step(trainer, Odin(), groups)
    assert report.metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    after = weights(trainer)
    for name, parameter in other.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(before[name] - after[name], parameter.grad, rtol=1e-3, atol=1e-5), name


def test_the_temperature_divides_the_logits() -> None:
    groups = pair_groups(2, k=1)
    trainer = make_trainer()
    trainer.temperature = 0.5
    model, total, count = make_trainer().model, 0.0, 0
    model.restore_attention()
    for group in groups:
        ids = torch.tensor(np.concatenate([group.prompt_ids, group.completions[0].ids])).long()
        with torch.no_grad():
            logprobs = (model.hf(ids[None], use_cache=False).logits[0].double() / 0.5).log_softmax(-1)
        for place in range(len(group.prompt_ids), len(ids)):
            total, count = total - float(logprobs[place - 1, ids[place]]), count + 1
    assert train_step(trainer, SFT(), groups).metrics["loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_reference_is_run_only_where_no_log_probs_are_stored() -> None:
    groups = pair_groups(3)
    stored, _ = with_reference_logprobs(groups, make_trainer(seed=1).model, token_budget=100)
    other = make_trainer(seed=1).model
    calls = []

    def reference(batch):
        calls.append(len(batch.indices))
        with torch.no_grad():
            return other(batch).logprobs

    found = []
    for rows in (stored, groups):
        trainer = make_trainer()
        trainer.reference = reference
        found.append(train_step(trainer, DPO(), rows).metrics["loss"])
    assert calls == [3]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] != pytest.approx(math.log(2), abs=1e-6)  # another model's
    with pytest.raises(ValueError, match="needs a reference, and none was given"):
        train_step(make_trainer(), DPO(), groups)
    assert train_step(make_trainer(), SFT(), pair_groups(3, k=1)).metrics["loss"] > 0  # needs none


def test_what_is_observed_is_each_pass_with_gradient() -> None:
    seen: list[Inputs] = []
    trainer = make_trainer(budget=1)
    groups, _ = with_reference_logprobs(labelled(3), trainer.model, token_budget=100)
    train_step(trainer, KTO(), groups, observe=seen.append)
    evaluate(trainer, KTO(), groups)
    assert len(seen) == 3  # a completion each; neither the mismatched ones nor the evaluation's
    assert all(one.logprobs is not None and one.logprobs.requires_grad for one in seen)


def test_tokens_and_time_are_those_of_the_step() -> None:
    groups = pair_groups(3, k=1)
    metrics = train_step(make_trainer(budget=1), SFT(), groups).metrics
    assert metrics["tokens_per_s"] * metrics["step_s"] == pytest.approx(sum(g.num_tokens for g in groups))
    assert 0 < metrics["step_s"] < 60
    assert 0.05 < metrics["memory_gb"] < 100


def test_a_step_that_fails_names_twenty_rows_and_what_helps() -> None:
    rows = [Group(np.asarray([5], np.int32), (completion([6, 7]),), index) for index in range(100, 121)]

    class Infinite(SFT):
        def __call__(self, inputs, *, denominator):
            output = super().__call__(inputs, denominator=denominator)
            return replace(output, loss=output.loss * torch.inf)

    for number, shown in ((20, "118, 119;"), (21, "118, 119, …;")):
        trainer = make_trainer()
        before = weights(trainer)
        with pytest.raises(
            NonFiniteError, match=f"step 1: loss inf.*: 100, .*{shown} the weights are those before"
        ):
            train_step(trainer, Infinite(), rows[:number])
        assert all(p.grad is None for p in trainer.model.parameters())
        assert all(torch.equal(before[n], w) for n, w in weights(trainer).items())
        assert trainer.step == 0


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is() -> None:
    class Steep(SFT):
        def __call__(self, inputs, *, denominator):
            output = super().__call__(inputs, denominator=denominator)
            return replace(
                output, loss=output.loss + (inputs.logprobs * 0).sum().sqrt()
            )  # 0/0 in its gradient

    with pytest.raises(NonFiniteError, match=r"step 1: loss \d.*gradient norm nan"):
        train_step(make_trainer(), Steep(), pair_groups(2, k=1))


def test_a_loss_that_is_not_finite_stops_although_the_gradient_is() -> None:
    class High(SFT):
        def __call__(self, inputs, *, denominator):
            output = super().__call__(inputs, denominator=denominator)
            return replace(output, loss=output.loss + math.inf)

    with pytest.raises(NonFiniteError, match=r"step 1: loss inf, gradient norm \d"):
        train_step(make_trainer(), High(), pair_groups(2, k=1))


def test_a_trainer_begins_with_the_documented_settings() -> None:
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    settings = OptimizerSettings()
    trainer = Trainer(PackedModel(hf), build_optimizer(hf.parameters(), settings), settings, 5)
    assert (trainer.token_budget, trainer.unsplit, trainer.temperature, trainer.step) == (4096, 0, 1.0, 0)
    assert trainer.reference is None


@pytest.mark.parametrize(("unsplit", "passes"), [(0, 2), (30, 1)])
def test_a_group_runs_in_pieces_only_above_its_limit(unsplit: int, passes: int) -> None:
    """The budget is 10 tokens; the group has 30 and two completions."""
    group = Group(
        np.arange(5, 15, dtype=np.int32), (completion(np.arange(20, 30)), completion(np.arange(40, 50))), 0
    )
    trainer = make_trainer(budget=10)
    trainer.unsplit = unsplit
    groups, _ = with_reference_logprobs([group], trainer.model, token_budget=100)
    widths: list[tuple[bool, int]] = []
    trainer.model.hf.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: widths.append((torch.is_grad_enabled(), args[0].numel()))
    )
    train_step(trainer, DPO(), groups)
    assert [tokens for gradient, tokens in widths if gradient] == [[30], [20, 20]][passes - 1]


@pytest.mark.parametrize("objective", [SFT(), PRESETS["dr_grpo"].objective])
def test_a_rank_without_a_share_makes_an_empty_step(objective: Objective) -> None:
    trainer = make_trainer()
    before = weights(trainer)
    metrics = train_step(trainer, objective, []).metrics
    assert (metrics["loss"], metrics["grad_norm"], metrics["tokens_per_s"], trainer.step) == (0, 0, 0, 1)
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())


def test_several_short_groups_in_a_pass_above_the_limit_stay_whole() -> None:
    """`unsplit` speaks of one group; two in one pass are not to be cut, or one of them would be lost."""
    losses = []
    for unsplit in (0, 1):
        trainer = make_trainer(budget=1000)
        trainer.unsplit = unsplit
        groups, _ = with_reference_logprobs(pair_groups(2), make_trainer(seed=1).model, token_budget=100)
        losses.append(train_step(trainer, DPO(), groups).metrics["loss"])
    assert losses[0] == losses[1]


def test_what_is_frozen_is_neither_measured_nor_moved() -> None:
    trainer = plain_descent(lr=1e-2, max_grad_norm=0.0)
    whole = train_step(plain_descent(lr=1e-2), SFT(), pair_groups(2, k=1)).metrics["grad_norm"]
    frozen = trainer.model.hf.get_input_embeddings().weight
    frozen.requires_grad_(False)
    before = weights(trainer)
    norm = train_step(trainer, SFT(), pair_groups(2, k=1)).metrics["grad_norm"]
    after = weights(trainer)
    assert 0 < norm < whole
    assert distance(before, after) == pytest.approx(1e-2 * norm, rel=1e-4)
    assert torch.equal(before["hf.model.embed_tokens.weight"], after["hf.model.embed_tokens.weight"])


def test_inputs_hold_what_the_pass_gave() -> None:
    trainer = make_trainer(head=True)
    batch = collate(pair_groups(2))
    known = Inputs(batch.mask, batch.group, extras=batch.extras)
    every = frozenset({"logprobs", "entropy", "scores", "values", "prompt_logprob"})
    with torch.no_grad():
        direct = trainer.model(batch, every)
        filled = fill_inputs(trainer, batch, known, every)
        for name in every:
            assert torch.equal(getattr(filled, name), getattr(direct, name)), name
            alone = fill_inputs(trainer, batch, known, frozenset({name}))
            assert {n for n in every if getattr(alone, n) is not None} - {"logprobs"} == {name} - {"logprobs"}
    assert filled.reference_logprobs is None
    assert with_statistics(filled, {}).extras == filled.extras


def test_what_nothing_was_counted_for_is_not_reported() -> None:
    """Ties only: no accuracy, instead of 0/0."""
    trainer = make_trainer()
    ties = [replace(group, values={"probability": 0.5}) for group in pair_groups(2)]
    groups, _ = with_reference_logprobs(ties, trainer.model, token_budget=100)
    assert "eval_accuracy" not in evaluate(trainer, DPO(), groups)
    metrics = train_step(trainer, DPO(), groups).metrics
    assert "accuracy" not in metrics
    assert "margin" in metrics
