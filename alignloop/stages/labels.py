"""Who made the labels a model learns from: by source, and for people down to their judgements."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignloop.labels.votes import ranges
from alignloop.records import Preference, Record


def label_table(records: Sequence[Record]) -> dict[str, Any]:
    """{"labels": rows of a table} for the results of a training stage; {} where nobody labelled anything.

    A row for each origin and annotator or judge: rows used (a repeated one counts as often), ties, mean
    probability of the chosen answer, and the numbers of the judgements in the label store.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        details = record.provenance.details
        by = str(details.get("annotator", details.get("judge", details.get("scorer", ""))))
        groups[record.provenance.origin, by].append(record)
    if set(groups) <= {("unknown", "")}:
        return {}
    return {"labels": [_row(origin, by, found) for (origin, by), found in sorted(groups.items())]}


def _row(origin: str, by: str, records: Sequence[Record]) -> Mapping[str, Any]:
    chances = [record.probability for record in records if isinstance(record, Preference)]
    return {
        "source": origin,
        "by": by,
        "rows": len(records),
        "ties": sum(chance == 0.5 for chance in chances),
        "mean_probability": sum(chances) / len(chances) if chances else None,
        "judgements": ranges(judgement_ids(records)),
    }


def judgement_ids(records: Iterable[Record]) -> list[int]:
    """Numbers of the judgements in the label store that records were made from, rising."""
    found: set[int] = set()
    for record in records:
        details = record.provenance.details
        text = f"{details.get('judgement', '')} {details.get('judgements', '')}"
        found.update(int(number) for number in re.findall(r"\d+", text))
    return sorted(found)
