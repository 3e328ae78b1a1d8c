"""In which type models compute, and what stays float32 whatever that is."""

import pytest
import torch

from alignloop.data.packing import collate
from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.precision import training_precision
from alignloop.model.roles import ActorCritic, frozen_copy
from alignloop.model.tiny import tiny_model
from tests.training.helpers import pair_groups

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


def model_of(kind: str, *, head: ScalarHead | None = None) -> PackedModel:
    """A tiny model as the stages make it: all weights float32, or LoRA on frozen bfloat16 weights."""
    hf, _ = tiny_model(hidden_size=32, num_layers=2)
    if kind == "lora":
        hf = hf.to(BFLOAT16)  # pyright: ignore[reportCallIssue]
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
        out = model(batch, scores=True, values=True)
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
    out = model(collate(pair_groups(2)), entropy=True, scores=True, values=True, prompt_logprob=True)
    given = (out.logprobs, out.entropy, out.scores, out.values, out.prompt_logprob)
    assert [tensor.dtype for tensor in given] == [FLOAT32] * 5
    sum(tensor.sum() for tensor in given).backward()
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
