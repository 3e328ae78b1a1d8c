"""An audit's verdict and findings, for all formats of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignloop.report.folder import Json, mapping, text
from alignloop.report.samples import visible

KEYS = ("verdict", "text", "findings", "curve")
"""Results that are shown as verdict, findings and picture, so that they are not listed again."""

_CLASSES = {"alarm": "error", "notice": "warning", "fine": "good"}


@dataclass(frozen=True, slots=True)
class Found:
    """One finding: what was looked at, its level, and a sentence."""

    name: str
    level: str
    text: str

    @property
    def style(self) -> str:
        """Class of the notice that shows it."""
        return _CLASSES.get(self.level, "")


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit's verdict with its findings, the gravest first."""

    verdict: str
    text: str
    findings: tuple[Found, ...]


def read_audit(results: Mapping[str, Json]) -> Audit | None:
    """The audit in a run's results, None if there is none."""
    rows = results.get("findings")
    if not isinstance(rows, list) or not isinstance(results.get("verdict"), str):
        return None
    found = [
        Found(*(visible(text(row.get(key))) for key in ("name", "level", "text")))
        for row in map(mapping, rows)
    ]
    order = ["alarm", "notice", "fine"]
    found.sort(key=lambda one: order.index(one.level) if one.level in order else len(order))
    return Audit(visible(results["verdict"]), visible(text(results.get("text"))), tuple(found))
