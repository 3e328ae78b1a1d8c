"""Silent traps in a loaded model, looked for right before the first step.

B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignloop.data.packing import Batch, Group, collate
from alignloop.model.finite import non_finite_weight
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.stages.lint import Finding
from alignloop.training.loop import Reference

_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.5}
"""Nats per token by which the same weights may differ in another packing, by the type of the products."""


def lint_weights(model: nn.Module) -> list[Finding]:
    """AL303: a weight is NaN or infinite; every loss would be NaN."""
    name = non_finite_weight(model)
    if not name:
        return []
    sentence = f"the model's weight '{name}' holds NaN or infinity, so every loss would be NaN"
    return [Finding("AL303", "error", sentence, "start from an intact model or an earlier checkpoint")]


def lint_head(head: ScalarHead, seed: int) -> list[Finding]:
    """AL302: the fresh scalar head is not the one its seed gives, so the run cannot be repeated."""
    num_outputs, hidden_size = head.weight.shape
    expected = ScalarHead(hidden_size, num_outputs, seed=seed).weight
    if torch.equal(head.weight.detach().float().cpu(), expected.detach()):
        return []
    sentence = f"the reward head was not initialised from seed {seed}, so this run cannot be repeated"
    return [Finding("AL302", "error", sentence, "make it with ScalarHead(hidden_size, outputs, seed=seed)")]


def lint_reference_values(
    model: PackedModel, groups: Sequence[Group], reference: Reference | None
) -> list[Finding]:
    """AL301: the reference is not the model that the training starts from.

    With a `reference` (adapters off under LoRA) the adapter's weights are changed for a moment: the
    reference's log-probs must stay what they are, whatever the adapter learned. Without one the stored
    log-probs of the shortest group must be those of the model as it is now.

    Args:
        model: the policy at step 0; under LoRA at any step.
        groups: training data, with `reference_logprobs` in the completions if `reference` is None.
        reference: gives reference log-probs, None where the groups hold them.

    Returns:
        At most one finding.
    """
    batch = collate([min(groups, key=lambda group: group.num_tokens)])
    if reference is not None:
        difference = _with_another_adapter(model, reference, batch)
        sentence = "the reference changes with the adapter, which was left on: it would follow the policy"
        fix = "switch the adapters off for the reference (model.adapters.adapters_off)"
    else:
        stored = batch.extras.get("reference_logprobs")
        if stored is None:
            return []
        difference = _difference(stored, _logprobs(model, batch), batch.mask)
        sentence = "the stored reference log-probs are not those of the model that the training starts from"
        fix = "empty the folder `reference` of the cache, or set precompute_ref_log_probs: false"
    if difference <= _TOLERANCE.get(model.compute_dtype, 0.5):
        return []
    return [Finding("AL301", "error", f"{sentence} ({difference:.2g} nats per token)", fix)]


def _with_another_adapter(model: PackedModel, reference: Reference, batch: Batch) -> float:
    """Change of the reference's log-probs when every trained weight is moved by 0.1, then put back."""
    before = reference(batch)
    trained = [p for p in model.hf.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1)
        after = reference(batch)
        for parameter, values in zip(trained, kept, strict=True):
            parameter.copy_(values)
    return _difference(before, after, batch.mask)


def _logprobs(model: PackedModel, batch: Batch) -> Tensor:
    """Log-probs (B, T) in eval mode, without gradient."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logprobs = model(batch).logprobs
    model.train(training)
    assert logprobs is not None
    return logprobs


def _difference(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Greatest difference per counted token, nats; infinite where one is NaN."""
    gap = (one.float().cpu() - other.float().cpu()).abs()[mask.cpu()]
    return float(gap.nan_to_num(nan=torch.inf).max()) if gap.numel() else 0.0
