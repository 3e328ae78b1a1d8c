"""Policy, critic and reference: adapters and heads on one base under LoRA, models of their own without.

B completions, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from peft import PeftModel
from torch import Tensor, nn

from alignloop.data.packing import Batch
from alignloop.model.adapters import adapters_off
from alignloop.model.packed import Forward, PackedModel

POLICY, CRITIC = "default", "critic"
"""Names of the adapters."""


class ActorCritic(nn.Module):
    """A policy with its reference and, for PPO, a critic. Called like a `PackedModel`.

    Arguments:
        policy: the model that samples and is trained.
        peft: the adapters on the policy's base, None for full fine-tuning.
        critic: a packed model with a scalar head; on the policy's own base it is the adapter `critic`.
        reference: a frozen model; None under LoRA, where it is the base with its adapters off.
    """

    def __init__(
        self,
        policy: PackedModel,
        *,
        peft: PeftModel | None = None,
        critic: PackedModel | None = None,
        reference: PackedModel | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        # outside the module tree: neither trained nor saved
        self._frozen = (peft, reference)
        self._refreshed: dict[str, Tensor] = {}
        self._trainable = [p for p in self.parameters() if p.requires_grad]

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return self.policy.device

    @property
    def autocast(self) -> torch.dtype | None:
        """Type of the policy's matrix products, None where it is the weights'."""
        return self.policy.autocast

    def precision(self) -> AbstractContextManager[None]:
        """The context the policy computes in, for the sampler."""
        return self.policy.precision()

    @property
    def peft(self) -> PeftModel | None:
        """The adapters of the policy's base."""
        return self._frozen[0]

    @property
    def one_base(self) -> bool:
        """Whether the critic is an adapter on the policy's base."""
        return self.critic is not None and self.critic.hf is self.policy.hf

    def role_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What is trained of the policy, and of the critic with its head."""
        if self.critic is None:
            return list(self._trainable), []
        own = {id(p) for p in self.critic.parameters()}
        if self.one_base:
            marked = (p for name, p in self.critic.named_parameters() if f".{CRITIC}." in name)
            head = self.critic.head.parameters() if self.critic.head is not None else ()
            own = {id(p) for p in (*marked, *head)}
        policy = [p for p in self._trainable if id(p) not in own]
        return policy, [p for p in self._trainable if id(p) in own]

    def forward(
        self, batch: Batch, needs: Set[str] = frozenset({"logprobs"}), *, temperature: float = 1.0
    ) -> Forward:
        """Log-probs and entropies of the policy, values of the critic; see `PackedModel.forward`."""
        of_critic = needs & {"scores", "values"}
        out = Forward()
        if needs - of_critic:
            out = self.policy(batch, needs - of_critic, temperature=temperature)
        if not of_critic:
            return out
        if self.critic is None:
            raise ValueError("these roles have no critic")
        with self._as_critic():
            read = self.critic(batch, of_critic)
        return replace(out, scores=read.scores, values=read.values)

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, *, temperature: float = 1.0) -> Tensor:
        """log π_ref of the completion tokens at the sampling temperature, (B, T), nats."""
        peft, reference = self._frozen
        if reference is not None:
            out = reference(batch, temperature=temperature).logprobs
        elif self._refreshed:
            with self._as_reference():
                out = self.policy(batch, temperature=temperature).logprobs
        elif peft is not None:
            with adapters_off(peft):
                out = self.policy(batch, temperature=temperature).logprobs
            self._keep_trainable()
        else:
            raise ValueError("these roles have no reference")
        assert out is not None
        return out

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        reference = self._frozen[1]
        if reference is not None:
            for old, new in zip(reference.hf.parameters(), self.policy.hf.parameters(), strict=True):
                old.copy_(new)
            self._refreshed = dict(reference.hf.named_parameters())
        else:
            self._refreshed = {name: p.detach().clone() for name, p in self._adapter().items()}

    def reference_state(self) -> dict[str, Tensor]:
        """A refreshed reference's weights by name, for a checkpoint; nothing while it is the start."""
        return {f"reference.{name}": weight.detach() for name, weight in self._refreshed.items()}

    @torch.no_grad()
    def load_reference_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `reference_state` gave, among other tensors."""
        found = {n.removeprefix("reference."): t for n, t in tensors.items() if n.startswith("reference.")}
        if not found:
            return
        self.refresh_reference()
        for name, weight in self._refreshed.items():
            weight.copy_(found[name])

    def _adapter(self) -> dict[str, nn.Parameter]:
        """The policy's adapter by name."""
        assert self.peft is not None
        return {n: p for n, p in self.peft.named_parameters() if f".{POLICY}." in n and "lora_" in n}

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """The remembered adapter in the policy's place."""
        own = self._adapter()
        kept = {name: p.detach().clone() for name, p in own.items()}
        for name, weight in self._refreshed.items():
            own[name].copy_(weight)
        try:
            yield
        finally:
            for name, weight in kept.items():
                own[name].copy_(weight)

    @contextmanager
    def _as_critic(self) -> Iterator[None]:
        """The critic's adapter instead of the policy's, where they share a base."""
        peft = self.peft
        if peft is None or not self.one_base:
            yield
            return
        peft.set_adapter(CRITIC)
        try:
            yield
        finally:
            peft.set_adapter(POLICY)
            self._keep_trainable()

    def _keep_trainable(self) -> None:
        """Undo what a change of adapters did to requires_grad: all roles' weights are trained."""
        for parameter in self._trainable:
            parameter.requires_grad_(True)


def frozen_copy(model: PackedModel) -> PackedModel:
    """The same weights in a second model that is never trained."""
    plain = copy.deepcopy(model.hf).eval().requires_grad_(False)
    return PackedModel(plain, shared_prefix=model.shared_prefix, autocast=model.autocast)
