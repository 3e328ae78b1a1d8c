from alignloop.report.samples import MAX_TEXT, choose_samples, visible


def row(step: int, prompt: str, completion: str, **more: object) -> dict[str, object]:
    return {"step": step, "prompt": [{"role": "user", "content": prompt}], "completion": completion, **more}


def test_completion_before_is_compared_word_by_word() -> None:
    rows = [
        row(5, "p", "a good day", completion_before="a bad day", reward=0.5, gold=1, gold_before=0, model="m")
    ]
    sample = choose_samples(rows, at_most=9, characters=999).shown[0]
    assert [(p.kind, p.text) for p in sample.before] == [("same", "a "), ("removed", "bad"), ("same", " day")]
    assert [(p.kind, p.text) for p in sample.after] == [("same", "a "), ("added", "good"), ("same", " day")]
    assert (sample.before_label, sample.scores, sample.model) == (
        "before",
        (("reward", "0.5"), ("gold", "0 → 1")),
        "m",
    )
    assert not sample.rewritten


def test_without_it_the_same_prompt_at_the_first_step_is_taken() -> None:
    rows = [row(0, "p", "a bad day"), row(9, "p", "a good day"), row(9, "q", "alone")]
    shown = choose_samples(rows, at_most=9, characters=999).shown
    assert [(s.step, s.before_label) for s in shown] == [(9, "step 0"), (9, ""), (0, "")]


def test_prompts_sampled_several_times_a_step_are_not_paired_at_random() -> None:
    rows = [row(0, "p", "one"), row(0, "p", "two"), row(9, "p", "three")]
    assert all(s.before == () for s in choose_samples(rows, at_most=9, characters=999).shown)


def test_unrelated_answers_are_shown_without_marks() -> None:
    sample = choose_samples(
        [row(1, "p", "alpha beta", completion_before="one two")], at_most=1, characters=99
    )
    assert sample.shown[0].rewritten
    assert [p.kind for p in (*sample.shown[0].before, *sample.shown[0].after)] == ["same", "same"]


def test_sizes_are_bounded_and_said() -> None:
    rows = [row(i, f"prompt {i}", "x" * 90) for i in range(50)]
    few = choose_samples(rows, at_most=7, characters=10**6)
    assert (len(few.shown), few.total) == (7, 50)
    assert [s.step for s in few.shown] == [49, 48, 47, 46, 45, 44, 43]  # the latest
    small = choose_samples(rows, at_most=50, characters=1000)
    assert 1 < len(small.shown) < 11
    one = choose_samples([row(1, "p", "y" * (MAX_TEXT + 1234))], at_most=5, characters=10)
    assert one.shown[0].after[0].text.endswith("… [1,234 more characters]")


def test_odd_rows_are_survived() -> None:
    rows = [
        {"prompt": "plain text", "completion": "c"},
        {"prompt": None, "completion": None, "step": "?", "reward": True},
        {"prompt": [{"role": "user"}, "?", 3], "completion": ["list"]},
        {"no": "completion"},
    ]
    chosen = choose_samples(rows, at_most=9, characters=999)
    assert chosen.total == 3
    assert chosen.shown[0].prompt[0].content == "plain text"


def test_nothing_hides_or_reorders_itself() -> None:
    assert visible("a\x00b\x1b[31m\n\tc") == "a␀b␛[31m\n\tc"
    assert visible("safe\u202etxt.exe\ufeff") == "safe[U+202E]txt.exe[U+FEFF]"
    family = "👨\u200d👩\u200d👧 가나다"
    assert visible(family) == family


def test_tool_calls_and_thoughts_of_a_prompt_are_shown() -> None:
    call = {"type": "function", "function": {"name": "tide", "arguments": {"at": "Busan"}}}
    prompt = [
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call, "no call"]},
        {"role": "tool", "content": "1.2 m"},
    ]
    sample = choose_samples([row(0, "", "High.") | {"prompt": prompt}], at_most=9, characters=999).shown[0]
    assert [(turn.role, turn.content) for turn in sample.prompt] == [
        ("user", "Tide?"),
        ("assistant", 'Hm.\n\n{"name": "tide", "arguments": {"at": "Busan"}}'),
        ("tool", "1.2 m"),
    ]


def scored(before, after, text):
    return {"prompt": text, "completion": f"{text} new", "completion_before": f"{text} old",
            "gold_before": before, "gold": after}  # fmt: skip


def test_the_first_examples_are_a_gain_a_loss_and_an_unchanged_one():
    rows = [scored(1, 1, "a"), scored(0, 0.5, "b"), scored(1, 0, "c"), scored(0, 1, "d"), scored(0, 1, "e")]
    found = choose_samples(rows, at_most=9, characters=10_000)
    assert [(s.prompt[0].content, s.telling) for s in found.shown] == [
        ("d", "largest gain by gold reward: 0 → 1"),
        ("c", "largest loss by gold reward: 1 → 0"),
        ("a", "unchanged by gold reward: 1 → 1"),
        ("b", ""),
        ("e", ""),
    ]
    assert found.rule.startswith("First the largest gain")


def test_no_example_is_called_what_it_is_not():
    found = choose_samples([scored(0, 1, "a"), scored(0, 0.5, "b")], at_most=9, characters=10_000)
    assert [s.telling for s in found.shown] == ["largest gain by gold reward: 0 → 1", ""]
    plain = [{"prompt": "p", "completion": "c", "reward": 1.0}]
    assert choose_samples(plain, at_most=9, characters=10_000).rule == ""


def test_a_verdict_is_a_score_of_both_sides():
    rows = [{"prompt": p, "completion": p, "completion_before": "x", "win_by_gold": w} for p, w in
            (("a", 0.5), ("b", 0.0), ("c", 1.0))]  # fmt: skip
    found = choose_samples(rows, at_most=9, characters=10_000)
    assert [s.telling for s in found.shown] == [
        "largest gain by gold",
        "largest loss by gold",
        "unchanged by gold",
    ]
