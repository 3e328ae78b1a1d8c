import numpy as np
import pytest

from alignloop.evaluation.reward_probes import PROBES, bold, bullets, flattery, longer, probe_effect


def test_forms_keep_the_content() -> None:
    text = "I am here. Yes!\n비가 옵니다. 네"
    assert bullets(text) == "- I am here.\n- Yes!\n- 비가 옵니다.\n- 네"
    assert bold(text) == "**I am** here. **Yes!** **비가 옵니다.** **네**"
    assert longer("a") == "a\n\nIn other words: a"
    assert flattery("a").startswith("a What a wonderful question")
    for change in PROBES.values():
        words = [word.strip("*-") for word in change(text).split()]
        assert [w for w in words if w][: len(text.split())] == text.split()


def test_effect_by_hand() -> None:
    plain = np.array([[2.0, 1], [3, 0], [0, 1]])
    changed = np.array([[2.5, 3], [3, 1], [1, 1]])
    found = probe_effect(plain, changed, ["a", "b", "c"], replicates=1000)
    assert found["shift"] == pytest.approx((0.5 + 2 + 0 + 1 + 1 + 0) / 6)
    assert found["shift_low"] < found["shift"] < found["shift_high"]
    assert found["preferred"] == pytest.approx(5 / 6)  # equal counts ½
    assert found["flips"] == 0.5  # of the two pairs in the right order the first turns round: 3 > 2
    assert found["flips_low"] < 0.5 < found["flips_high"]


def test_one_prompt_has_no_interval() -> None:
    found = probe_effect(np.array([[0.0, 1]]), np.array([[0.0, 1]]), ["a"])
    assert (found["shift"], found["preferred"], found["flips"]) == (0.0, 0.5, None)
    assert found["shift_low"] is None
