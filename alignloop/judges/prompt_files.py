"""YAML files of texts with the line of every key, and templates filled in one pass.

Faults name file and line: `principles.yaml:12: unknown key 'critque'; did you mean 'critique'?`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alignloop.config.recipe_file import MAX_RECIPE, StrictLoader
from alignloop.errors import ConfigError
from alignloop.foreign import TooLarge, read_text

LANGUAGES = ("en", "ko")
_PLACE = re.compile(r"\{(\w+)\}")
_TAG = re.compile(r"<(?=/?\w*(conversation|answer))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TextNode:
    """A value of a YAML file and where it stands (`file.yaml:12`)."""

    value: Any
    where: str

    def items(self) -> dict[str, TextNode]:
        """Entries of a mapping.

        Raises:
            ConfigError: not a mapping.
        """
        if not isinstance(self.value, dict):
            raise ConfigError(f"{self.where}: expected keys with values, found {_kind(self.value)}")
        return self.value

    def list(self) -> Sequence[TextNode]:
        """Items of a list.

        Raises:
            ConfigError: not a list, or an empty one.
        """
        if not isinstance(self.value, list) or not self.value:
            raise ConfigError(f"{self.where}: expected a list with at least one item")
        return self.value

    def text(self, *, places: Collection[str] = (), needed: Collection[str] = ()) -> str:
        """A text, its {placeholders} checked.

        Args:
            places: the placeholders that may occur.
            needed: those that must.

        Returns:
            The text without space around it.

        Raises:
            ConfigError: no text, an unknown placeholder, or a missing one.
        """
        if not isinstance(self.value, str) or not self.value.strip():
            raise ConfigError(f"{self.where}: expected a text, found {_kind(self.value)}")
        used = _PLACE.findall(self.value)
        for name in used:
            if name not in places:
                raise ConfigError(f"{self.where}: unknown placeholder '{{{name}}}'; {_hint(name, places)}")
        for name in needed:
            if name not in used:
                raise ConfigError(f"{self.where}: the placeholder '{{{name}}}' is missing")
        return self.value.strip()

    def fields(self, *, needed: Collection[str], optional: Collection[str] = ()) -> dict[str, TextNode]:
        """Entries of a mapping whose keys are known.

        Raises:
            ConfigError: every unknown and every missing key.
        """
        entries, known = self.items(), [*needed, *optional]
        findings = [
            f"{node.where}: unknown key '{key}'; {_hint(key, known)}"
            for key, node in entries.items()
            if key not in known
        ]
        findings += [f"{self.where}: '{key}' is missing" for key in needed if key not in entries]
        if findings:
            raise ConfigError(findings)
        return entries


def read_texts(path: Path) -> TextNode:
    """A YAML file as nodes.

    Raises:
        ConfigError: the file is missing, no YAML, no text in UTF-8, or has a key twice.
    """
    try:
        tree = yaml.compose(read_text(path, most=MAX_RECIPE), Loader=StrictLoader)
    except (OSError, UnicodeDecodeError, TooLarge) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        reason = f"it is {error}" if isinstance(error, TooLarge) else reason
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if tree is None:
        raise ConfigError(f"{path}: the file is empty")
    return _node(tree, path.name)


def _node(tree: yaml.Node, file: str) -> TextNode:
    where = f"{file}:{tree.start_mark.line + 1}"
    if isinstance(tree, yaml.MappingNode):
        entries: dict[str, TextNode] = {}
        for key, value in tree.value:
            place = f"{file}:{key.start_mark.line + 1}"
            name = str(getattr(key, "value", ""))
            if name in entries:
                raise ConfigError(f"{place}: '{name}' is there twice")
            entries[name] = TextNode(_node(value, file).value, place)
        return TextNode(entries, where)
    if isinstance(tree, yaml.SequenceNode):
        return TextNode([_node(item, file) for item in tree.value], where)
    return TextNode(str(tree.value), where)


def _kind(value: object) -> str:
    names = {dict: "keys with values", list: "a list"}
    return names.get(type(value), "nothing" if not value else repr(value)[:60])


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(known) or 'none'}"


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its placeholders replaced, in one pass: what is put in is never looked at again."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), template)


def harmless(text: str) -> str:
    """A text that cannot close the tags around it: `</answer_a>` inside it loses its bracket."""
    return _TAG.sub("‹", text)


def language_of(text: str, languages: Collection[str] = LANGUAGES) -> str:
    """`ko` where at least a fifth of the letters are Hangul and there are Korean texts, else the first."""
    letters = [c for c in text if c.isalpha()]
    hangul = sum("가" <= c <= "힣" for c in letters)
    if "ko" in languages and letters and hangul >= 0.2 * len(letters):
        return "ko"
    return "en" if "en" in languages else next(iter(languages))
