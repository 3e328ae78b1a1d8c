import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate, completion
from alignloop.errors import NonFiniteError
from alignloop.objectives.base import Inputs, Objective, with_statistics
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import GRPO, PRESETS
from alignloop.objectives.kto import KTO, with_mismatched
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.sft import SFT
from alignloop.training.held_out import evaluate
from alignloop.training.loop import fill_inputs, train, train_step
from alignloop.training.reference import with_reference_logprobs
from tests.training.helpers import make_trainer, pair_groups, weights


def test_sft_loss_is_the_mean_nll_over_counted_tokens_of_the_whole_step():
    trainer = make_trainer()
    groups = pair_groups(3, k=1)
    model = trainer.model
    model.restore_attention()
    total, count = 0.0, 0
    for group in groups:
        ids = torch.tensor(np.concatenate([group.prompt_ids, group.completions[0].ids])).long()
        logprobs = model.hf(ids[None], use_cache=False).logits[0].double().log_softmax(-1)
        for place in range(len(group.prompt_ids), len(ids)):
            total -= float(logprobs[place - 1, ids[place]])
            count += 1
    report = train_step(trainer, SFT(), groups)
    assert report.metrics["loss"] == pytest.approx(total / count, rel=1e-5)


def test_dpo_starts_at_log_2_and_the_margin_grows():
    trainer = make_trainer(lr=1e-3)
    groups, _ = with_reference_logprobs(pair_groups(8), trainer.model, token_budget=100)
    losses = [r.metrics for r in train(trainer, DPO(), [groups] * 10)]
    assert losses[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert losses[-1]["loss"] < 0.6
    assert losses[-1]["margin"] > 0.1
    assert losses[-1]["accuracy"] == 1.0


@pytest.mark.parametrize(
    "objective", [SFT(), DPO(), KTO(), ORPO(), BradleyTerry()], ids=lambda o: type(o).__name__
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(objective):
    """Token budgets of one row, one group and everything leave the same weights after two steps."""
    after = []
    for budget in (1, 40, 10_000):
        trainer = make_trainer(head=True, budget=budget, lr=1e-3)
        groups = pair_groups(6, k=1 if isinstance(objective, SFT | KTO) else 2)
        if isinstance(objective, KTO):
            groups = [replace(g, values={"desirable": np.asarray([g.index % 2 == 0])}) for g in groups]
            groups = with_mismatched(groups)
        groups, _ = with_reference_logprobs(groups, trainer.model, token_budget=50)
        reports = list(train(trainer, objective, [groups, groups]))
        after.append((weights(trainer), [r.metrics["loss"] for r in reports]))
    for other, losses in after[1:]:
        assert losses == pytest.approx(after[0][1], rel=1e-6)
        for name, tensor in after[0][0].items():
            assert torch.allclose(tensor, other[name], rtol=1e-4, atol=2e-5), name


def test_the_order_of_rows_in_a_step_does_not_matter():
    results = []
    for flip in (False, True):
        trainer = make_trainer()
        groups = pair_groups(5)
        groups, _ = with_reference_logprobs(groups, trainer.model, token_budget=100)
        results.append(train_step(trainer, DPO(), groups[::-1] if flip else groups).metrics["grad_norm"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_clipping_scales_the_step_not_the_reported_norm():
    norms = []
    for limit in (0.0, 1e-3):
        trainer = make_trainer(max_grad_norm=limit)
        norms.append(train_step(trainer, SFT(), pair_groups(4, k=1)).metrics["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 1e-3


def test_nan_weights_stop_with_step_and_rows_and_leave_the_weights():
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.hf.get_output_embeddings().weight[7, 0] = float("nan")
    before = weights(trainer)
    with pytest.raises(
        NonFiniteError, match=r"step 1: loss nan.* rows of the data set in this step: 0, 1, 2"
    ):
        train_step(trainer, SFT(), pair_groups(3, k=1))
    assert trainer.step == 0
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor.nan_to_num(9), before[name].nan_to_num(9)), name


def test_prompt_tokens_that_do_not_count_get_no_gradient_through_the_mask():
    trainer = make_trainer()
    masked = Group(np.asarray([5, 6, 7], np.int32), (completion([8, 9, 10], mask=[False, True, False]),), 0)
    report = train_step(trainer, SFT(), [masked])
    alone = make_trainer()
    shorter = Group(np.asarray([5, 6, 7, 8], np.int32), (completion([9]),), 0)
    assert report.metrics["loss"] == pytest.approx(
        train_step(alone, SFT(), [shorter]).metrics["loss"], rel=1e-6
    )


def test_evaluate_changes_nothing_and_names_its_metrics():
    trainer = make_trainer()
    groups, _ = with_reference_logprobs(pair_groups(4), trainer.model, token_budget=100)
    before = weights(trainer)
    metrics = evaluate(trainer, DPO(), groups)
    assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert "eval_accuracy" in metrics or "eval_margin" in metrics
    assert all(torch.equal(before[n], t) for n, t in weights(trainer).items())
    assert trainer.step == 0


def test_kto_learns_from_its_own_completions_and_gets_z_from_the_others():
    groups = with_mismatched(
        [replace(g, values={"desirable": [g.index % 2 == 0]}) for g in pair_groups(5, k=1)], seed=3
    )
    one, other = make_trainer(lr=1e-2), make_trainer(lr=1e-2)
    groups, _ = with_reference_logprobs(groups, make_trainer(seed=1).model, token_budget=100)
    seen = []
    one.model.hf.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append((torch.is_grad_enabled(), given[0].numel()))
    )
    report = train_step(one, KTO(), groups)
    own = sum(len(g.prompt_ids) + len(g.completions[0].ids) for g in groups)
    mismatched = sum(len(g.prompt_ids) + len(g.completions[1].ids) for g in groups)
    assert seen == [(False, mismatched), (True, own)]

    batch = collate(groups)  # everything in one pass with gradient
    given = Inputs(batch.mask, batch.group, extras=batch.extras)
    given = fill_inputs(other, batch, given, KTO().needs)
    output = KTO()(with_statistics(given, KTO().step_statistics(given)), denominator=5.0)
    output.loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in other.model.parameters() if p.grad is not None])
    assert report.metrics["loss"] == pytest.approx(float(output.loss), rel=1e-6)
    assert report.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


class NothingIsIdle(Objective):
    """An objective as it is, every completion of which runs."""

    def __init__(self, objective: GRPO) -> None:
        self.needs, self.loss = objective.needs, objective

    def count(self, inputs):
        return self.loss.count(inputs)

    def __call__(self, inputs, *, denominator):
        return self.loss(inputs, denominator=denominator)


def rewarded(advantages, *, trainer, k=3):
    """Groups whose completions have these advantages and the model's own log-probs, a little off."""
    groups, _ = with_reference_logprobs(pair_groups(len(advantages), k=k), trainer.model, token_budget=100)
    given = iter([a for row in advantages for a in row])
    rows = []
    for group in groups:
        items = []
        for item in group.completions:
            own = item.values["reference_logprobs"]
            values = {"advantages": np.full_like(own, next(given)), "old_logprobs": own + np.float32(0.1)}
            items.append(replace(item, values={**item.values, **values}))
        rows.append(replace(group, completions=tuple(items)))
    return rows


def run_tokens(trainer):
    """Tokens of each pass, as they run."""
    seen = []
    trainer.model.hf.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append(given[0].numel())
    )
    return seen


@pytest.mark.parametrize("budget", [40, 10_000])
@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.objective.beta])
def test_completions_without_advantage_are_not_run_and_still_count(name, budget):
    objective = PRESETS[name].objective
    one, other = make_trainer(budget=budget), make_trainer(budget=budget)
    rows = rewarded([(1, -1, 0), (0, 0, 0), (0.5, 0.5, -1), (0, 0, 0)], trainer=other)
    seen, all_seen = run_tokens(one), run_tokens(other)
    reports = [train_step(one, objective, rows), train_step(other, NothingIsIdle(objective), rows)]
    active = [(rows[0], (0, 1)), (rows[2], (0, 1, 2))]
    assert sum(seen) == sum(
        len(group.prompt_ids) + sum(len(group.completions[k].ids) for k in chosen) for group, chosen in active
    )
    assert sum(all_seen) == sum(group.num_tokens for group in rows)
    for metric in ("loss", "grad_norm"):
        assert reports[0].metrics[metric] == pytest.approx(reports[1].metrics[metric], rel=1e-5), metric
    # Adam's first step is ± the rate wherever there is a gradient, so weights would hide a wrong size
    assert reports[0].metrics["grad_norm"] > 0


def test_a_step_of_idle_completions_moves_by_the_optimizers_momentum_alone():
    learned, idle = [(1, -1, 0), (0, 0, 0)], [(0, 0, 0), (0, 0, 0)]
    one, other = make_trainer(), make_trainer()
    rows, nothing = rewarded(learned, trainer=other), rewarded(idle, trainer=other)
    objective = PRESETS["dr_grpo"].objective
    seen = run_tokens(one)
    reports = list(train(one, objective, [rows, nothing]))
    list(train(other, NothingIsIdle(objective), [rows, nothing]))
    assert seen[-1] == len(nothing[0].prompt_ids) + len(nothing[0].completions[0].ids)
    assert reports[-1].metrics["grad_norm"] == 0.0
    before = weights(make_trainer())
    for name, tensor in weights(other).items():
        assert torch.allclose(tensor, weights(one)[name], rtol=1e-4, atol=2e-5), name
        assert not torch.equal(tensor, before[name])


def test_with_a_kl_term_every_completion_runs():
    trainer = make_trainer()
    rows = rewarded([(0, 0, 0), (1, -1, 0)], trainer=trainer)
    seen = run_tokens(trainer)
    report = train_step(trainer, GRPO(beta=0.04), rows)
    assert sum(seen) == sum(group.num_tokens for group in rows)
    assert "kl" in report.metrics
