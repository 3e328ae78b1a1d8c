"""Silent traps in how a turn ends: an end that is no token, none at all, or one that cannot be learned."""

from __future__ import annotations

import torch

from alignloop.data.chat import ChatTemplate
from alignloop.model.endings import template_end, turn_end
from alignloop.model.load import LoadedModel
from alignloop.stages.lint import Finding

_UNTRAINED = 1e-3
"""Length of a row of the vocabulary head, as a share of the median, below which nothing has trained it."""


def lint_end(loaded: LoadedModel, template: ChatTemplate) -> list[Finding]:
    """AL118: the end of a turn is plain text, or there is none."""
    own = template_end(loaded.tokenizer, template)
    if own.texts:
        sentence = (
            f"the chat template ends a turn with the text {own.texts[0]!r}, which is no special token: an "
            "answer is cut where that text stands, and other engines must be given it as a stop string"
        )
        fix = "use a template whose turns end with a special token (alpaca and plain use the tokenizer's EOS)"
        return [Finding("AL118", "warning", sentence, fix)]
    if own.tokens or turn_end(loaded.model, loaded.tokenizer).tokens:
        return []
    sentence = "nothing ends a turn of this model: its template has no end of turn, its tokenizer no EOS"
    return [Finding("AL118", "warning", sentence, "give the tokenizer an eos_token, or set stop")]


@torch.no_grad()
def lint_untrained_end(loaded: LoadedModel, template: ChatTemplate, *, lora: bool) -> list[Finding]:
    """AL119: an adapter leaves the vocabulary head as it is, in which the end of turn was never trained.

    Base models keep rows for tokens of later use (`<|eot_id|>` in Llama 3): all zeros, or all alike.

    Args:
        loaded: the model with its weights, on any device.
        template: its chat template.
        lora: whether an adapter is trained and not all weights.

    Returns:
        At most one finding.
    """
    ends, head = template_end(loaded.tokenizer, template).tokens[:1], loaded.model.get_output_embeddings()
    if not lora or not ends or head is None:
        return []
    weight = head.weight  # pyright: ignore[reportAttributeAccessIssue]
    row = weight[ends[0]]
    small = (
        row.float().norm() <= _UNTRAINED * weight[:: max(1, len(weight) // 1024)].float().norm(dim=1).median()
    )
    candidates = weight[weight[:, 0] == row[0]]  # few, so that the whole head is not compared
    alike = int((candidates == row).all(1).sum()) > 1
    if not small and not alike:
        return []
    sentence = (
        f"the end of a turn, {loaded.tokenizer.decode(list(ends))!r}, has a row in the vocabulary head that "
        f"was never trained ({'all but zero' if small else 'the same as other tokens'}), and an adapter "
        "does not change it, so the model can hardly learn to stop"
    )
    fix = (
        "train all weights (lora_r: 0), or use a template that ends with the tokenizer's EOS (alpaca, plain)"
    )
    return [Finding("AL119", "warning", sentence, fix)]
