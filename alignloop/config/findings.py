"""What is wrong with a recipe, collected so that all of it is said at once."""

from __future__ import annotations

import re

from alignloop.errors import ConfigError

_AT_THE_END = 1_000_000_000


class Findings:
    """Sentences with the place they are about: `dpo.yaml:12`, `dpo.yaml`, `command line` or ""."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, where: str, text: str) -> None:
        """Add one finding; the same one is kept once."""
        self._found[where, text] = None

    def add_error(self, where: str, error: ConfigError) -> None:
        """Add what an error says, about this place."""
        for text in error.findings:
            self.add(where, text)

    def stop_if_any(self) -> None:
        """Raise all findings in the order of the file, those of the command line last.

        Raises:
            ConfigError: there is a finding.
        """
        if self._found:
            ordered = sorted(self._found, key=lambda found: _line(found[0]))
            raise ConfigError([f"{where}: {text}" if where else text for where, text in ordered])


def _line(where: str) -> int:
    """Line number; 0 for a whole file, last for the command line."""
    match = re.search(r":(\d+)$", where)
    return int(match[1]) if match else _AT_THE_END if where == "command line" else 0
