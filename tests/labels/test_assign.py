"""Orders that follow from seed, annotator and item."""

from __future__ import annotations

from collections import Counter

import numpy as np

from alignloop.labels.assign import Queue, display_order, mix, shared_items
from alignloop.labels.project import Settings


def test_mix_is_splitmix64():
    # First outputs of SplitMix64 seeded with 0 (Vigna's reference implementation): state k·golden.
    reference = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    golden = 0x9E3779B97F4A7C15
    states = np.array([(k * golden) % 2**64 for k in range(3)], dtype=np.uint64)
    assert [int(x) for x in mix(states)] == reference


def test_orders_are_stable_and_depend_on_everything():
    first = display_order(5, seed=1, annotator_id=2, item_id=3)
    assert first == display_order(5, seed=1, annotator_id=2, item_id=3)
    others = [
        display_order(5, seed=1 + a, annotator_id=2 + b, item_id=3 + c)
        for a in range(3)
        for b in range(3)
        for c in range(3)
    ]
    assert len({tuple(order) for order in others}) > 15
    assert display_order(5, seed=1, annotator_id=2, item_id=3, round=1) == first[::-1]
    assert display_order(0, seed=1, annotator_id=2, item_id=3) == []


def test_each_order_of_a_pair_comes_half_of_the_time():
    shown = Counter(tuple(display_order(2, seed=0, annotator_id=1, item_id=i)) for i in range(4000))
    # Mean 2000, standard deviation 32.
    assert abs(shown[0, 1] - 2000) < 130
    ranked = Counter(tuple(display_order(3, seed=0, annotator_id=1, item_id=i)) for i in range(6000))
    assert len(ranked) == 6
    assert all(abs(count - 1000) < 120 for count in ranked.values())


def test_an_order_of_items_does_not_change_when_items_are_added(lite, make_project):
    project = make_project(lite, count=50)

    def order() -> list[int]:
        with lite.reading() as connection:
            queue = Queue.load(connection, lite.project())
            return [int(queue.ids[k]) for k in queue.state(connection, 7).order]

    before = order()
    from alignloop.labels.project import ItemAnswer, NewItem
    from alignloop.records import Message

    lite.add_items(
        project,
        [NewItem((Message("user", f"more {n}"),), (ItemAnswer("a"), ItemAnswer("b"))) for n in range(50)],
    )
    after = order()
    assert [i for i in after if i in set(before)] == before
    assert after != sorted(after)


def test_reservations_keep_the_count(lite, make_project):
    make_project(lite, count=10, overlap=3, overlap_share=0.5)
    with lite.reading() as connection:
        queue = Queue.load(connection, lite.project())
        total = int(queue.wanted.sum())
        assert queue.remaining == total
        drawn = [queue.draw(connection, annotator) for annotator in (1, 2, 3) for _ in range(10)]
        given = [d for d in drawn if d is not None]
        assert len(given) == total
        assert queue.remaining == 0
        assert Counter(item for item, _ in given) == dict(
            zip(queue.ids.tolist(), queue.wanted.tolist(), strict=True)
        )
        queue.take(given[0][0], -1)
        assert queue.remaining == 1
        assert queue.draw(connection, 4) == (given[0][0], "item")


def test_a_least_number_of_items_is_shared_whatever_the_lots_say():
    lots = np.array([0.9, 0.05, 0.5, 0.7, 0.3])
    several, turns = shared_items(lots, Settings(overlap_share=0.1, overlap_least=3))
    assert several.tolist() == [False, True, True, False, True]
    assert turns.tolist() == [5, 0, 2, 5, 1]
    several, turns = shared_items(lots, Settings(overlap_share=0.6, overlap_least=1))
    assert several.tolist() == [False, True, True, False, True]
    assert turns.tolist() == [5, 0, 5, 5, 5]
    assert shared_items(lots, Settings(overlap_least=99))[0].all()
    for none in (Settings(overlap_share=0.0), Settings(overlap=1)):
        several, turns = shared_items(lots, none)
        assert not several.any()
        assert turns.tolist() == [5] * 5


def test_shared_items_come_first_for_everybody(lite, make_project):
    """Two people who stop after 7 of 400 items have judged the same ones, so their agreement is known."""
    make_project(lite, count=400, overlap=2, overlap_share=0.02, overlap_least=20)
    with lite.reading() as connection:
        queue = Queue.load(connection, lite.project())
        num_shared = int((queue.wanted > 1).sum())
        first, second, third = (
            {queue.draw(connection, who)[0] for _ in range(count)} for who, count in ((1, 7), (2, 7), (3, 30))
        )
        assert first == second
        assert first <= set(queue.ids[queue.turns < 400].tolist())
        assert not first & third
    assert num_shared >= 20


def test_a_project_of_before_keeps_what_it_asked_for():
    stored = Settings().to_json()
    del stored["overlap_least"]
    assert Settings.from_json(stored).overlap_least == 0
    assert Settings.from_json(Settings(overlap_least=7).to_json()).overlap_least == 7
