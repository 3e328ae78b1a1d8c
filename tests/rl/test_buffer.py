import numpy as np
import torch

from alignloop.data.packing import Completion, Group, completion
from alignloop.rl.buffer import from_tensors, group_numbers, to_tensors, token_mask, token_values, with_values


def groups() -> list[Group]:
    ids = np.array([7, 8, 9], np.int32)
    masked = Completion(ids, np.array([True, False, True]), {"a": np.array([1, 2, 3], np.float32)})
    other = completion([4], a=np.array([5], np.float32))
    third = completion([1, 2], a=np.array([6, 7], np.float32))
    return [
        Group(np.array([1, 2], np.int32), (masked, other), 5),
        Group(np.array([3], np.int32), (third,), 0),
    ]


def test_tables_are_padded_at_the_end() -> None:
    assert token_mask(groups()).tolist() == [[True, False, True], [True, False, False], [True, True, False]]
    assert token_values(groups(), "a").tolist() == [[1, 2, 3], [5, 0, 0], [6, 7, 0]]
    assert group_numbers(groups()).tolist() == [0, 0, 1]


def test_values_come_back_where_they_belong() -> None:
    table = torch.arange(9.0).view(3, 3)
    found = with_values(groups(), b=table)
    assert [item.values["b"].tolist() for g in found for item in g.completions] == [[0, 1, 2], [3], [6, 7]]
    assert found[0].completions[0].values["a"].tolist() == [1, 2, 3]


def test_a_buffer_survives_as_tensors() -> None:
    before = groups()
    after = from_tensors(to_tensors(before))
    for old, new in zip(before, after, strict=True):
        assert (new.index, new.prompt_ids.tolist()) == (old.index, old.prompt_ids.tolist())
        assert new.prompt_ids.dtype == old.prompt_ids.dtype
        for a, b in zip(old.completions, new.completions, strict=True):
            assert (a.ids == b.ids).all()
            assert (a.mask == b.mask).all()
            assert a.values.keys() == b.values.keys()
            assert all((a.values[name] == b.values[name]).all() for name in a.values)
    assert from_tensors(to_tensors([])) == []
