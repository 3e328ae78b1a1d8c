from alignloop.records import Label, Message, Preference, Provenance
from alignloop.stages.labels import judgement_ids, label_table, ranges

ASKED = (Message("user", "q"),)


def pair(origin, probability=1.0, **details):
    return Preference(ASKED, "a", "b", probability, provenance=Provenance("f", 1, origin, details))


def test_ranges() -> None:
    assert ranges([1, 2, 3, 5, 7, 8]) == "1–3, 5, 7–8"
    assert ranges([]) == ""


def test_labels_are_counted_by_source_and_person() -> None:
    rows = [
        pair("human", annotator="민지", judgement=4),
        pair("human", 0.5, annotator="민지", judgement=5),
        pair("human", annotator="a, b", judgements="7, 9"),
        pair("ai", 0.8, judge="m"),
    ]
    assert judgement_ids(rows) == [4, 5, 7, 9]
    table = label_table(rows)["labels"]
    assert [(r["source"], r["by"], r["rows"], r["ties"], r["judgements"]) for r in table] == [
        ("ai", "m", 1, 0, ""),
        ("human", "a, b", 1, 0, "7, 9"),
        ("human", "민지", 2, 1, "4–5"),
    ]
    assert table[2]["mean_probability"] == 0.75


def test_rows_that_nobody_labelled_have_no_table() -> None:
    assert label_table([pair("unknown")]) == {}
    assert (
        label_table([Label(ASKED, "a", True, Provenance(origin="human"))])["labels"][0]["mean_probability"]
        is None
    )
