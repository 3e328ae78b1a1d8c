"""Whether a run may go on from what another command began: which settings differ, and which of them may.

A run's origin is {"stage", "keys", "contents"}: its resolved keys, and for those that name files, models
or runs what these hold. Every checkpoint has the origin that it was trained with. Which keys may differ
is declared at the keys (`config.fields.free`, `longer`); all others decide what is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import RunError
from alignloop.foreign import has_shape
from alignloop.io import plain
from alignloop.runs.hashing import KEYS_WITHOUT_EFFECT, Input, Parent, with_contents


class Origin(TypedDict):
    """What a run is made from; `contents` are of the keys that name files, models and runs."""

    stage: str
    keys: dict[str, Any]
    contents: dict[str, Any]
    parents: list[str]


Rule = Literal["free", "longer"]
"""`free`: a run may go on with another value. `longer`: a new run may go on from a checkpoint with one."""


def origin(
    stage: str, config: Mapping[str, Any], inputs: Mapping[str, Input], parents: Iterable[Parent]
) -> dict[str, Any]:
    """The origin of a run with these settings, as JSON can hold it."""
    keys, parents = plain(dict(config)), list(parents)
    coded = plain(with_contents(keys, inputs.values(), parents))
    files: dict[str, dict[str, str]] = {}
    for name, item in inputs.items():  # `rewards[1].certificate` belongs to the key `rewards`
        files.setdefault(re.split(r"[.\[]", name, maxsplit=1)[0], {})[name] = item.sha256
    return {
        "stage": stage,
        "keys": keys,
        "contents": {
            key: [value, files.get(key, {})]
            for key, value in coded.items()
            if value != keys[key] or key in files
        },
        "parents": [parent.fingerprint for parent in parents],
    }


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    rules: Mapping[str, Rule],
    allowed: Sequence[Rule] = ("free",),
) -> list[str]:
    """Name the settings that differ and may not.

    Args:
        old: origin of what is there.
        new: origin of what is wanted.
        rules: of the keys that may differ.
        allowed: the rules that count here.

    Returns:
        `key: old -> new` for each.
    """
    if old["stage"] != new["stage"]:
        return [f"stage: {old['stage']} -> {new['stage']}"]
    free = {key for key, rule in rules.items() if rule in allowed} | set(KEYS_WITHOUT_EFFECT)
    found = []
    for key in {**old["keys"], **new["keys"]}:
        before, after = old["keys"].get(key), new["keys"].get(key)
        held, holds = old["contents"].get(key, before), new["contents"].get(key, after)
        if key in free or held == holds:
            continue
        same_name = before == after
        found.append(
            f"{key}: the content of {after} has changed" if same_name else f"{key}: {before!r} -> {after!r}"
        )
    if not found and old["parents"] != new["parents"] and not free & set(old["contents"]):
        found.append("a run whose results are read was made anew")
    return found


def refuse_other_origin(
    checkpoint: str, old: Mapping[str, Any], new: Mapping[str, Any], rules: Mapping[str, Rule]
) -> None:
    """Refuse to go on from a checkpoint that was trained with other settings or on other rows.

    Args:
        checkpoint: its folder, for the sentence.
        old: its state, with {"origin", "rows"}; without these an earlier version wrote it.
        new: {"origin", "rows"} of the run that goes on; `rows` is a digest of the tokenized rows.
        rules: of the keys that may differ.

    Raises:
        RunError: with what differs, old -> new.
    """
    before, found = old.get("origin"), list[str]()
    if has_shape(before, Origin):
        found = changes(before, new["origin"], rules, ("free", "longer"))
    if not found and "rows" in old and old["rows"] != new["rows"]:
        found = [f"tokenized rows: {str(old['rows'])[:8]} -> {new['rows'][:8]}, by their content"]
    if found:
        raise RunError(
            f"{checkpoint} was trained with other settings ({'; '.join(found[:5])}), so rows would be left "
            "out, seen twice or learned from in another way; put the old value back, or start anew (from "
            "this run's weights by model_name_or_path)"
        )
