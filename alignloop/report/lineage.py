"""Where a run comes from: its parents, their parents, and the data files, as a graph and as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from markupsafe import Markup

from alignloop.config.recipe_file import read_yaml
from alignloop.errors import RunError
from alignloop.report.folder import Json, RunFolder, mapping, read_run, text
from alignloop.report.plot import text_width
from alignloop.report.samples import visible
from alignloop.runs import find_run

_MAX_NODES = 80


@dataclass(frozen=True, slots=True)
class Node:
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

    nodes: dict[str, Node] = field(default_factory=dict)
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
    graph.nodes[key] = Node(
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
        key, Node(key, visible(Path(stated).name), detail, "missing", text(entry.get("fingerprint"))[:12])
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
    graph.nodes.setdefault(key, Node(key, title, detail, "data", digest[:12], holds_simulated(entry)))
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
    graph.nodes.setdefault(key, Node(key, visible(Path(name).name), "model", "data"))
    graph.edges.append((key, child))


# Layout: columns by the longest way from a source, long edges kept clear by place holders.

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 136, 44, 34, 14
_FITS = 1600  # pixels that a wide page may shrink to its own width and stay readable


def columns(graph: Lineage) -> dict[str, int]:
    """Column of each node: runs by their longest chain of ancestors, data just before their first use."""
    depth: dict[str, int] = {}

    def measure(key: str, trail: frozenset[str]) -> int:
        if key in trail:  # a hand-edited run.json may name its own descendant
            return 0
        if key not in depth:
            ancestors = [p for p in graph.parents(key) if p not in trail]
            depth[key] = 1 + max((measure(p, trail | {key}) for p in ancestors), default=-1)
        return depth[key]

    for key in graph.nodes:
        measure(key, frozenset())
    for key, node in graph.nodes.items():
        uses = [depth[b] for a, b in graph.edges if a == key]
        if node.kind != "run" and uses and not graph.parents(key):
            depth[key] = min(uses) - 1
    return depth


def draw(graph: Lineage, *, emphasised: Sequence[str] = ()) -> Markup:
    """The graph as SVG, sources at the left.

    Args:
        graph: nodes and edges.
        emphasised: keys of the nodes that the report is about.

    Returns:
        An `<svg>` of its natural size in pixels, or an empty string for a graph of one node.
    """
    if len(graph.nodes) < 2:
        return Markup("")
    places, routes = _place(graph)
    corners = [*places.values(), *(corner for route in routes.values() for corner in route)]
    width = max(x for x, _ in corners) + BOX_WIDTH + 2
    height = max(y for _, y in corners) + BOX_HEIGHT + 2
    parts = [_route(graph, edge, places, routes[edge]) for edge in graph.edges if edge in routes]
    parts += [_box(graph, node, places[key], key in emphasised) for key, node in graph.nodes.items()]
    return Markup(
        '<svg class="lineage{3}" width="{0:.0f}" height="{1:.0f}" viewBox="-2 -2 {0:.0f} {1:.0f}" role="img"'
        ' aria-label="lineage graph">{2}</svg>'
    ).format(width + 2, height + 2, Markup("").join(parts), " fits" if width <= _FITS else "")


Place = tuple[float, float]


def _place(graph: Lineage) -> tuple[dict[str, Place], dict[tuple[str, str], list[Place]]]:
    """Top left corner of each box, and for each edge the points it passes between its boxes."""
    depth = columns(graph)
    slots: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    above: dict[str, list[str]] = {key: [] for key in graph.nodes}
    chains: dict[tuple[str, str], list[str]] = {}
    for key in graph.nodes:
        slots[depth[key]].append(key)
    for a, b in graph.edges:
        chain = [a]
        for column in range(depth[a] + 1, depth[b]):
            holder = f"{a}\n{column}"  # one line carries all long edges of a source
            if holder not in above:
                slots[column].append(holder)
                above[holder] = [chain[-1]]
            chain.append(holder)
        if depth[b] > depth[a]:
            above[b].append(chain[-1])
            chains[a, b] = chain[1:]
    row: dict[str, float] = {}
    for slot in slots:
        # Next to the mean of what comes in, so that edges cross little.
        slot.sort(key=lambda key: sum(row[p] for p in above[key]) / len(above[key]) if above[key] else 1e6)
        shift = (max(map(len, slots)) - len(slot)) / 2
        row |= {key: number + shift for number, key in enumerate(slot)}
    corner: dict[str, Place] = {
        key: (float(column * (BOX_WIDTH + GAP_X)), row[key] * (BOX_HEIGHT + GAP_Y))
        for column, slot in enumerate(slots)
        for key in slot
    }
    routes = {edge: [corner[holder] for holder in chain] for edge, chain in chains.items()}
    return {key: corner[key] for key in graph.nodes}, routes


def _route(
    graph: Lineage, edge: tuple[str, str], places: Mapping[str, Place], via: Sequence[Place]
) -> Markup:
    (x, y), half = places[edge[0]], BOX_HEIGHT / 2
    path = f"M{x + BOX_WIDTH:.0f} {y + half:.0f}"
    x, y = x + BOX_WIDTH, y + half
    for left, top in [*via, places[edge[1]]]:
        middle = (x + left) / 2
        path += f"C{middle:.0f} {y:.0f} {middle:.0f} {top + half:.0f} {left:.0f} {top + half:.0f}"
        x, y = left, top + half
        if (left, top) != places[edge[1]]:
            path += f"h{BOX_WIDTH}"
            x += BOX_WIDTH
    kind = "edge simulated" if graph.simulated(edge[0]) else "edge"
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _box(graph: Lineage, node: Node, place: Place, emphasised: bool) -> Markup:
    x, y = place
    classes = f"node {node.kind}{' own' if emphasised else ''}{' simulated' if node.simulated else ''}"
    detail = " · ".join(filter(None, (node.detail, "simulated" if node.simulated else "")))
    whole = " · ".join(filter(None, (node.title, detail, node.fingerprint)))
    return Markup(
        '<g class="{}"><title>{}</title><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="6"/>'
        '<text x="{:.0f}" y="{:.0f}">{}</text><text class="detail" x="{:.0f}" y="{:.0f}">{}</text></g>'
    ).format(
        classes, whole, x, y, BOX_WIDTH, BOX_HEIGHT,
        x + 10, y + (19 if detail else 27), shortened(node.title, size=13, width=BOX_WIDTH - 20),
        x + 10, y + 35, shortened(detail, size=11, width=BOX_WIDTH - 20),
    )  # fmt: skip


def shortened(title: str, *, size: float, width: float) -> str:
    """The text, cut in the middle to a width in pixels: file names differ at both ends."""
    if text_width(title, size=size) <= width:
        return title
    keep = len(title) - 1
    while keep > 2 and text_width(f"{title[: keep // 2]}…{title[-(keep // 2) :]}", size=size) > width:
        keep -= 1
    return f"{title[: keep // 2]}…{title[-(keep // 2) :]}"
