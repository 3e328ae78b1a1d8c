"""Where a run comes from: its parents, their parents, and the data files, as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from alignloop.config.recipe_file import read_yaml
from alignloop.errors import RunError
from alignloop.report.folder import RunFolder, read_run
from alignloop.report.samples import visible
from alignloop.runs import find_run
from alignloop.runs.json_values import Json, mapping, text

_MAX_NODES = 80


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A run or a data file.

    Attributes:
        key: unique in the graph: the resolved path.
        title: what it is called.
        detail: stage, or rows.
        kind: run, data (a file or a model from elsewhere) or missing.
        fingerprint: start of its hash, or "".
        simulated: labels in it come from a simulated annotator.
    """

    key: str
    title: str
    detail: str
    kind: str
    fingerprint: str = ""
    simulated: bool = False


@dataclass(slots=True)
class Lineage:
    """Nodes in the order found and edges (from, to); data flows along the edges."""

    nodes: dict[str, LineageNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def parents(self, key: str) -> list[str]:
        return [a for a, b in self.edges if b == key]

    def sinks(self) -> list[str]:
        """Nodes that nothing was made from."""
        sources = {a for a, _ in self.edges}
        return [key for key in self.nodes if key not in sources]

    def simulated(self, key: str) -> bool:
        """Whether the node or anything it comes from holds simulated labels."""
        pending, seen = [key], set[str]()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.nodes and self.nodes[current].simulated:
                return True
            pending += self.parents(current)
        return False


_LABEL_KEYS = frozenset({"origin", "origins", "annotator", "annotators", "label_origin", "labels"})


def holds_simulated(value: Json, *, label_key: bool = False) -> bool:
    """Whether a JSON value says somewhere that labels are simulated.

    That is `simulated: true`, or "simulated" as value, item or key under origin, annotator or labels.
    """
    if isinstance(value, dict):
        return any(
            (key == "simulated" and bool(inner) and (label_key or inner is True))
            or holds_simulated(inner, label_key=label_key or key in _LABEL_KEYS)
            for key, inner in value.items()
        )
    if isinstance(value, list):
        return any(holds_simulated(inner, label_key=label_key) for inner in value)
    return label_key and value == "simulated"


def trace(runs: Sequence[RunFolder]) -> Lineage:
    """The graph of the runs and all their ancestors, back to the data files.

    A parent whose folder is gone is a node of kind `missing`; so is everything beyond 80 nodes.
    """
    graph = Lineage()
    for run in runs:
        _add_run(graph, run)
    return graph


def _key(path: Path) -> str:
    return str(path.resolve())


def _add_run(graph: Lineage, run: RunFolder) -> str:
    key = _key(run.path)
    if key in graph.nodes and graph.nodes[key].kind == "run":
        return key
    graph.nodes[key] = LineageNode(
        key=key,
        title=visible(run.name),
        detail="" if run.stage == run.name else visible(run.stage),
        kind="run",
        fingerprint=text(run.info.get("fingerprint") or run.info.get("config_sha256"))[:12],
        simulated=holds_simulated(run.info),
    )
    stated = run.info.get("parents")
    entries = [mapping(parent) or {"path": parent} for parent in (stated if isinstance(stated, list) else [])]
    paths = [path for entry in entries if (path := text(entry.get("path")))]
    for name, entry in mapping(run.info.get("inputs")).items():
        _add_data(graph, key, name, mapping(entry), paths)
    _add_model(graph, key, run, paths)
    for entry in entries:
        source = _add_parent(graph, entry, run.path)
        if source and source != key and (source, key) not in graph.edges:
            graph.edges.append((source, key))
    return key


def _add_parent(graph: Lineage, entry: Mapping[str, Json], child: Path) -> str:
    stated = text(entry.get("path"))
    if not stated:
        return ""
    found = find_run(stated, child)
    if found is not None and len(graph.nodes) < _MAX_NODES:
        if _key(found) in graph.nodes:
            return _key(found)
        try:
            return _add_run(graph, read_run(found))
        except RunError:
            found = None
    key = _key(found) if found else stated
    detail = f"{text(entry.get('stage'))} (folder not found)".strip()
    graph.nodes.setdefault(
        key,
        LineageNode(key, visible(Path(stated).name), detail, "missing", text(entry.get("fingerprint"))[:12]),
    )
    return key


def _add_data(
    graph: Lineage, child: str, name: str, entry: Mapping[str, Json], parents: Sequence[str]
) -> None:
    stated = text(entry.get("path")) or name
    if any(Path(stated).is_relative_to(parent) for parent in parents):
        return  # a file that a parent wrote: the parent stands for it
    rows = entry.get("rows")
    detail = f"{rows:,} rows" if isinstance(rows, int) else ""
    digest = text(entry.get("sha256"))
    title = visible(Path(stated).name or stated)
    key = f"data:{digest or stated}"
    graph.nodes.setdefault(key, LineageNode(key, title, detail, "data", digest[:12], holds_simulated(entry)))
    if (key, child) not in graph.edges:
        graph.edges.append((key, child))


def _add_model(graph: Lineage, child: str, run: RunFolder, parents: Sequence[str]) -> None:
    """A model that is named, not trained here, is a source too."""
    try:
        recipe = read_yaml(run.recipe)
    except (yaml.YAMLError, ValueError):
        return
    name = mapping(recipe).get("model_name_or_path")
    known = {text(mapping(entry).get("path")) for entry in mapping(run.info.get("inputs")).values()}
    if not isinstance(name, str) or name in known or any(Path(name).is_relative_to(p) for p in parents):
        return
    key = f"model:{name}"
    graph.nodes.setdefault(key, LineageNode(key, visible(Path(name).name), "model", "data"))
    graph.edges.append((key, child))
