"""The chunked head against full logits in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignloop.model import logprobs
from alignloop.model.logprobs import LogitTransform, token_logprobs

M, H, V = 7, 5, 301

TRANSFORMS = {
    "plain": LogitTransform(),
    "scale": LogitTransform(scale=0.3),
    "softcap": LogitTransform(softcap=2.0),
    "temperature": LogitTransform(temperature=0.6),
    "all": LogitTransform(scale=1.7, softcap=2.5, temperature=1.4),
}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices of 128 entries at most, the last one shorter."""
    monkeypatch.setitem(logprobs.SLICE_ELEMENTS, "cpu", 1)


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and targets; targets lie on both sides of the slices' borders."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((M, H), (V, H), (V,)))
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), torch.tensor([0, 127, 128, 255, 256, 300, 128])


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, transform: LogitTransform
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the whole matrix of logits, written from the definitions."""
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    logp = torch.log_softmax(logits / transform.temperature, -1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_and_gradients(name: str, with_bias: bool, entropy: bool) -> None:
    hidden, weight, bias, targets = tensors(torch.float64)
    inputs = [t.requires_grad_() for t in ((hidden, weight, bias) if with_bias else (hidden, weight))]
    used = bias if with_bias else None
    transform = TRANSFORMS[name]
    upstream = torch.randn(2, M, dtype=torch.float64)
    got, got_entropy = token_logprobs(
        hidden, weight, targets, bias=used, transform=transform, entropy=entropy
    )
    expected, expected_entropy = reference(hidden, weight, targets, used, transform)
    assert (got - expected).abs().max() < 1e-12
    loss, expected_loss = (upstream[0] * got).sum(), (upstream[0] * expected).sum()
    if entropy:
        assert got_entropy is not None
        assert (got_entropy - expected_entropy).abs().max() < 1e-12
        loss, expected_loss = (
            loss + (upstream[1] * got_entropy).sum(),
            expected_loss + (upstream[1] * expected_entropy).sum(),
        )
    else:
        assert got_entropy is None
    found = torch.autograd.grad(loss, inputs)
    wanted = torch.autograd.grad(expected_loss, inputs)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.usefixtures("small_slices")
def test_rows_beyond_the_vocabulary_and_their_bias_are_no_tokens() -> None:
    """A head is padded to a round number; the model's own log-probs run over its first rows only."""
    hidden, weight, bias, targets = tensors(torch.float64)
    targets, size = targets.clamp(max=259), 260
    got, _ = token_logprobs(
        hidden, weight, targets, bias=bias, transform=LogitTransform(vocabulary=size), entropy=False
    )
    expected, _ = reference(hidden, weight[:size], targets, bias[:size], LogitTransform())
    assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_frozen_head_gives_the_same_gradient_of_the_hidden_states(name: str) -> None:
    hidden, weight, bias, targets = tensors(torch.float64)
    hidden.requires_grad_()
    upstream = torch.randn(M, dtype=torch.float64)
    got, _ = token_logprobs(hidden, weight, targets, bias=bias, transform=TRANSFORMS[name])
    expected, _ = reference(hidden, weight, targets, bias, TRANSFORMS[name])
    assert (got - expected).abs().max() < 1e-12
    (a,) = torch.autograd.grad((upstream * got).sum(), hidden)
    (b,) = torch.autograd.grad((upstream * expected).sum(), hidden)
    assert (a - b).abs().max() < 1e-12


@pytest.mark.usefixtures("small_slices")
def test_gradcheck() -> None:
    hidden, weight, bias, targets = tensors(torch.float64)
    weight, bias = weight[:260], bias[:260]
    targets = targets.clamp(max=259)
    inputs = [hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]

    def function(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        logp, entropy = token_logprobs(h, w, targets, bias=b, transform=TRANSFORMS["all"], entropy=True)
        assert entropy is not None
        return logp, entropy

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("elements", [1, 1000, 2**21])
def test_the_size_of_a_slice_changes_nothing(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setitem(logprobs.SLICE_ELEMENTS, "cpu", elements)
    hidden, weight, _, targets = tensors()
    hidden.requires_grad_()
    weight.requires_grad_()
    got, _ = token_logprobs(hidden, weight, targets)
    expected, _ = reference(hidden.double(), weight.double(), targets, None, LogitTransform())
    assert (got - expected).abs().max() < 5e-6
    a = torch.autograd.grad(got.sum(), (hidden, weight))
    b = torch.autograd.grad(expected.sum(), (hidden, weight))
    assert all((x - y).abs().max() < 5e-6 for x, y in zip(a, b, strict=True))


@pytest.mark.usefixtures("small_slices")
def test_large_logits_and_rows_far_apart_do_not_overflow() -> None:
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    weight = torch.linspace(-3000, 3000, V)[:, None].requires_grad_()
    targets = torch.tensor([V - 1, V - 1])
    got, entropy = token_logprobs(hidden, weight, targets, entropy=True)
    assert entropy is not None
    # the logits are 20 apart: the top one has log-prob −log(1 + e⁻²⁰ + …), the lowest −6000
    assert got.tolist() == pytest.approx([-2.06e-9, -6000.0], abs=1e-3)
    assert torch.isfinite(entropy).all()
    (got.sum() + entropy.sum()).backward()
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


def test_bfloat16_accumulates_in_float32() -> None:
    hidden, weight, _, targets = tensors(torch.bfloat16)
    hidden.requires_grad_()
    weight.requires_grad_()
    got, _ = token_logprobs(hidden, weight, targets)
    assert got.dtype == torch.float32
    expected, _ = reference(hidden.double(), weight.double(), targets, None, LogitTransform())
    assert (got - expected).abs().max() < 0.05
    got.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_no_rows() -> None:
    hidden, weight, _, _ = tensors()
    hidden = hidden[:0].requires_grad_()
    weight.requires_grad_()
    got, _ = token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    assert got.shape == (0,)
    got.sum().backward()
    assert not weight.grad.any()


def test_memory_is_a_slice_not_the_vocabulary() -> None:
    """The largest tensor that forward and backward save or make is the head's own gradient."""
    rows, vocabulary = 64, 2**16
    hidden = torch.randn(rows, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=True)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_logprobs(hidden, weight, torch.zeros(rows, dtype=torch.long))
    assert max(saved) == weight.numel() < rows * vocabulary


def test_autocast_backward_recomputes_the_logits_of_the_forward_pass() -> None:
    """Its gradients are those of the same numbers in bfloat16, where no autocast takes part."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(5, 8, generator=generator), torch.randn(40, 8, generator=generator)
    targets = torch.arange(5)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        h, w = (tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            logprobs, _ = token_logprobs(h, w, targets)
        logprobs.sum().backward()
        assert logprobs.dtype == torch.float32
        gradients.append([logprobs, h.grad.float(), w.grad.float()])
    for mine, plain in zip(*gradients, strict=True):
        assert torch.equal(mine, plain)
