"""In which type models compute, and what stays float32 whatever that is."""

import pytest
import torch
from torch import nn

from alignloop.data.packing import collate
from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.precision import spread_weights, training_precision
from alignloop.model.roles import ActorCritic, frozen_copy
from alignloop.model.tiny import tiny_model
from tests.training.helpers import pair_groups

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


def model_of(kind: str, *, head: ScalarHead | None = None) -> PackedModel:
    """A tiny model as the stages make it: all weights float32, or LoRA on frozen bfloat16 weights."""
    hf, _ = tiny_model(hidden_size=32, num_layers=2)
    if kind == "lora":
        hf = hf.to(BFLOAT16)  # pyright: ignore[reportCallIssue, reportArgumentType]
        add_adapter(hf, LoraSettings(r=4))
    return PackedModel(hf, head=head, shared_prefix=True, autocast=BFLOAT16)


def test_the_two_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    assert training_precision("bfloat16", "cpu", weights_train=True) == (FLOAT32, BFLOAT16)
    assert training_precision("bfloat16", "cpu", weights_train=False) == (BFLOAT16, BFLOAT16)
    for dtype in ("float32", "auto"):
        assert training_precision(dtype, "cpu", weights_train=True) == (FLOAT32, None)
    assert training_precision("bfloat16", "cpu", weights_train=True).weights_name == "float32"
    monkeypatch.setattr("alignloop.machine.bf16_instructions", list)
    with pytest.raises(ModelError, match="no bfloat16 instructions"):
        training_precision("bfloat16", "cpu", weights_train=True)


@pytest.mark.parametrize("hidden_type", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("weight_type", [FLOAT32, BFLOAT16])
def test_a_reward_of_66_and_an_eighth_keeps_its_eighth(hidden_type, weight_type) -> None:
    """66.125 has ten significant bits, bfloat16 eight: it would become 66."""
    head = ScalarHead(2)
    head.load_state_dict({"weight": torch.tensor([[64.0, 1.0]]), "bias": torch.tensor([0.125])}, strict=False)
    head.to(weight_type)
    hidden = torch.tensor([[1.0, 2.0], [1.0, -0.5]], dtype=hidden_type)
    for enabled in (False, True):
        with torch.autocast("cpu", BFLOAT16, enabled=enabled):
            out = head(hidden)
        assert out.dtype == FLOAT32
        assert out[:, 0].tolist() == [66.125, 63.625]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_scores_and_values_are_the_float32_head_on_the_hidden_states(kind: str) -> None:
    head = ScalarHead(32, 2, seed=3)
    with torch.no_grad():
        head.bias.fill_(66)
    model, batch = model_of(kind, head=head).eval(), collate(pair_groups(3))
    with torch.no_grad():
        out = model(batch, {"logprobs", "scores", "values"})
        hidden = model.hidden(batch).double()
    expected = hidden @ head.weight.detach().double().T + 66
    assert out.scores is not None
    assert out.values is not None
    torch.testing.assert_close(out.scores.double(), expected[batch.last_index], atol=2e-5, rtol=0)
    counted = batch.mask
    values = expected[batch.predict_index[counted], 0]
    torch.testing.assert_close(out.values[counted].double(), values, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_what_a_model_gives_is_float32_and_so_are_its_gradients(kind: str) -> None:
    model = model_of(kind, head=ScalarHead(32))
    out = model(collate(pair_groups(2)), {"logprobs", "entropy", "scores", "values", "prompt_logprob"})
    given = [out.logprobs, out.entropy, out.scores, out.values, out.prompt_logprob]
    given = [tensor for tensor in given if tensor is not None]
    assert [tensor.dtype for tensor in given] == [FLOAT32] * 5
    torch.stack([tensor.sum() for tensor in given]).sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and grad.dtype == FLOAT32 for grad in grads)


def test_whoever_reads_a_model_reads_it_in_its_type() -> None:
    model, batch = model_of("full").eval(), collate(pair_groups(3))
    plain = PackedModel(model.hf, shared_prefix=True)
    with torch.no_grad():
        inside, outside = model(batch).logprobs, plain(batch).logprobs
        with torch.autocast("cpu", BFLOAT16):
            expected = plain(batch).logprobs
        with torch.autocast("cpu", enabled=False):
            again = model(batch).logprobs
    assert torch.equal(inside, expected)
    assert torch.equal(inside, again)
    assert not torch.equal(inside, outside)
    assert model.compute_dtype == BFLOAT16
    assert plain.compute_dtype == FLOAT32


def test_the_reference_computes_as_the_policy() -> None:
    model, batch = model_of("full").eval(), collate(pair_groups(3))
    roles = ActorCritic(model, reference=frozen_copy(model))
    with torch.no_grad():
        assert torch.equal(roles.reference_logprobs(batch), roles(batch).logprobs)
    assert roles.autocast == BFLOAT16


def layer_of(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def between_one_and_two(place: str) -> torch.Tensor:
    """float32 weights whose bfloat16 neighbours are 2⁻⁷ apart: on one, or halfway between two."""
    on = (1 + torch.rand(256, 256)).to(BFLOAT16).float().clamp(1, 1.98)
    return on if place == "on" else on + 2**-8


@pytest.mark.parametrize(("place", "unspread"), [("on", 0.0), ("halfway", 3.9)])
def test_a_small_step_changes_what_is_read_by_as_much_as_in_float32(place: str, unspread: float) -> None:
    """A step of 10⁻³: of weights on a bfloat16 number none is seen to move; of those halfway every other one
    (it rounds to even) moves by 2⁻⁷, 3.9 steps on average."""
    weight, step = between_one_and_two(place), 1e-3 * torch.randn(256, 256).sign()

    def seen(weight: torch.Tensor) -> float:
        change = (weight + step).to(BFLOAT16).float() - weight.to(BFLOAT16).float()
        return float((change * step).sum() / step.square().sum())

    assert seen(weight) == pytest.approx(unspread, abs=0.2)
    layer = layer_of(weight.clone())
    assert spread_weights(layer) == 1
    # a weight changes with probability 0.128 by 7.8 steps: a mean over 65,536 is known to 0.01
    assert seen(layer.weight.detach()) == pytest.approx(1.0, abs=0.05)


def test_spread_weights_round_to_what_they_rounded_to() -> None:
    weight = torch.randn(64, 64).to(BFLOAT16).float()
    weight[0, :6] = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0**-120, 3.3e38])
    weight[1, 0] = torch.inf
    layer = layer_of(weight.clone())
    spread_weights(layer)
    got = layer.weight.detach()
    assert torch.equal(got.to(BFLOAT16), weight.to(BFLOAT16))
    assert (got != weight).float().mean() > 0.99
    assert got[0, :2].tolist() == [0.0, 0.0]
    again = layer_of(weight.clone())
    spread_weights(again)
    assert torch.equal(again.weight.detach(), got)  # runs from one checkpoint start alike
    assert spread_weights(again) == 0  # once is enough
    assert spread_weights(layer_of(torch.randn(64, 64))) == 0  # as training leaves them


def test_a_model_with_spread_weights_computes_the_same() -> None:
    model, batch = model_of("full").eval(), collate(pair_groups(3))
    model.hf.bfloat16().float()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        expected = model(batch).logprobs
        assert (
            spread_weights(model) == 14
        )  # seven matrices of two layers; the vocabulary's is the embeddings'
        assert torch.equal(model(batch).logprobs, expected)
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == {name for name in before if "norm" in name or "embed" in name}
