from dataclasses import dataclass

from alignloop.runs.value_cache import ValueCache


@dataclass(frozen=True)
class Key:
    text: str


def test_values_survive_and_depend_on_key_and_scope(tmp_path):
    file = tmp_path / "deep" / "values.jsonl"
    cache = ValueCache(file, scope=["model", 1])
    assert cache.get("a") is None
    cache.put("a", "답")
    cache.put(Key("x"), [1.5, 2])
    again = ValueCache(file, scope=["model", 1])
    assert (again.get("a"), again.get(Key("x")), len(again)) == ("답", [1.5, 2], 2)
    assert ValueCache(file, scope=["model", 2]).get("a") is None


def test_a_torn_line_costs_one_value_only(tmp_path):
    file = tmp_path / "values.jsonl"
    cache = ValueCache(file)
    cache.put("a", 1)
    cache.put("b", 2)
    file.write_bytes(file.read_bytes()[:-9])
    torn = ValueCache(file)
    assert (torn.get("a"), torn.get("b")) == (1, None)
    torn.put("b", 2)
    assert (ValueCache(file).get("a"), ValueCache(file).get("b")) == (1, 2)


def test_the_same_value_is_written_once_and_a_later_one_counts(tmp_path):
    cache = ValueCache(tmp_path / "values.jsonl")
    for value in (1, 1, 2):
        cache.put("a", value)
    assert len((tmp_path / "values.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert ValueCache(tmp_path / "values.jsonl").get("a") == 2
