"""What `alignloop data check` prints: for a person, and as one JSON object."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from alignloop.errors import DataError

if TYPE_CHECKING:
    from alignloop.data.check import Check, Choices
    from alignloop.data.diversity import Lengths


def choices_lines(file: str, found: Choices) -> list[str]:
    """The report of multiple-choice questions for a person."""
    lines = [f"{file}: {found.kind}, {found.usable} usable of {found.rows} rows"]
    for reason, faults in by_reason(found.dropped).items():
        lines.append(f"  dropped {len(faults):>5}  {reason}")
        lines += [f"                 {fault}" for fault in faults[:2]]
    counts = ", ".join(f"{count} with {number}" for number, count in sorted(found.choices.items()))
    lines.append(f"  choices: {counts}")
    places = ", ".join(f"{place} {count}" for place, count in found.places.items())
    lines += [f"  right answers: {places}", f"  the first question: {found.first}"]
    if found.unused:
        lines.append(f"  warning: columns that were not read: {', '.join(found.unused)}")
    return [*lines, f"  read by: alignloop compare MODEL --set {found.kind}={shlex.quote(file)}"]


def choices_json(file: str, found: Choices) -> str:
    """The same as one JSON object."""
    dropped = {reason: _grouped(faults) for reason, faults in by_reason(found.dropped).items()}
    kept = {f.name: getattr(found, f.name) for f in fields(found)}
    report = {"file": file, **kept, "dropped": dropped}
    return json.dumps(report, ensure_ascii=False, indent=2)


def _grouped(faults: list[DataError]) -> dict[str, object]:
    return {"count": len(faults), "first": [str(fault) for fault in faults[:3]]}


def by_reason(faults: list[DataError]) -> dict[str, list[DataError]]:
    groups: dict[str, list[DataError]] = {}
    for fault in faults:
        groups.setdefault(fault.reason, []).append(fault)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def check_lines(file: str, found: Check) -> list[str]:
    """The report for a person."""
    lines = [f"{file}: {found.kind}, {found.usable} usable of {found.rows} rows"]
    for reason, faults in by_reason(found.dropped).items():
        lines.append(f"  dropped {len(faults):>5}  {reason}")
        lines += [f"                 {fault}" for fault in faults[:2]]
    for name, faults in found.findings.items():
        lines.append(f"  {name:<20} {len(faults)}" + (f"  ({faults[0]})" if faults else ""))
    varied = found.diversity
    for name, lengths in (("prompts", varied.prompts), ("completions", varied.completions)):
        if lengths is not None:
            lines.append(f"  {name + ', characters':<25} {_length_line(lengths)}")
    if found.turns:
        lines.append("  " + _turns_line(found.turns))
    if varied.instructions:
        lines.append(
            f"  instructions: {varied.verbs} verbs, {varied.verb_objects} verb-object pairs; "
            f"as varied as {varied.effective_verbs:.1f} equally frequent verbs"
        )
        common = ", ".join(f"{verb} {thing}".strip() + f" {count}" for verb, thing, count in varied.top[:6])
        lines.append(f"    most frequent: {common}")
    lines += [f"  warning: {warning}" for warning in found.warnings]
    return lines


def _turns_line(turns: Mapping[str, int]) -> str:
    """How many turns of conversations are trained, and what else they hold."""
    more = [f"{count} {what}" for what, count in turns.items() if what not in ("assistant", "trained")]
    trained = f"{turns['trained']} of {turns['assistant']} turns of the assistant are trained"
    return "; ".join([trained, *more]) + " (train_on: all)"


def _length_line(lengths: Lengths) -> str:
    bars = "▁▂▃▄▅▆▇█"
    highest = max(lengths.histogram.values())
    low, high = min(lengths.histogram), max(lengths.histogram)
    counts = [lengths.histogram.get(1 << k, 0) for k in range(low.bit_length() - 1, high.bit_length())]
    drawn = "".join(bars[(len(bars) - 1) * count // highest] if count else " " for count in counts)
    return (
        f"median {lengths.median:g}, 95 % below {lengths.p95:.0f}, most {lengths.most}  {low}|{drawn}|{high}"
    )


def check_json(file: str, found: Check) -> str:
    report = {
        "file": file,
        "kind": found.kind,
        "rows": found.rows,
        "usable": found.usable,
        "dropped": {reason: _grouped(faults) for reason, faults in by_reason(found.dropped).items()},
        "findings": {name.replace(" ", "_"): _grouped(faults) for name, faults in found.findings.items()},
        "diversity": asdict(found.diversity),
        **({"turns": found.turns} if found.turns else {}),
        "warnings": found.warnings,
    }
    return json.dumps(report, ensure_ascii=False, indent=2)
