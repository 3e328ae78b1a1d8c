"""Weights between two models: often the best trade-off of what was learned and what was forgotten.

θ = (1 − s)·θ_before + s·θ_after, element by element (Lin et al. 2023, arXiv 2309.06256).
"""

from __future__ import annotations

from typing import Any

import torch

from alignloop.config import InterpolateConfig
from alignloop.errors import ModelError
from alignloop.model.load import LoadedModel, load_model, same_vocabulary
from alignloop.model.save import save_model
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.checks import saved_template


def interpolate(config: InterpolateConfig, run: Run) -> dict[str, Any]:
    """Write the model that lies `share` of the way from `before` to `after`.

    Args:
        config: the recipe; both models have one architecture and tokenizer, adapters are merged. Weights
            are mixed and written in float32 whatever `dtype` says, as a small step is lost in bfloat16.
        run: the run folder; receives `model/`.

    Returns:
        Results for run.json: the share, and how far apart the two are.

    Raises:
        ModelError: the models differ in shape or tokenizer.
    """
    common.set_threads(config.num_threads)
    before, after = (
        load_model(name, dtype="float32", device=config.device, seed=config.seed)
        for name in (config.before, config.after)
    )
    distance = mix(before, after, config.share)
    template = saved_template(after)
    save_model(
        after.model,
        after.tokenizer,
        run.path / "model",
        extra=template.save if template is not None else None,
    )
    return {"share": config.share, "relative_distance": distance}


@torch.no_grad()
def mix(before: LoadedModel, after: LoadedModel, share: float) -> float:
    """Move the weights of `after` back towards `before`; returns |θ_after − θ_before| / |θ_before|."""
    old, new = dict(before.model.named_parameters()), dict(after.model.named_parameters())
    unlike = [name for name in new if name not in old or old[name].shape != new[name].shape]
    if unlike or len(old) != len(new) or not same_vocabulary(before.tokenizer, after.tokenizer):
        what = f"'{unlike[0]}' differs" if unlike else "their weights or tokenizers differ"
        raise ModelError(f"'{before.name}' and '{after.name}' have nothing between them: {what}")
    moved = sum(float((new[name].double() - old[name].double()).square().sum()) for name in new)
    size = sum(float(weight.double().square().sum()) for weight in old.values())
    for name, weight in new.items():
        weight.copy_(torch.lerp(old[name].float(), weight.float(), share))
    return (moved / size) ** 0.5
