"""Functions of the user: where they are found, what names them, and what is said when they fail."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from alignloop.errors import UserError
from alignloop.user_functions import give, load_function, name_of, place_of, source_file, source_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_module_and_a_file_of_the_current_folder(here: Path) -> None:
    write(here / "scores_here.py", "def score(samples):\n    return [1.0]\n")
    write(here / "sub" / "neighbour_here.py", "VALUE = 2.0\n")
    write(
        here / "sub" / "r.py", "from neighbour_here import VALUE\ndef score(samples):\n    return [VALUE]\n"
    )
    assert load_function("scores_here:score")([]) == [1.0]
    assert load_function("sub/r.py:score")([]) == [2.0]
    assert source_file("scores_here:score") == "scores_here.py"
    assert source_file("sub/r.py:score") == "sub/r.py"
    assert source_file("json:dumps") == ""


def test_a_changed_file_is_imported_again(here: Path) -> None:
    for name in ("changing_here:score", "changing_here.py:score"):
        write(here / "changing_here.py", "def score(samples):\n    return [1.0]\n")
        assert load_function(name)([]) == [1.0]
        write(here / "changing_here.py", "def score(samples):\n    return [20.0]\n")
        assert load_function(name)([]) == [20.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "faulty.py has no 'score'"),
        ("score = 1\n", "'faulty.py:score' is not a function"),
        ("\nimport no_such_thing\n", r"No module named 'no_such_thing' \(faulty.py:2 in <module>\)"),
        ("def score(:\n", r"SyntaxError: .*\(faulty.py:1\)"),
        ("\n\nscore = 1 / 0\n", r"ZeroDivisionError: division by zero \(faulty.py:3 in <module>\)"),
        (None, "No such file"),
    ],
)
def test_faults_of_a_file(here: Path, text: str | None, message: str) -> None:
    if text is not None:
        write(here / "faulty.py", text)
    with pytest.raises(UserError, match=message) as caught:
        load_function("faulty.py:score", "reward function")
    assert str(caught.value).startswith("reward function 'faulty.py:score'")


def test_an_objects_name_follows_its_source_and_what_it_refers_to() -> None:
    def made(bonus: float):
        return lambda samples: [bonus for _ in samples]

    first, again, other = give(made(1.0)), give(made(1.0)), give(made(2.0))
    assert first == again != other
    assert load_function(first)([0]) == [1.0]
    assert load_function(other)([0]) == [2.0]
    assert "bonus" in source_of(first)
    assert [name_of(name) for name in (first, "a.b:score", "f.py:score")] == ["lambda", "score", "score"]
    assert give(partial(pow, 2)) != give(partial(pow, 3))


def test_an_object_of_another_process() -> None:
    with pytest.raises(UserError, match=r"given to another|given as a Python object to another process"):
        load_function("given:score_0123abcd")


def test_the_place_of_an_error_is_the_users_line() -> None:
    def score() -> None:
        [int(text) for text in ("1", "x")]

    try:
        score()
    except ValueError as error:
        place = place_of(error)
    assert place.startswith("tests/test_user_functions.py:")
