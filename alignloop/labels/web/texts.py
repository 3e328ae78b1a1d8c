"""The page's words in its languages; every language has the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from alignloop.foreign import loads

LANGUAGES = {"en": "English", "ko": "한국어"}

TEXTS: Mapping[str, Mapping[str, str]] = {
    language: loads(files("alignloop.labels.web").joinpath("texts", f"{language}.json").read_text("utf-8"))
    for language in LANGUAGES
}


def preferred(*wishes: str | None) -> str:
    """First wish that is a known language; an Accept-Language header counts as one wish."""
    for wish in wishes:
        for part in (wish or "").split(","):
            code = part.split(";")[0].strip().lower()[:2]
            if code in LANGUAGES:
                return code
    return "en"
