"""A configuration made in Python: its keys as a recipe has them, its faults as a recipe's are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from alignloop.config.checking import add_faults, rename_aliases, unknown_key
from alignloop.config.findings import Findings
from alignloop.config.given import key_value
from alignloop.config.recipe_file import located


@contextmanager
def python_call(model: type[BaseModel], keys: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The keywords of a call under the names used here, Python objects in them made paths.

    Within the context pydantic's refusals become a ConfigError.

    Args:
        model: the configuration that is made.
        keys: as they were given.

    Yields:
        Keywords for the model.

    Raises:
        ConfigError: unknown keys, and every value that is not accepted.
    """
    findings, known = Findings(), set(model.model_fields)
    entries = rename_aliases(located(keys), known, findings, say_note)
    for key in entries:
        if key not in known:
            findings.add("", unknown_key(key, known, f"help({model.__name__})"))
    values = {key: key_value(key, entry.value) for key, entry in entries.items() if key in known}
    try:
        if len(findings):
            model.model_validate(values)  # to name every fault at once
        else:
            yield values
    except ValidationError as error:
        add_faults(model, located(values), findings, error)
    findings.stop_if_any()


def say_note(text: str) -> None:
    """Tell on stderr how a key was understood."""
    print(f"note: {text.removeprefix('call: ')}", file=sys.stderr)
