"""One reward model from the mean of several ones' weights.

WARM (Ramé et al. 2024, arXiv 2401.12187): as robust as averaging rewards, at the price of one model. The
weights lie in one basin only if all runs began with the same base and the same head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignloop.config import AverageRewardsConfig
from alignloop.data.columns import read_records
from alignloop.data.tokenize import tokenize
from alignloop.errors import ModelError
from alignloop.evaluation.reward_bench import summarize
from alignloop.model.load import LoadedModel, load_model, same_vocabulary
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.precision import training_precision
from alignloop.model.save import save_model
from alignloop.model.scorer import group_scores, load_head, normalize, save_head
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.reward_model import member_folders, read_combination, reward_folder

_RELATED = 0.5


def average_rewards(config: AverageRewardsConfig, run: Run) -> dict[str, Any]:
    """Average the weights of reward models, and measure the result on judged rows.

    Args:
        config: the recipe; `models` are reward runs, and every member of an ensemble is one model.
        run: the run folder; receives `model/`.

    Returns:
        Results for run.json: `num_models`, the least similarity of two heads, and what `summarize` says.

    Raises:
        ModelError: models of another shape or tokenizer, or heads that did not begin the same.
    """
    common.set_threads(config.num_threads)
    folders = [place for path in config.models for place in places(path)]
    if len(folders) < 2:
        raise ModelError("an average needs at least two reward models; name more runs or an ensemble")
    average, heads = summed(folders, config)
    with torch.no_grad():
        for parameter in average.model.parameters():
            parameter.div_(len(folders))
    head = mean_head(heads)
    products = training_precision(config.dtype, config.device, weights_train=True).autocast
    model = PackedModel(average.model, head=head.to(average.model.device), autocast=products)
    results: dict[str, Any] = {"num_models": len(folders), "head_similarity": similarity(heads)}
    encoder = common.inference_encoder(replace(average, path=reward_folder(config.models[0])))
    if config.dataset is not None:
        data = read_records(config.dataset, columns=config.columns)
        groups = tokenize(data.records, encoder).groups
        normalize(model, groups, config.token_budget)
        rewards = [s[:, 0].double().numpy() for s in group_scores(model, groups, config.token_budget)]
        results |= summarize(groups, rewards)
    model.restore_attention()
    save_model(average.model, average.tokenizer, run.model, extra=encoder.template.save)  # pyright: ignore[reportAttributeAccessIssue]
    save_head(head, run.model)
    return results


def places(path: str) -> Iterator[Path]:
    """The folders of a reward model's members."""
    folder = reward_folder(path)
    yield from member_folders(folder, read_combination(folder).members)


def summed(folders: list[Path], config: AverageRewardsConfig) -> tuple[LoadedModel, list[ScalarHead]]:
    """A model whose float32 weights are the sum of all, and their heads; two models in memory at once.

    Raises:
        ModelError: they do not fit each other.
    """
    total = load_model(folders[0], dtype="float32", device=config.device, seed=config.seed)
    heads = [load_head(folder) for folder in folders]
    for number, folder in enumerate(folders[1:], 1):
        other = load_model(folder, dtype="float32", device=config.device, seed=config.seed)
        own, more = dict(total.model.named_parameters()), dict(other.model.named_parameters())
        shapes = [{name: p.shape for name, p in part.items()} for part in (own, more)]
        if shapes[0] != shapes[1] or heads[0].weight.shape != heads[number].weight.shape:
            raise ModelError(f"'{folder}' has another architecture than '{folders[0]}'")
        if not same_vocabulary(total.tokenizer, other.tokenizer):
            raise ModelError(f"'{folder}' has another tokenizer than '{folders[0]}'")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.add_(more[name])
    if similarity(heads) < _RELATED:
        raise ModelError(
            f"the heads are unrelated (cosine {similarity(heads):.2f}), so they began differently and their "
            "weights must not be averaged; train the runs with one head_seed, or combine their rewards"
        )
    return total, heads


def similarity(heads: list[ScalarHead]) -> float:
    """Least cosine of the first head's weights with another's, −1 to 1."""
    first, *others = (head.weight.detach().flatten() for head in heads)
    return min(float(torch.cosine_similarity(first, other, dim=0)) for other in others)


def mean_head(heads: list[ScalarHead]) -> ScalarHead:
    """The mean of weights, bias, gain and shift."""
    outputs, size = heads[0].weight.shape
    mean = ScalarHead(size, outputs)
    states = [head.state_dict() for head in heads]
    mean.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    return mean
