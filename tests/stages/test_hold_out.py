"""Held-out rows: never all of them, never half a prompt."""

import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.errors import DataError
from alignloop.stages.held_out import hold_out


def groups(*prompts: int) -> list[Group]:
    return [Group(np.array([p], np.int32), (completion([5, i]),), i) for i, p in enumerate(prompts)]


def test_rows_of_one_prompt_leave_nothing_to_train_on() -> None:
    """50 rows of one prompt were all held out, and training "finished" with loss 0."""
    with pytest.raises(DataError, match=r"eval_fraction 0\.1: the 50 rows have one prompt"):
        hold_out(groups(*[7] * 50), 0.1, 0)
    assert hold_out(groups(7, 7), 0.0, 0)[1] == []


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_at_least_one_prompt_on_each_side(fraction: float) -> None:
    train, held = hold_out(groups(1, 1, 2, 2, 2), fraction, 3)
    assert {len(train), len(held)} == {2, 3}


def test_documents_are_held_out_one_by_one() -> None:
    """Documents have no prompt; they are not one prompt for that."""
    made = [Group(np.zeros(0, np.int32), (completion([5, i]),), i) for i in range(10)]
    train, held = hold_out(made, 0.2, 0)
    assert (len(train), len(held)) == (8, 2)
