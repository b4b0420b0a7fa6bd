# SPDX-License-Identifier: Apache-2.0
"""Where a model comes from: a layered graph, data above, the released model below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mammo_dp.report.drawings.svg import WIDTH, Drawing, Point, shortened

_HEIGHT, _ROW, _SPACE = 62.0, 104.0, 18.0
_WIDEST, _PIPE = 236.0, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A run, or something that was given.

    Attributes:
        title: Name of the folder.
        lines: At most two lines of facts.
        css: Colour of its frame.
        parents: Keys of what it was made of, with the role that each played.
    """

    title: str
    lines: Sequence[str]
    css: str
    parents: Mapping[str, str] = field(default_factory=dict)


def draw_lineage(nodes: Mapping[str, Node], described: str) -> str:
    """Draws a graph without cycles.

    Nodes stand as far below the data as their longest way from it. Long edges pass through the
    rows between in gaps of their own, and rows are ordered so that few edges cross (barycentres,
    Sugiyama et al. 1981).

    Args:
        nodes: By key; every parent is a key.
        described: What one sees, for those who do not see it.
    """
    rows = _rows(nodes)
    boxes = [sum(key in nodes for key in row) for row in rows]
    pipes = [len(row) - count for row, count in zip(rows, boxes, strict=True)]
    width = min(
        _WIDEST,
        *(
            (WIDTH - _PIPE * p - _SPACE * (b + p)) / max(1, b)
            for b, p in zip(boxes, pipes, strict=True)
        ),
    )
    places = _places(rows, nodes, width)
    drawing = Drawing(_ROW * (len(rows) - 1) + _HEIGHT + 4)
    for key, node in nodes.items():
        chains = [(_chain(parent, key, rows), role) for parent, role in node.parents.items()]
        chains.sort(key=lambda pair: places[pair[0][-2]][0])
        for number, (chain, role) in enumerate(chains, start=1):
            points = [places[step] for step in chain]
            x, y = points[-1]
            points[-1] = (x - width / 2 + width * number / (len(chains) + 1), y)
            _edge(drawing, points, role)
    for key, node in nodes.items():
        _box(drawing, places[key], width, node)
    return drawing.svg("lineage", "Where the model comes from", described)


def _levels(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Longest way from what has no parents."""
    levels: dict[str, int] = {}

    def level(key: str) -> int:
        if key not in levels:
            parents = nodes[key].parents
            levels[key] = 1 + max(map(level, parents)) if parents else 0
        return levels[key]

    for key in nodes:
        level(key)
    # Sources stand right above what first uses them, so that few edges are long.
    for key, node in nodes.items():
        if not node.parents:
            users = [levels[other] for other, by in nodes.items() if key in by.parents]
            levels[key] = min(users, default=1) - 1
    return levels


def _pipe(parent: str, child: str, row: int) -> str:
    return f"{parent}>{child}>{row}"


def _rows(nodes: Mapping[str, Node]) -> list[list[str]]:
    """Keys and gaps per row, in the order in which they stand."""
    levels = _levels(nodes)
    rows: list[list[str]] = [[] for _ in range(max(levels.values()) + 1)]
    above: dict[str, list[str]] = {}
    for key, level in levels.items():
        rows[level].append(key)
    for key, node in nodes.items():
        for parent in node.parents:
            before = parent
            for row in range(levels[parent] + 1, levels[key]):
                pipe = _pipe(parent, key, row)
                rows[row].append(pipe)
                above.setdefault(pipe, []).append(before)
                before = pipe
            above.setdefault(key, []).append(before)
    below: dict[str, list[str]] = {}
    for key, parents in above.items():
        for parent in parents:
            below.setdefault(parent, []).append(key)
    for _ in range(4):
        for near, order in ((above, range(1, len(rows))), (below, range(len(rows) - 2, -1, -1))):
            for row in order:
                neighbours = rows[row - 1] if near is above else rows[row + 1]
                _sort(rows[row], neighbours, near)
    return rows


def _sort(row: list[str], neighbours: Sequence[str], near: Mapping[str, Sequence[str]]) -> None:
    place = {key: position / max(1, len(neighbours) - 1) for position, key in enumerate(neighbours)}
    own = {key: position / max(1, len(row) - 1) for position, key in enumerate(row)}

    def centre(key: str) -> float:
        known = [place[other] for other in near.get(key, ()) if other in place]
        return sum(known) / len(known) if known else own[key]

    row.sort(key=centre)


def _places(
    rows: Sequence[Sequence[str]], nodes: Mapping[str, Node], width: float
) -> dict[str, Point]:
    """Middle of the upper edge of each box and gap."""
    places = {}
    for level, row in enumerate(rows):
        widths = [width if key in nodes else _PIPE for key in row]
        x = (WIDTH - sum(widths) - _SPACE * (len(row) - 1)) / 2
        for key, taken in zip(row, widths, strict=True):
            places[key] = (x + taken / 2, 2 + _ROW * level)
            x += taken + _SPACE
    return places


def _chain(parent: str, child: str, rows: Sequence[Sequence[str]]) -> list[str]:
    level = {key: number for number, row in enumerate(rows) for key in row}
    between = range(level[parent] + 1, level[child])
    return [parent, *(_pipe(parent, child, row) for row in between), child]


def _edge(drawing: Drawing, points: Sequence[Point], role: str) -> None:
    """From a box through gaps to another box, given by the upper ends of all of them."""
    for (x1, y1), (x2, y2) in pairwise(points):
        drawing.curve((x1, y1 + _HEIGHT), (x2, y2), "muted")
        if y2 != points[-1][1]:
            drawing.line((x2, y2), (x2, y2 + _HEIGHT), "muted")
    x, y = points[-1]
    drawing.area([(x - 4, y - 7), (x + 4, y - 7), (x, y)], "muted")
    drawing.text((x + 8, y - 8), role, "muted small")


def _box(drawing: Drawing, place: Point, width: float, node: Node) -> None:
    x, y = place[0] - width / 2, place[1]
    start = drawing.count
    drawing.box((x, y), width, _HEIGHT, f"{node.css} paper", radius=5)
    drawing.box((x, y), 5, _HEIGHT, f"{node.css} full", radius=2)
    drawing.text((x + 14, y + 20), shortened(node.title, width - 20, 12), "strong")
    for number, line in enumerate(node.lines[:2]):
        words = shortened(line, width - 20, 11)
        drawing.text((x + 14, y + 37 + 15 * number), words, "muted small")
    drawing.titled("\n".join([node.title, *node.lines]), start)
