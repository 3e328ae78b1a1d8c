import math

import pytest

from alignloop.data.diversity import diversity, lengths, verb_object
from alignloop.records import Demonstration, Document, Message


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a poem about the sea.", ("write", "poem")),
        ("Could you please write me a poem?", ("write", "poem")),
        ("EXPLAIN the water cycle", ("explain", "water")),
        ("What is the capital of France?", ("what", "capital")),
        ("Stop!", ("stop", "")),
        ("Please", ("", "")),
        ("1 + 1 = ?", ("", "")),
        ("비 오는 날에 대한 시를 써 주세요.", ("써", "시")),
        ("다음 글을 요약하세요.\n글: 봄이 왔다.", ("요약", "글")),
        ("요약해 주세요", ("요약", "")),
        ("이 문장을 영어로 번역해줘", ("번역", "문장")),
        ("고양이 이야기입니다. 제목을 지어 주십시오.", ("지어", "제목")),
        ("파이썬으로 정렬 함수를 작성해 주시겠어요?", ("작성", "함수")),
    ],
)
def test_verb_and_object(instruction, expected):
    assert verb_object(instruction) == expected


def test_counts():
    asked = ["Write a poem", "write the poem", "Write a story", "Name a bird"]
    rows = [Demonstration((Message("system", "s"), Message("user", q)), "ab") for q in asked]
    found = diversity([*rows, Document("abc")], top=2)
    assert (found.instructions, found.verbs, found.verb_objects) == (4, 2, 3)
    # entropy of (3/4, 1/4)
    assert math.isclose(found.effective_verbs, math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    assert found.top == (("write", "poem", 2), ("write", "story", 1))
    assert found.prompts is not None
    assert found.completions is not None
    assert (found.prompts.count, found.completions.count) == (4, 5)
    assert found.completions.histogram == {2: 4, 4: 1}


def test_lengths():
    found = lengths([1, 2, 3, 4, 5, 9, 16, 17])
    assert found is not None
    assert found.histogram == {1: 1, 2: 1, 4: 2, 8: 1, 16: 2, 32: 1}
    assert (found.least, found.median, found.mean, found.most) == (1, 4.5, 57 / 8, 17)
    assert lengths([]) is None


def test_no_instructions():
    found = diversity([Document("x")])
    assert (found.instructions, found.effective_verbs, found.prompts) == (0, 0.0, None)
