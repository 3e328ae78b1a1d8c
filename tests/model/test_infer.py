"""Passes over packed groups: results in the groups' order, no gradient, and a bar where it takes long."""

from __future__ import annotations

import numpy as np
import torch

from alignloop import progress
from alignloop.data.packing import Group, completion
from alignloop.model.infer import run_groups
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model


def groups_of(lengths):
    """A group for each length, its completion's ids all that length, so that results tell them apart."""
    return [Group(np.array([5], np.int32), (completion(np.full(n, n, np.int32)),), index=7) for n in lengths]


def lengths_of(out, batch, chunk):
    assert not out.logprobs.requires_grad
    return [len(group.completions[0].ids) for group in chunk]


def test_results_are_in_the_order_of_the_groups_whatever_the_packing():
    model = PackedModel(tiny_model()[0]).train()
    lengths = [9, 2, 30, 4, 17, 3]
    assert run_groups(model, groups_of(lengths), 33, model, lengths_of) == lengths
    assert not model.training
    assert run_groups(model, [], 33, model, lengths_of) == []


def test_long_passes_are_counted(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 3))  # three seconds between two looks
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    model = PackedModel(tiny_model()[0])
    run_groups(model, groups_of([4] * 6), 10, model, lengths_of, title="reference log-probs")
    said = [line.split("  ")[:2] for line in capsys.readouterr().err.splitlines()]
    assert said[0][0] == "reference log-probs"
    assert said[-1] == ["reference log-probs", "row 6/6"]
    assert len(said) >= 3


def test_short_ones_are_silent(capsys):
    model = PackedModel(tiny_model()[0])
    with torch.enable_grad():
        run_groups(model, groups_of([4]), 10, model, lengths_of, title="rewards")
    assert capsys.readouterr().err == ""
