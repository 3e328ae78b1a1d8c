import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.data.overlength import fit
from alignloop.errors import DataError


def test_what_fits_is_untouched():
    fitted = fit([1, 2], [[3, 4], [5]], 4, "error")
    assert (fitted.prompt_ids, fitted.completions) == ([1, 2], ([3, 4], [5]))
    assert (fitted.prompt_truncated, fitted.truncated) == (False, (False, False))


def test_prompt_goes_first_and_from_the_left():
    fitted = fit([1, 2, 3, 4], [[5, 6], [7]], 4, "truncate")
    assert (fitted.prompt_ids, fitted.completions) == ([3, 4], ([5, 6], [7]))
    assert (fitted.prompt_truncated, fitted.truncated) == (True, (False, False))


def test_bos_stays():
    assert fit([9, 2, 3, 4], [[5, 6]], 4, "truncate", bos_token_id=9).prompt_ids == [9, 4]
    assert fit([1, 2, 3, 4], [[5, 6]], 4, "truncate", bos_token_id=9).prompt_ids == [3, 4]
    assert fit([9, 2, 3], [[5, 6]], 3, "truncate", bos_token_id=9).prompt_ids == [9]
    # templates whose turns begin with the BOS token: a cut at a turn must not make two of them
    assert fit([9, 2, 9, 4], [[5, 6]], 5, "truncate", bos_token_id=9).prompt_ids == [9, 4]


def test_completions_are_cut_only_below_the_least_prompt():
    fitted = fit([1, 2, 3], [[4, 5, 6, 7], [8]], 5, "truncate", min_prompt=2)
    assert (fitted.prompt_ids, fitted.completions) == ([2, 3], ([4, 5, 6], [8]))
    assert (fitted.prompt_truncated, fitted.truncated) == (True, (True, False))


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_too_long_is_a_fault(policy):
    with pytest.raises(DataError) as caught:
        fit([1, 2], [[3], [4, 5, 6]], 4, policy)
    assert str(caught.value) == "prompt and completion have 2 + 3 tokens, max_length is 4"
    assert caught.value.reason == "overlength"


def test_no_room_for_a_completion():
    with pytest.raises(
        DataError, match="max_length 2 leaves no room for a completion beside 2 prompt tokens"
    ):
        fit([1, 2, 3], [[4]], 2, "truncate", min_prompt=2)
    with pytest.raises(ValueError, match="overlength policy 'cut'"):
        fit([1], [[2]], 2, "cut")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="min_prompt is 0"):
        fit([1], [[2]], 2, "truncate", min_prompt=0)


tokens = st.lists(st.integers(0, 50), max_size=30)


@settings(deadline=None, max_examples=60)
@given(tokens, st.lists(tokens.filter(bool), min_size=1, max_size=4), st.integers(2, 40), st.integers(1, 8))
def test_properties_of_truncation(prompt, completions, max_length, min_prompt):
    if min(len(prompt), min_prompt) >= max_length:
        with pytest.raises(DataError):
            fit(prompt, completions, max_length, "truncate", min_prompt=min_prompt)
        return
    fitted = fit(prompt, completions, max_length, "truncate", min_prompt=min_prompt)
    kept = fitted.prompt_ids
    assert kept == prompt[len(prompt) - len(kept) :]
    assert len(kept) >= min(len(prompt), min_prompt)
    assert fitted.prompt_truncated == (kept != prompt)
    assert len(fitted.completions) == len(completions)
    for before, after, cut in zip(completions, fitted.completions, fitted.truncated, strict=True):
        assert after
        assert after == before[: len(after)]
        assert cut == (after != before)
        assert len(kept) + len(after) <= max_length
        assert not cut or len(kept) == min(len(prompt), min_prompt)  # the prompt gave all it could first
    if fitted.prompt_truncated and not any(fitted.truncated):
        longest = max(map(len, completions))
        assert len(kept) + longest == max_length or len(kept) == min_prompt  # nothing cut without need
