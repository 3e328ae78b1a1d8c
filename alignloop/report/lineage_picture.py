"""The lineage as SVG: boxes from left to right; of a long chain a list from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from alignloop.report.lineage import Lineage, LineageNode
from alignloop.report.plot import shortened

# Layout: columns by the longest way from a source, long edges kept clear by place holders.

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 136, 44, 34, 14
_MAX_COLUMNS = 7
"""Columns that a page can show without becoming too small to read."""


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
    """The graph as SVG: sources at the left, or at the top where boxes would not fit beside each other.

    Args:
        graph: nodes and edges.
        emphasised: keys of the nodes that the report is about.

    Returns:
        An `<svg>` of its natural size in pixels, or an empty string for a graph of one node.
    """
    if len(graph.nodes) < 2:
        return Markup("")
    if max(columns(graph).values()) >= _MAX_COLUMNS:
        return _listed(graph, emphasised)
    places, routes = _place(graph)
    corners = [*places.values(), *(corner for route in routes.values() for corner in route)]
    width = max(x for x, _ in corners) + BOX_WIDTH + 2
    height = max(y for _, y in corners) + BOX_HEIGHT + 2
    parts = [_route(graph, edge, places, routes[edge]) for edge in graph.edges if edge in routes]
    parts += [_box(graph, node, places[key], key in emphasised) for key, node in graph.nodes.items()]
    return Markup(
        '<svg class="lineage fits" width="{0:.0f}" height="{1:.0f}" viewBox="-2 -2 {0:.0f} {1:.0f}"'
        ' role="img" aria-label="{3}">{2}</svg>'
    ).format(width + 2, height + 2, Markup("").join(parts), _described(graph))


def _described(graph: Lineage) -> str:
    """The graph in words, for who cannot see it."""
    made = [
        f"{node.title} from {', '.join(graph.nodes[p].title for p in parents)}"
        for key, node in graph.nodes.items()
        if (parents := [p for p in graph.parents(key) if p in graph.nodes])
    ]
    return f"lineage of {len(graph.nodes)} runs and files: {'; '.join(made)}"


# A long chain as a list: a row for each node, its sources above it, arcs at the left.

ROW, _ARC, _DOT = 26, 11, 5
_MAX_ARC, _LIST_WIDTH = 150, 640


def _listed(graph: Lineage, emphasised: Sequence[str]) -> Markup:
    depth = columns(graph)
    order = sorted(graph.nodes, key=lambda key: depth[key])  # a stable sort keeps the order found
    rows = {key: number * ROW + ROW // 2 for number, key in enumerate(order)}
    edges = [(a, b) for a, b in graph.edges if rows.get(a, 0) < rows.get(b, 0)]
    reach = {edge: min(_MAX_ARC, _ARC * (rows[edge[1]] - rows[edge[0]]) // ROW) for edge in edges}
    x = 10 + max(reach.values(), default=0)
    parts = [_arc(graph, edge, x, rows, reach[edge]) for edge in edges]
    parts += [_row(node, x, rows[key], key in emphasised) for key, node in graph.nodes.items()]
    return Markup(
        '<svg class="lineage list fits" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img"'
        ' aria-label="{2}">{3}</svg>'
    ).format(x + _LIST_WIDTH, len(order) * ROW, _described(graph), Markup("").join(parts))


def _arc(graph: Lineage, edge: tuple[str, str], x: int, rows: Mapping[str, int], reach: int) -> Markup:
    """From a source down to what was made from it; neighbours are joined by a straight line."""
    above, below = (rows[key] for key in edge)
    path = f"M{x} {above}V{below}"
    if below - above > ROW:
        left = x - 4 * reach // 3  # the curve's own way out is three quarters of its handles'
        path = f"M{x} {above}C{left} {above} {left} {below} {x} {below}"
    kind = "edge simulated" if graph.simulated(edge[0]) else "edge"
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _row(node: LineageNode, x: int, y: int, emphasised: bool) -> Markup:
    detail = " · ".join(filter(None, (node.detail, "simulated" if node.simulated else "", node.fingerprint)))
    classes = f"node {node.kind}{' own' if emphasised else ''}{' simulated' if node.simulated else ''}"
    title = shortened(node.title, size=13, width=300)
    return Markup(
        '<g class="{}"><title>{}</title><circle cx="{}" cy="{}" r="{}"/><text x="{}" y="{}">{}</text>'
        '<text class="detail" x="{}" y="{}">{}</text></g>'
    ).format(
        classes, " · ".join(filter(None, (node.title, detail))), x, y, _DOT,
        x + 14, y + 4, title, x + 330, y + 4, shortened(detail, size=11, width=_LIST_WIDTH - 340),
    )  # fmt: skip


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


def _box(graph: Lineage, node: LineageNode, place: Place, emphasised: bool) -> Markup:
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
