"""Which groups a step sees, and by what a data set is known."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.training.stream import GroupStream, rows_digest


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


def test_a_stream_begins_with_the_documented_settings():
    stream = GroupStream(groups(5), 2)
    assert (stream.num_epochs, stream.max_steps, stream.seed, stream.shuffle) == (1.0, -1, 0, True)
    assert stream.num_steps == stream.steps_per_epoch == 3


@pytest.mark.parametrize(
    ("num", "epochs", "max_steps", "steps"),
    [(5, 0.5, -1, 2), (5, 1.5, 0, 4), (5, 0.01, -1, 1), (0, 1.0, -1, 1), (5, 9.0, 1, 1), (4, 1.0, -1, 2)],
)
def test_number_of_steps(num, epochs, max_steps, steps):
    """Halves are rounded to even: 0.5 · 3 = 1.5 and 1.5 · 3 = 4.5. There is always one."""
    assert GroupStream(groups(num), 2, num_epochs=epochs, max_steps=max_steps).num_steps == steps


def test_the_order_is_numpys_of_seed_and_epoch():
    """Written down, so that a run that is taken up by a later version goes on with the same rows."""
    stream = GroupStream(groups(6), 4, num_epochs=2, seed=7)
    for epoch in (0, 1):
        order = np.random.default_rng([7, epoch]).permutation(6).tolist()
        visited = [g.index for step in (2 * epoch, 2 * epoch + 1) for g in stream.step_groups(step)]
        assert visited == order
    assert [stream.epoch(step) for step in range(4)] == [0, 0.5, 1, 1.5]


def test_the_digest_of_rows_by_hand():
    """A line per group with its values in the order of their names; then length and tokens of each part."""
    item = replace(completion([7, 8], mask=[False, True]), values={"logprobs": np.zeros(2, np.float32)})
    group = Group(np.asarray([5], np.int32), (item,), 3, {"margin": 1.0, "a": np.asarray([1, 2])})
    text = repr((3, 1, [("a", [1, 2]), ("margin", 1.0)])).encode()
    for part in ([5], [7, 8], [0, 1]):
        text += np.int64(len(part)).tobytes() + np.asarray(part, np.int64).tobytes()
    assert rows_digest([group]) == hashlib.blake2b(text, digest_size=16).hexdigest()
    assert rows_digest([group, group]) == hashlib.blake2b(2 * text, digest_size=16).hexdigest()
