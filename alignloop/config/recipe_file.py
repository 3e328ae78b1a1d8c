"""Flat YAML with the line of every key kept, and `key=value` from the command line.

YAML's 1.2 rules for plain values, because those of 1.1 surprise: `1e-5` is a number, `no`, `off` and `on`
are text (a key that wants true or false understands them), `12:30` and dates are text, `010` is ten.
Anchors, merge keys and tags are refused: a recipe is flat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alignloop.errors import ConfigError
from alignloop.foreign import MIB, PlainLoader, TooLarge, load_yaml, read_bytes

COMMAND_LINE = "command line"
_AT_THE_END = 1_000_000_000


class RecipeFaults:
    """Sentences with the place they are about: `dpo.yaml:12`, `dpo.yaml`, `command line` or ""."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, where: str, text: str) -> None:
        """Add one fault; the same one is kept once."""
        self._found[where, text] = None

    def add_error(self, where: str, error: ConfigError) -> None:
        """Add what an error says, about this place."""
        for text in error.findings:
            self.add(where, text)

    def stop_if_any(self) -> None:
        """Raise all faults in the order of the file, those of the command line last.

        Raises:
            ConfigError: there is a fault.
        """
        if self._found:
            ordered = sorted(self._found, key=lambda found: _line_of(found[0]))
            raise ConfigError([f"{where}: {text}" if where else text for where, text in ordered])


def _line_of(where: str) -> int:
    """Line number; 0 for a whole file, last for the command line."""
    match = re.search(r":(\d+)$", where)
    return int(match[1]) if match else _AT_THE_END if where == COMMAND_LINE else 0


class LocatedValue(NamedTuple):
    """A value and where it was written: `dpo.yaml:12`, `command line`, or "" for a Python call."""

    value: Any
    where: str


Entries = dict[str, LocatedValue]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file as read, nothing checked against stages yet.

    Attributes:
        file: name shown in messages.
        entries: keys at the top level, `stages` left out.
        stages: one mapping per item of `stages`, empty for a recipe of one stage.
    """

    file: str = ""
    entries: Entries = field(default_factory=dict)
    stages: Sequence[Entries] = ()


MAX_RECIPE = 4 * MIB
"""Largest recipe, in bytes: YAML is read at a megabyte in some seconds."""


class StrictLoader(PlainLoader):
    """PlainLoader with the implicit types of YAML 1.2's core schema."""


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(inf|nan)", r"\1", str(loader.construct_scalar(node)).lower()))


StrictLoader.add_constructor("tag:yaml.org,2002:int", _int)
StrictLoader.add_constructor("tag:yaml.org,2002:float", _float)


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text from anywhere. Raises as `load_yaml` does."""
    return load_yaml(text, StrictLoader)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file.

    Args:
        path: a .yaml file in UTF-8.

    Returns:
        Keys with their lines; nothing is checked against stages yet.

    Raises:
        ConfigError: no such file, not UTF-8, broken YAML, duplicate keys, not a mapping; every finding
            that can be told apart, each with file:line.
    """
    file = Path(path)
    try:
        content = read_bytes(file, most=MAX_RECIPE)
    except TooLarge as error:
        raise ConfigError(f"{path} is {error}; a recipe is a short .yaml file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder; a recipe is a .yaml file") from error
    except OSError as error:
        raise ConfigError(f"recipe {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
    return parse_recipe(text, file=str(path))


def parse_recipe(text: str, *, file: str) -> Recipe:
    """The recipe in a text; `file` is its name in messages. Raises as `read_recipe` does."""
    try:
        loader = StrictLoader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(_broken_yaml(error, text, file)) from error
    if node is None:
        raise ConfigError(f"{file}: empty; a recipe has one `key: value` per line")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{_where(file, node)}: expected `key: value` lines")
    faults = RecipeFaults()
    entries = _entries(loader, node, file, faults)
    stages: list[Entries] = []
    for key, value in node.value:
        if key.value == "stages":
            entries.pop("stages", None)
            stages = _stage_items(loader, value, file, faults)
    faults.stop_if_any()
    return Recipe(file, entries, stages)


def _stage_items(loader: StrictLoader, node: yaml.Node, file: str, faults: RecipeFaults) -> list[Entries]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        faults.add(_where(file, node), "stages: expected a list, each item starting with `- stage: NAME`")
        return []
    items = []
    for item in node.value:
        if isinstance(item, yaml.MappingNode):
            items.append(_entries(loader, item, file, faults))
        else:
            faults.add(_where(file, item), "stages: expected an item such as `- stage: sft`")
    return items


def _entries(loader: StrictLoader, node: yaml.MappingNode, file: str, faults: RecipeFaults) -> Entries:
    entries: Entries = {}
    for key_node, value_node in node.value:
        where = _where(file, key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            faults.add(where, "expected a key name before the colon")
        elif key_node.value in entries:
            earlier = entries[key_node.value].where.rpartition(":")[2]
            faults.add(where, f"duplicate key '{key_node.value}'; it is already in line {earlier}")
        else:
            entries[key_node.value] = LocatedValue(_value(loader, value_node, file, faults), where)
    return entries


def _value(loader: StrictLoader, node: yaml.Node, file: str, faults: RecipeFaults) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key: entry.value for key, entry in _entries(loader, node, file, faults).items()}
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, file, faults) for item in node.value]
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        faults.add(_where(file, node), f"cannot read the value '{node.value}'; YAML tags are not supported")
        return None


def _where(file: str, node: yaml.Node) -> str:
    return f"{file}:{node.start_mark.line + 1}"


def _broken_yaml(error: yaml.YAMLError, text: str, file: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"{file}: contains a character that is not text (code {error.character:#x})"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{file}: not readable as YAML: {error}"
    line = error.problem_mark.line
    lines = text.splitlines()
    shown = lines[line] if line < len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or r"'\t'" in str(error.problem):
        return f"{file}:{line + 1}: a tab; YAML is indented with spaces"
    if "'@'" in str(error.problem):
        return f'{file}:{line + 1}: a value that starts with @ needs quotes: "@name"'
    return f"{file}:{line + 1}: not readable as YAML: {error.problem}"


def parse_overrides(overrides: Iterable[str]) -> Entries:
    """`key=value` or `stage.key=value` words of a command line, later ones winning.

    A value is read as in a recipe; one that starts with [ or { or a quote is YAML, anything else is
    taken literally, so that paths need no quotes.

    Args:
        overrides: the words.

    Returns:
        Values by key, `stage.key` not split.

    Raises:
        ConfigError: a word without `=`, or broken YAML in a value.
    """
    entries: Entries = {}
    faults = RecipeFaults()
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            faults.add(COMMAND_LINE, f"'{word}' is not of the form key=value")
            continue
        try:
            entries[key.strip()] = LocatedValue(_override_value(text.strip()), COMMAND_LINE)
        except (yaml.YAMLError, ValueError):
            faults.add(COMMAND_LINE, f"{key.strip()}: '{text}' is not readable as YAML")
    faults.stop_if_any()
    return entries


def _override_value(text: str) -> Any:
    if text.startswith(("[", "{", '"', "'")):
        return read_yaml(text)
    loader = StrictLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


def located(mapping: Mapping[str, Any], where: str = "") -> Entries:
    """A plain mapping as entries; values that are entries already keep their place."""
    return {key: v if isinstance(v, LocatedValue) else LocatedValue(v, where) for key, v in mapping.items()}
