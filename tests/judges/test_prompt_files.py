"""Rubric files: what they hold, and faults named at their lines."""

import re

import pytest

from alignloop.errors import ConfigError
from alignloop.judges.prompt_files import language_of
from alignloop.judges.rubric import SHIPPED, load_rubric

DEFAULT = (SHIPPED / "default.yaml").read_text(encoding="utf-8")


def test_the_default_rubric_speaks_two_languages():
    rubric = load_rubric("default")
    assert rubric.labels == ("A", "B", "C")
    assert rubric.grades == ("1", "2", "3", "4", "5")
    assert set(rubric.wordings) == {"en", "ko"}
    assert any("가" <= c <= "힣" for c in rubric.wordings["ko"].criteria)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("labels:", "lables:", 3, r"unknown key 'lables'; did you mean 'labels'\?"),
        ("    think:", "    thnk:", None, r"unknown key 'thnk'; did you mean 'think'\?"),
        ("{first}", "{frist}", None, r"unknown placeholder '\{frist\}'; did you mean 'first'\?"),
        ("{second}", "", None, r"the placeholder '\{second\}' is missing"),
        ("labels: [A, B, C]", "labels: [A, A]", 3, "two different texts"),
        ("grades: [1, 2, 3, 4, 5]", "grades: []", 4, "at least one item"),
        ("name: default", "name: default\nname: other", 3, "'name' is there twice"),
        ("  ko:", "  de:", None, "unknown key 'de'"),
        ("labels: [A, B, C]", "labels: [A, B, C", 4, "not YAML"),
    ],
)
def test_typos_are_named_at_their_line(tmp_path, old, new, line, message):
    assert old in DEFAULT
    file = tmp_path / "rubric.yaml"
    file.write_text(DEFAULT.replace(old, new, 1), encoding="utf-8")
    where = str(line) if line else r"\d+"
    with pytest.raises(ConfigError) as caught:
        load_rubric(str(file))
    assert re.search(rf"rubric\.yaml:{where}: .*{message}", str(caught.value)), str(caught.value)


def test_a_missing_or_unreadable_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_rubric(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rubric(str(tmp_path / "latin.yaml"))
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty"):
        load_rubric(str(tmp_path / "empty.yaml"))


def test_languages_are_told_apart():
    assert language_of("비는 왜 오나요?") == "ko"
    assert language_of("Python으로 정렬 함수를 짜 주세요") == "ko"
    assert language_of("Why does it rain?") == "en"
    assert language_of("12345") == "en"
    assert language_of("비는 왜 오나요?", ("en",)) == "en"
