"""Whether the numbers that training reads are the model's own, found out before they are used.

The log-probs that `hf(...)` itself gives for a few short rows are compared with those of the packed row
(two groups, one with two completions) and, where that is wrong, of padded rows, then of rows that run one
at a time. Windows are made smaller than the probe for a second comparison, so that they bind, and 16-bit
weights are widened: in bfloat16 rounding hides what is wrong by a hundredth. In the type in which the model
will compute, a row longer than its chunks has to run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignloop.data.packing import Batch
from alignloop.errors import ModelError, first_line
from alignloop.model.head import FOREIGN, without_dropout
from alignloop.model.layouts import Layout
from alignloop.model.precision import autocast_to
from alignloop.model.probe import HALF, Own, difference, in_float32, long_probe, own_logprobs, small_windows

Read = Callable[[Batch, Layout], Tensor]
"""Log-probs (B, T) of a batch in a layout."""

_ORDER: dict[bool | None, tuple[Layout, ...]] = {
    None: ("packed", "padded", "alone"),
    True: ("packed",),
    False: ("padded", "alone"),
}
"""Layouts to try, by the caller's `shared_prefix`."""
_INSTEAD = {
    "padded": "padded rows are used instead, which are slower and give",
    "alone": "each row runs by itself instead, which is slower and gives",
}
_ROWS = {"packed": "on packed rows", "padded": "on padded rows", "alone": "on rows that run by themselves"}
_RUN = {"packed": "packed rows", "padded": "padded rows", "alone": "rows by themselves"}

_verdicts: dict[Any, dict[Layout, str | None]] = {}
"""Why a model cannot use a layout, None if it can; of the layouts that were tried."""


class Verification:
    """Compares a model with itself. Make it before forwards are replaced, ask it afterwards.

    What was found is remembered for the process by class, configuration, types and device.

    Arguments:
        hf: a transformers causal language model. On the meta device nothing can be compared.
        shared_prefix: None to take the fastest layout that is right, True for packed rows only, False for
            the fastest of the others.
        autocast: type of the matrix products, None where it is the weights'.

    Raises:
        ModelError: the model cannot run a plain row of tokens, or reads later tokens.
    """

    def __init__(
        self, hf: PreTrainedModel, shared_prefix: bool | None = None, autocast: torch.dtype | None = None
    ) -> None:
        self.hf, self.autocast = hf, autocast
        self._shared_prefix = shared_prefix
        self._order = _ORDER[shared_prefix]
        key = (type(hf), hf.config.to_json_string(use_diff=False), hf.dtype, autocast, hf.device.type)
        self._meta = hf.device.type == "meta"
        self._known = {} if self._meta else _verdicts.setdefault(key, {})
        self._own = None if self._meta or self._is_settled() else own_logprobs(hf)

    def _is_settled(self) -> bool:
        """Whether what is known already names the layout, or refuses the model."""
        for layout in self._order:
            if layout not in self._known:
                return False
            if self._known[layout] is None:
                return True
        return True

    def layout(self, read: Read) -> Layout:
        """Compare one layout after another with the model itself.

        Args:
            read: gives log-probs of a batch in a layout.

        Returns:
            The first that gives the model's own log-probs; a warning says so if faster ones do not.

        Raises:
            ModelError: none of them does.
        """
        if self._meta:
            return self._order[0]
        reasons: list[str] = []
        for layout in self._order:
            if layout not in self._known:
                assert self._own is not None, (
                    "the model's own log-probs were read where something was unknown"
                )
                self._known[layout] = self._fault(self._own, read, layout)
            reason = self._known[layout]
            if reason is None:
                self._announce(layout, reasons)
                return layout
            reasons.append(reason)
        raise ModelError(self._refusal(reasons))

    def _announce(self, layout: Layout, reasons: list[str]) -> None:
        if reasons:
            warnings.warn(
                f"{type(self.hf).__name__} {reasons[-1]}; {_INSTEAD[layout]} the model's own log-probs",
                stacklevel=4,
            )

    def _refusal(self, reasons: list[str]) -> str:
        name = type(self.hf).__name__
        if self._shared_prefix:
            return f"{name} {reasons[0]}; leave out shared_prefix=True, and rows of another layout are used"
        first = f" ({reasons[0]})" if reasons[0] != reasons[-1] else ""
        return f"{name} {reasons[-1]}; this architecture cannot be trained here{first}"

    def _fault(self, own: Own, read: Read, layout: Layout) -> str | None:
        """What is wrong with one layout, None if it gives the model's own log-probs."""
        if layout != "alone" and own.varies is not None:
            return own.varies
        hf, where, dtype = self.hf, "", ""
        current = str(hf.config._attn_implementation)
        try:
            with without_dropout(hf), torch.no_grad(), torch.autocast(hf.device.type, enabled=False):
                with in_float32(hf):
                    off = difference(read(own.batch, layout), own.logprobs)
                    if own.windowed is not None and off <= own.tolerance:
                        with small_windows(hf):
                            got = read(own.batch, layout)
                        off, where = difference(got, own.windowed), " beyond its attention window"
                if (self.autocast or hf.dtype) in HALF and off <= own.tolerance:
                    dtype = f" in {str(self.autocast or hf.dtype).removeprefix('torch.')}"
                    with autocast_to(self.autocast, hf.device):
                        finite = bool(read(long_probe(hf), layout).isfinite().all())
                    if not finite:
                        return f"gives log-probs {_ROWS[layout]} that are not finite{dtype}"
        except torch.OutOfMemoryError:
            raise
        except NotImplementedError as error:
            return f"cannot run {_RUN[layout]}{dtype}, {first_line(error)}"
        except FOREIGN as error:
            return f"cannot run {_RUN[layout]}{dtype}, its code fails on them ({first_line(error)})"
        finally:
            hf.set_attn_implementation(current)
        if off <= own.tolerance:
            return None
        nats = f"{off:.2g} nats off, {own.tolerance:.1g} would be rounding"
        return f"gives other log-probs {_ROWS[layout]}{where} ({nats})"
