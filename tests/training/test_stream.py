import numpy as np

from alignloop.data.packing import Group, completion
from alignloop.training.stream import GroupStream


def groups(n):
    return [Group(np.zeros(1, np.int32), (completion([1]),), i) for i in range(n)]


def test_every_epoch_visits_every_group_once_in_a_new_order():
    stream = GroupStream(groups(10), 3, num_epochs=2, seed=4)
    assert stream.steps_per_epoch == 4
    assert stream.num_steps == 8
    visits = [[g.index for g in stream.step_groups(step)] for step in range(8)]
    first = [i for visit in visits[:4] for i in visit]
    second = [i for visit in visits[4:] for i in visit]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [len(v) for v in visits] == [3, 3, 3, 1, 3, 3, 3, 1]


def test_a_step_is_a_pure_function_of_seed_and_number():
    one, two = (GroupStream(groups(20), 4, seed=9) for _ in range(2))
    assert [g.index for g in one.step_groups(3)] == [g.index for g in two.step_groups(3)]
    other = GroupStream(groups(20), 4, seed=10)
    assert [g.index for g in one.step_groups(0)] != [g.index for g in other.step_groups(0)]


def test_max_steps_overrides_epochs_and_order_can_be_the_files():
    stream = GroupStream(groups(5), 2, num_epochs=1, max_steps=7, shuffle=False)
    assert stream.num_steps == 7
    assert [g.index for g in stream.step_groups(0)] == [0, 1]
    assert [g.index for g in stream.step_groups(3)] == [0, 1]
    assert stream.epoch(3) == 1.0
