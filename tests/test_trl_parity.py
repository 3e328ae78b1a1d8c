"""Losses and first steps of TRL's trainers on a tiny model; skipped where the extra `bench` is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL comes with the extra 'bench'")

from alignloop.model.tiny import tiny_model
from bench.trl_losses import CASES as LOSSES
from bench.trl_parity import CASES, LOSS_TOLERANCE, STEP_TOLERANCE, own_loss, table, trl_loss


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model, tokenizer = tiny_model()
    folder: Path = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_trl(name: str) -> None:
    theirs, own = LOSSES[name]()
    assert own == pytest.approx(theirs, abs=LOSS_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_first_step_is_that_of_trls_trainer(name: str, tiny_folder: str) -> None:
    theirs, own = (side(CASES[name], tiny_folder, 0.1) for side in (trl_loss, own_loss))
    assert own == pytest.approx(theirs, abs=STEP_TOLERANCE)
    start = {"dpo": 0.6931, "dpo lora": 0.6931, "kto": 0.5, "dpo loss=hinge": 1.0}.get(name)
    if start is not None:  # the policy is away from its reference, so the comparison says something
        assert abs(own - start) > 1e-3


def test_table_shows_what_differs() -> None:
    row = {"kind": "loss", "objective": "dpo", "trl": 0.5, "alignloop": 0.625, "difference": 0.125}
    assert table([row]).splitlines()[-1] == "| loss | dpo | 0.5000000 | 0.6250000 | 1.2e-01 |"
