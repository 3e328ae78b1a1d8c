from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.data.packing import Group, collate, completion, pack, with_completions


def group(index: int, prompt: list[int], *completions: list[int]) -> Group:
    return Group(np.array(prompt, dtype=np.int32), tuple(completion(c) for c in completions), index)


def test_collate_by_hand() -> None:
    """Two groups: a prompt of 2 with completions of 2 and 1, and a prompt of 1 with a completion of 3.

    row       0   1 | 2   3 | 4 || 5 | 6   7   8
    token    10  11 |20  21 |30 ||40 |50  51  52
    position  0   1 | 2   3 | 2 || 0 | 1   2   3
    """
    first = Group(
        np.array([10, 11], dtype=np.int32),
        (
            completion([20, 21], [True, False], old=np.array([0.5, 0.25])),
            completion([30], old=np.array([2.0])),
        ),
        7,
        {"margin": 1.5, "ranks": [1.0, 2.0]},
    )
    second = Group(
        np.array([40], dtype=np.int32),
        (completion([50, 51, 52], old=np.array([1.0, 2.0, 3.0])),),
        3,
        {"margin": -1.0, "ranks": [1.0]},
    )
    batch = collate([first, second])

    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 30, 40, 50, 51, 52]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 3]]
    assert batch.segments.group.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert batch.segments.branch.tolist() == [0, 0, 1, 1, 2, 0, 1, 1, 1]
    assert [(s.start, s.prompt_length, s.lengths, s.stop) for s in batch.segments.spans] == [
        (0, 2, (2, 1), 5),
        (5, 1, (3,), 9),
    ]
    # the first token of either completion of the first group is predicted by the prompt's last, place 1
    assert batch.predict_index.tolist() == [[1, 0, 0], [1, 0, 0], [5, 6, 7]]
    assert batch.target_ids.tolist() == [[20, 21, 0], [30, 0, 0], [50, 51, 52]]
    assert batch.mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    assert batch.last_index.tolist() == [3, 4, 8]
    assert batch.lengths.tolist() == [2, 1, 3]
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.indices == (7, 3)
    assert batch.num_tokens == 9
    assert batch.extras["margin"].tolist() == [1.5, -1.0]
    assert batch.extras["ranks"].tolist() == [1.0, 2.0, 1.0]
    assert batch.extras["old"].tolist() == [[0.5, 0.25, 0.0], [2.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    assert batch.extras["prompt_tokens"].tolist() == [1.0, 0.0]
    assert batch.extras["margin"].dtype == torch.float32


def test_without_a_prompt_nothing_predicts_the_first_token() -> None:
    batch = collate([group(0, [], [5, 6], [7])])
    assert batch.input_ids.tolist() == [[5, 6, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 0]]
    assert batch.mask.tolist() == [[False, True], [False, False]]
    assert batch.predict_index.tolist() == [[0, 0], [0, 0]]
    assert batch.last_index.tolist() == [1, 2]


def test_a_vector_for_each_completion_and_truth_values_keep_their_form() -> None:
    made = Group(
        np.array([1], dtype=np.int32),
        (completion([2]), completion([3])),
        values={"ratings": [[4.0, np.nan], [1.0, 2.0]], "desirable": np.array([True, False])},
    )
    extras = collate([made]).extras
    assert extras["ratings"].shape == (2, 2)
    assert extras["ratings"][0].isnan().tolist() == [False, True]
    assert extras["desirable"].tolist() == [True, False]
    assert extras["desirable"].dtype == torch.bool


@pytest.mark.parametrize("bad", [[], [group(4, [1])], [group(4, [1], [2], [])]])
def test_nothing_to_learn_from_is_an_error(bad: list[Group]) -> None:
    with pytest.raises(ValueError, match=r"at least one group|row 4"):
        collate(bad)


def test_a_mask_has_the_length_of_the_tokens() -> None:
    with pytest.raises(ValueError, match="mask has 2 entries for 3 tokens"):
        completion([1, 2, 3], [True, False])


def test_pack_by_hand() -> None:
    """Sizes 3, 8, 5, 2, 12 with a budget of 10: first-fit decreasing makes {12}, {8, 2}, {5, 3}."""
    sizes = [3, 8, 5, 2, 12]
    groups = [group(i, [1] * (size - 1), [2]) for i, size in enumerate(sizes)]
    packed = [[g.index for g in chunk] for chunk in pack(groups, 10)]
    # chunks in the order of their first group, groups in the order given
    assert packed == [[0, 2], [1, 3], [4]]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([6, 5, 4, 3], [[0, 3], [1, 2]]),  # first-fit: 10 and 8; evenly: 9 and 9
        ([5, 5, 3, 3, 4], [[0, 1], [2, 3, 4]]),  # evenly 5 + 4, 5 + 3 + 3 = 11: does not fit
    ],
)
def test_micro_batches_are_filled_evenly_where_that_fits(sizes: list[int], expected: list[list[int]]) -> None:
    groups = [group(i, [1] * (size - 1), [2]) for i, size in enumerate(sizes)]
    assert [[g.index for g in chunk] for chunk in pack(groups, 10)] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), max_size=30), st.integers(4, 60))
def test_nothing_is_lost_and_the_budget_is_kept(sizes: list[int], budget: int) -> None:
    groups = [group(i, [1] * (size - 1), [2]) for i, size in enumerate(sizes)]
    packed = pack(groups, budget)
    assert sorted(g.index for chunk in packed for g in chunk) == list(range(len(sizes)))
    for chunk in packed:
        tokens = sum(g.num_tokens for g in chunk)
        assert tokens <= budget or len(chunk) == 1
        assert [g.index for g in chunk] == sorted(g.index for g in chunk)
    # first-fit: no two micro-batches that could have been one
    totals = [sum(g.num_tokens for g in chunk) for chunk in packed]
    assert all(a + b > budget for i, a in enumerate(totals) for b in totals[:i])
    again = pack(groups, budget)
    assert [[g.index for g in c] for c in packed] == [[g.index for g in c] for c in again]


def test_padding_on_skewed_lengths_is_small() -> None:
    """Share of the budget that stays empty: the packed row itself has no padding at all."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(5, 0.6, 400), 8, 1000).astype(int)
    groups = [group(i, [1] * (int(size) - 1), [2]) for i, size in enumerate(sizes)]
    packed = pack(groups, 2048)
    assert sum(sizes) / (2048 * len(packed)) >= 0.95
    assert sum(collate(chunk).num_tokens for chunk in packed) == sum(sizes)


def test_a_batch_moves_with_all_its_tensors() -> None:
    batch = collate([group(0, [1, 2], [5, 6], [7]), group(1, [3], [8])])
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert moved.segments.group.device.type == "meta"
    tensors = {name: getattr(moved, name) for name in batch.__dataclass_fields__}
    assert {value.device.type for value in tensors.values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert {value.device.type for value in moved.extras.values()} == {"meta"}
    assert (moved.indices, moved.num_tokens) == (batch.indices, batch.num_tokens)


def test_what_rows_with_the_same_question_share() -> None:
    """Their prompt, or a key where that was cut; a row without a prompt is known by its text."""
    made = group(3, [1, 2], [3])
    assert made.question == np.array([1, 2], dtype=np.int32).tobytes()
    assert Group(made.prompt_ids, made.completions, key=b"k").question == b"k"
    assert group(0, [], [3], [4]).question == np.array([3, 4], dtype=np.int32).tobytes()
    assert made.num_tokens == 3


def test_values_become_tensors_of_32_bits() -> None:
    made = Group(
        np.array([1, 2, 3], dtype=np.int32),
        (completion([2, 5], old=np.array([0.5, 1.5])), completion([3], old=np.array([2.5]))),
        values={"margin": 2.0, "ranks": np.array([1, 2]), "pair": np.array([[1.0, 2.0], [3.0, 4.0]])},
    )
    batch = collate([made])
    assert {name: (tuple(v.shape), v.dtype) for name, v in batch.extras.items()} == {
        "prompt_tokens": ((1,), torch.float32),
        "margin": ((1,), torch.float32),
        "ranks": ((2,), torch.float32),
        "pair": ((2, 2), torch.float32),
        "old": ((2, 2), torch.float32),
    }
    assert batch.extras["prompt_tokens"].tolist() == [2.0]
    assert collate([group(0, [], [5, 6])]).extras["prompt_tokens"].tolist() == [0.0]
    for name in (
        "input_ids",
        "position_ids",
        "predict_index",
        "target_ids",
        "last_index",
        "lengths",
        "group",
    ):
        assert getattr(batch, name).dtype == torch.int64
    assert {t.dtype for t in (batch.segments.group, batch.segments.branch, batch.segments.position)} == {
        torch.int32
    }
    moved = batch.segments.to(torch.device("meta"))
    assert moved.spans == batch.segments.spans
    assert {t.device.type for t in (moved.group, moved.branch, moved.position)} == {"meta"}


def test_some_completions_of_a_group_with_their_values() -> None:
    made = Group(
        np.array([1], dtype=np.int32),
        (completion([2]), completion([3]), completion([4])),
        7,
        {"margin": 2.0, "ranks": [1.0, 2.0, 3.0], "desirable": np.array([True, False, True])},
        b"k",
    )
    kept = with_completions(made, np.array([True, False, True]))
    assert [item.ids.tolist() for item in kept.completions] == [[2], [4]]
    assert (kept.index, kept.key, kept.values["margin"]) == (7, b"k", 2.0)
    assert np.asarray(kept.values["ranks"]).tolist() == [1.0, 3.0]
    assert np.asarray(kept.values["desirable"]).tolist() == [True, True]


def test_a_completion_counts_unless_a_mask_says_otherwise() -> None:
    plain = completion([1, 2])
    assert (plain.ids.dtype, plain.mask.dtype, plain.mask.tolist()) == (np.int32, np.bool_, [True, True])
    masked = completion([1, 2], [1, 0], old=np.array([0.5, 1.0]))  # pyright: ignore[reportArgumentType]
    assert (masked.mask.dtype, masked.mask.tolist(), list(masked.values)) == (
        np.bool_,
        [True, False],
        ["old"],
    )


def test_uncounted_tokens_are_predicted_by_nothing() -> None:
    """A completion of which the middle counts, behind a group of its own."""
    second = Group(np.array([4, 5], dtype=np.int32), (completion([6, 7, 8], [False, True, False]),))
    batch = collate([group(0, [1], [2]), second])
    assert batch.predict_index.tolist() == [[0, 0, 0], [0, 4, 0]]
    assert batch.target_ids.tolist() == [[2, 0, 0], [6, 7, 8]]
    assert batch.mask.tolist() == [[True, False, False], [False, True, False]]
    assert second.completions[0].mask.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        ([5, 5], 10, [[0, 1]]),
        ([6, 5], 10, [[0], [1]]),
        ([12, 3], 10, [[0], [1]]),
        ([3, 12], 10, [[0], [1]]),
        ([2, 2, 2, 2, 2], 4, [[0, 1], [2, 3], [4]]),
        ([], 10, []),
    ],
)
def test_micro_batches_in_the_order_of_their_first_group(
    sizes: list[int], budget: int, expected: list[list[int]]
) -> None:
    groups = [group(i, [1] * (size - 1), [2]) for i, size in enumerate(sizes)]
    found = [[g.index for g in chunk] for chunk in pack(groups, budget)]
    assert sorted(map(len, found)) == sorted(map(len, expected))
    assert [chunk[0] for chunk in found] == sorted(chunk[0] for chunk in found)
    if sizes != [2] * 5:
        assert found == expected
