"""Odd groups through the whole step: each has a defined loss, or an error that names it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignloop.config import resolve
from alignloop.data.columns import read_records
from alignloop.data.packing import Group, completion
from alignloop.errors import DataError, NonFiniteError
from alignloop.model.packed import ScalarHead
from alignloop.objectives import registry
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.kto import with_mismatched
from alignloop.objectives.listwise import Listwise
from alignloop.objectives.plackett_luce import PlackettLuce
from alignloop.objectives.sft import SFT
from alignloop.training.loop import train_step
from alignloop.training.reference import with_reference_logprobs
from tests.training.helpers import make_trainer, weights

RNG = np.random.default_rng(0)


def ids(length):
    return RNG.integers(5, 300, length).astype(np.int32)


def expected_nll(model, group, *, first):
    """Mean NLL of one completion's tokens from `first` on, by the plain model in float64."""
    model.restore_attention()
    whole = torch.from_numpy(np.concatenate([group.prompt_ids, group.completions[0].ids])).long()
    with torch.no_grad():
        logprobs = model.hf(whole[None], use_cache=False).logits[0].double().log_softmax(-1)
    start = len(group.prompt_ids) + first
    return -float(np.mean([float(logprobs[i - 1, whole[i]]) for i in range(start, len(whole))]))


def test_two_thousand_tokens():
    trainer = make_trainer(budget=512)
    long = Group(
        ids(40), (completion(ids(2000)), completion(ids(1900))), 0, {"probability": 1.0, "margin": 0.0}
    )
    alone = replace(long, completions=long.completions[:1], values={})
    nll = expected_nll(trainer.model, alone, first=0)
    assert train_step(trainer, SFT(), [alone]).metrics["loss"] == pytest.approx(nll, rel=1e-5)
    groups, _ = with_reference_logprobs([long], trainer.model, token_budget=512)
    report = train_step(trainer, DPO(), groups)
    assert report.metrics["loss"] == pytest.approx(np.log(2), abs=1e-3)  # sums of 2 000 float32 log-probs
    assert 0 < report.metrics["grad_norm"] < np.inf


def test_without_a_prompt_the_first_token_is_not_predicted():
    trainer = make_trainer()
    group = Group(ids(0), (completion(ids(7)),), 0)
    assert train_step(trainer, SFT(), [group]).metrics["loss"] == pytest.approx(
        expected_nll(make_trainer().model, group, first=1), rel=1e-5
    )


VALUES = {
    "preference": {"probability": 1.0, "margin": 0.0},
    "ranking": {"ranks": [1.0, 2.0]},
    "label": {"desirable": [True]},
    "rating": {"ratings": [[3.0]]},
}


def empty_prompts(kind):
    """Groups without prompt tokens; the first has a completion of one token, of which none counts."""
    lengths = (1, 4) if kind in ("preference", "ranking") else (4,)
    values = {
        name: np.asarray(value) if kind in ("label", "rating") else value
        for name, value in VALUES[kind].items()
    }
    groups = [
        Group(ids(0), tuple(completion(ids(n + number)) for n in lengths), number, values)
        for number in range(3)
    ]
    return with_mismatched(groups) if kind == "label" else groups


OFFLINE = [
    (name, kind) for name in registry.names() for kind in registry.load(name)().records if kind in VALUES
]


@pytest.mark.parametrize(("name", "kind"), OFFLINE)
def test_prompts_of_zero_tokens_give_a_finite_step(name, kind):
    trainer = make_trainer(head=True)
    if name == "odin":  # a head of two outputs
        trainer.model.head = ScalarHead(32, 2)
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    groups, _ = with_reference_logprobs(empty_prompts(kind), trainer.model, token_budget=999)
    report = train_step(trainer, registry.load(name)(), groups)
    assert np.isfinite([report.metrics["loss"], report.metrics["grad_norm"]]).all()
    assert report.metrics["grad_norm"] > 0


@pytest.mark.parametrize(
    "objective",
    [BradleyTerry(), PlackettLuce(), *(Listwise(method=m) for m in ("plackett_luce", "lipo_lambda"))],
    ids=["bradley_terry", "plackett_luce", "listwise", "lipo_lambda"],
)
def test_a_group_of_one_completion_teaches_nothing(objective):
    trainer = make_trainer(head=True)
    one = [Group(ids(4), (completion(ids(5)),), 0, {"ranks": [1.0]})]
    one, _ = with_reference_logprobs(one, trainer.model, token_budget=999)
    report = train_step(trainer, objective, one)
    assert report.metrics["loss"] == pytest.approx(0.0, abs=1e-6)
    assert report.metrics["grad_norm"] == pytest.approx(0.0, abs=1e-6)


def test_a_group_of_one_leaves_the_others_their_gradient():
    """It counts as a group of the step, with a loss of 0."""
    pair = Group(ids(4), (completion(ids(5)), completion(ids(3))), 0, {"ranks": [1.0, 2.0]})
    one = Group(ids(4), (completion(ids(5)),), 1, {"ranks": [1.0]})
    norms = [
        train_step(make_trainer(head=True), PlackettLuce(), groups).metrics["grad_norm"]
        for groups in ([pair], [pair, one])
    ]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-4)


def test_nan_in_a_weight_names_it_and_steps_nothing():
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.hf.model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    before = weights(trainer)
    with pytest.raises(
        NonFiniteError, match=r"rows .* in this step: 0; .*'hf.model.layers.0.self_attn.q_proj.weight'"
    ):
        train_step(trainer, SFT(), [Group(ids(4), (completion(ids(5)),), 0)])
    assert trainer.step == 0
    assert all(torch.equal(before[n], t) or t.isnan().any() for n, t in weights(trainer).items())


def rankings(path, *rankings):
    rows = [{"prompt": "q", "responses": ["a", "b", "c"][: len(r)], "ranking": r} for r in rankings]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_records(str(path), kind="ranking")


def test_rankings_that_are_none_are_dropped_with_their_line(tmp_path):
    data = rankings(tmp_path / "r.jsonl", [1, 2, 3], [1, 1, 5], [0, 1, 2], [1, 2, 2.5], [1], [3, 1, 2])
    assert [record.ranks for record in data.records] == [(1, 2, 3), (3, 1, 2)]
    assert data.reasons == {"not_a_ranking": 3, "too_few_responses": 1}
    assert str(data.dropped[0]).startswith(
        f"{tmp_path / 'r.jsonl'}:2: field 'ranking': value [1, 1, 5]: expected 3 ranks"
    )


def test_ties_in_every_way_of_counting(tmp_path):
    data = rankings(tmp_path / "r.jsonl", [1, 2, 2], [1, 3, 3], [1, 1, 2], [1, 1, 3], [1, 1, 1])
    assert not data.dropped
    losses = []
    for record in data.records[:2]:
        texts = tuple(completion(np.arange(5, 9 + k, dtype=np.int32)) for k in range(3))
        group = Group(np.arange(9, 12, dtype=np.int32), texts, 0, {"ranks": [float(r) for r in record.ranks]})
        losses.append(train_step(make_trainer(head=True), PlackettLuce(), [group]).metrics["loss"])
    assert losses[0] == losses[1]  # only the order counts


def test_only_single_responses_leave_nothing(tmp_path):
    with pytest.raises(DataError, match="too_few_responses"):
        rankings(tmp_path / "r.jsonl", [1], [1])
    assert resolve("listwise", {"dataset": "x", "output_dir": "y"}).objective == Listwise()
