# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, each a function of what the runs say: utility, attacks, one model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from classifier.predictions import Predictions
from mammo_dp import drawing
from mammo_dp.attacks.membership.results import bounds_of
from mammo_dp.attacks.membership.signals import read_signals
from mammo_dp.attacks.statistics import roc
from mammo_dp.drawing import DOTS, INK, MUTED, PAPER, SERIES, VEIL, WARN, WIDTH
from mammo_dp.report.collect import Row, estimate
from mammo_dp.report.diagnosis import LEAST_CROPS, calibration_bins, roc_curve
from mammo_dp.report.lineage import Kind, Node
from mammo_dp.report.tables import epsilon, interval, set_names

_SQUARE = 370.0  # width of the two figures that stand side by side, in pixels
_LANE = 200.0  # widest lane of models without guarantee
_GAP = 9.0  # pixels between markers at one epsilon

_HEIGHT, _ROW, _SPACE = 62.0, 104.0, 18.0  # of boxes of the lineage, in pixels
_WIDEST, _PIPE = 236.0, 20.0
_FRAMES: dict[Kind, str] = {
    "patients": SERIES[3],
    "private": SERIES[2],
    "open": WARN,
    "other": MUTED,
}

Point = tuple[float, float]
Named = Sequence[tuple[str, Predictions]]


def utility_privacy(rows: Sequence[Row]) -> str | None:
    """One marker per evaluation; models without a guarantee have a lane of their own.

    Models without patients in their lineage have no epsilon and are left to the table.

    Epsilon is that of the guarantee, over every stage of the lineage, not of the last stage. Lines
    connect means over models of one start and body at one epsilon, measured on the same patients.

    Returns:
        SVG, or None if no model has a finite epsilon.
    """
    rows = [row for row in rows if row.statements]
    finite = [row for row in rows if row.guarantee]
    if not finite:
        return None
    lane = [row for row in rows if math.isinf(row.epsilon)]
    starts = list(dict.fromkeys(map(_kind, rows)))
    with drawing.style():
        entries = [
            drawing.key(f"from {start}", *drawing.series(place))
            for place, start in enumerate(starts)
        ]
        if any(row.is_private for row in lane):
            words = "hollow: private last stage, no guarantee"
            entries.append(drawing.key(words, INK, "o", hollow=True))
        if any(not row.is_private for row in lane):
            entries.append(drawing.key("cross: trained without privacy", INK, "x"))
        height = 340 + drawing.legend_height(len(entries), columns=2)
        figure = drawing.new_figure(WIDTH, height)
        width = min(_LANE, max(100.0, 40 + 14.0 * len(lane)))
        ratios = [WIDTH - 70 - width, width] if lane else [1.0]
        panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
        axes = panels[0]
        levels = sorted({row.epsilon for row in finite})
        axes.set_xscale("log")
        axes.set_xlim(levels[0] / 1.6, levels[-1] * 1.6)
        drawing.ticks(axes.xaxis, levels, [epsilon(level) for level in levels])
        axes.set_xlabel(f"ε end to end ({_conditions(finite)})")
        axes.set_ylabel(f"AUROC on {_joined(set_names(rows))}, 95 % interval")
        axes.set_ylim(*_limits(rows))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}")
        _means(axes, finite, starts)
        pixels = (WIDTH - 70 - width * bool(lane)) / math.log(2.56 * levels[-1] / levels[0])
        for row, place in _side_by_side(finite, pixels, starts):
            _evaluation(axes, row, place, starts)
        if lane:
            _without_guarantee(panels[1], lane, starts)
        for panel in panels:
            panel.axhline(0.5, color=MUTED, linewidth=1.4, linestyle=DOTS)
        drawing.legend(figure, entries, columns=2)
        described = "; ".join(
            f"{row.name}: {interval(row.metrics['auroc'])} at epsilon {epsilon(row.epsilon)}"
            for row in rows
        )
        title = "AUROC against epsilon end to end"
        return drawing.as_svg(figure, name="utility", title=title, description=described)


def attacks_and_bounds(rows: Sequence[Row]) -> str | None:
    """The strongest attack on each model: advantage, and rate at 1 % false positives.

    Returns:
        SVG, or None if no model was attacked.
    """
    attacked = [row for row in rows if row.strongest]
    if not attacked:
        return None
    with drawing.style():
        figure = drawing.new_figure(
            WIDTH, 60 + 30 * len(attacked) + drawing.legend_height(3, columns=2)
        )
        panels = figure.subplots(1, 2, sharey=True)
        unit = " or ".join(sorted({str((row.attack or {})["unit"]) for row in attacked}))
        for panel, axes in enumerate(panels):
            axes.grid(axis="y", visible=False)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            axes.set_xlabel("TPR at 1 % false positives" if panel else f"advantage, unit {unit}")
            for place, row in enumerate(attacked):
                found = row.strongest or {}
                measured = found["tpr_at_fpr"]["0.01"] if panel else found["advantage"]
                _bar(axes, place, measured, exceeds=bool(found["exceeds_bound"]))
        panels[0].set_yticks(
            range(len(attacked)),
            [drawing.shortened(row.name, 180, 12) for row in attacked],
            color=INK,
        )
        panels[0].set_ylim(len(attacked) - 0.5, -0.5)
        entries = [
            Line2D(
                [],
                [],
                label="strongest attack, 95 % interval",
                **drawing.look(SERIES[0], "o") | {"linestyle": "-"},
            ),
            drawing.area_key("allowed by the statement", MUTED),
            drawing.area_key("no bound: no guarantee", WARN),
        ]
        drawing.legend(figure, entries, columns=2)
        described = "Strongest membership attack on each model beside its bound, as in the table."
        title = "Attacks beside their bounds"
        return drawing.as_svg(figure, name="bounds", title=title, description=described)


def attack_curves(row: Row) -> str | None:
    """ROC curves of all attacks on one model on logarithmic axes, below what is allowed.

    Returns:
        SVG, or None if the model was not attacked or its signals are gone.
    """
    if row.attack is None or row.attacker is None:
        return None
    path = row.attacker.folder / "scores.csv"
    if not path.is_file():
        return None
    signals, unit = read_signals(path), row.attack["unit"]
    curves = {}
    for name, attack in row.attack["attacks"].items():
        groups = signals.scores(signals.of(name), unit, attack["combine"])
        curves[name] = roc(*groups)[:2]
    least = min(1 / row.attack["nonmembers"], 1 / row.attack["members"]) / 1.2
    with drawing.style():
        entries: list[Artist] = [
            drawing.line_key(name, SERIES[place % len(SERIES)]) for place, name in enumerate(curves)
        ]
        entries.append(drawing.line_key("random guess", MUTED, DOTS))
        entries.append(drawing.area_key("allowed by the statement", MUTED))
        height = 350 + drawing.legend_height(len(entries), columns=2)
        figure = drawing.new_figure(WIDTH, height)
        axes = figure.subplots()
        for scale, limit in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
            scale("log")
            limit(least, 1)
        powers = [10.0**power for power in range(math.ceil(math.log10(least)), 1)]
        for axis in (axes.xaxis, axes.yaxis):
            drawing.ticks(axis, powers, [f"{power:g}" for power in powers])
        axes.set_xlabel(f"false-positive rate, unit {unit}")
        axes.set_ylabel("true-positive rate")
        if row.own:
            bounds = bounds_of(row.own)
            grid = np.geomspace(least, 1, 60)
            allowed = [bounds.tpr(fpr) for fpr in grid.tolist()]
            axes.fill_between(grid, least, allowed, color=MUTED, alpha=VEIL, linewidth=0)
        axes.plot([least, 1], [least, 1], color=MUTED, linewidth=1.4, linestyle=DOTS)
        for place, (fpr, tpr) in enumerate(curves.values()):
            shown = (fpr > 0) & (tpr > 0)  # zero is nowhere on a logarithmic axis
            colour = SERIES[place % len(SERIES)]
            axes.plot(fpr[shown], tpr[shown], color=colour, drawstyle="steps-post")
        drawing.legend(figure, entries, columns=2)
        described = f"ROC curves of attacks on {row.name}: {', '.join(curves)}."
        title = "Membership attacks at every threshold"
        return drawing.as_svg(figure, name="curves", title=title, description=described)


def receiver_operating_characteristic(models: Named) -> str | None:
    """Sensitivity against false-positive rate; the first model has a band.

    Args:
        models: Words for the legend and predictions of one split, most important first.

    Returns:
        SVG, or None without models.
    """
    if not models:
        return None
    with drawing.style():
        entries: list[Artist] = [
            drawing.line_key(words, SERIES[place % len(SERIES)])
            for place, (words, _) in enumerate(models)
        ]
        entries.append(drawing.area_key("95 % of resamples of patients", SERIES[0]))
        figure, axes = _square(len(entries), "false-positive rate", "true-positive rate")
        curves = [roc_curve(predictions) for _, predictions in models]
        first = curves[0]
        axes.fill_between(
            first.fpr, first.low, first.high, color=SERIES[0], alpha=VEIL, linewidth=0
        )
        for place, curve in reversed(list(enumerate(curves))):
            x, y = np.append(0.0, curve.fpr), np.append(0.0, curve.tpr)
            axes.plot(x, y, color=SERIES[place % len(SERIES)])
        drawing.legend(figure, entries)
        described = (
            f"Receiver operating characteristic of {'; '.join(words for words, _ in models)}."
        )
        title = "Sensitivity against false-positive rate"
        return drawing.as_svg(figure, name="roc", title=title, description=described)


def calibration(models: Named) -> str | None:
    """Observed share of malignant crops against the stated probability.

    Args:
        models: Words for the legend and predictions of one split, most important first.

    Returns:
        SVG, or None without a model that scored at least ``LEAST_CROPS`` crops.
    """
    models = [(words, one) for words, one in models if len(one.row) >= LEAST_CROPS]
    if not models:
        return None
    with drawing.style():
        entries = [
            drawing.key(words, *drawing.series(place)) for place, (words, _) in enumerate(models)
        ]
        entries.append(drawing.line_key("probabilities that are kept", MUTED, DOTS))
        figure, axes = _square(len(entries), "stated probability of malignancy", "share malignant")
        described = []
        for place, (words, predictions) in reversed(list(enumerate(models))):
            (colour, marker), bins = drawing.series(place), calibration_bins(predictions)
            axes.plot(bins.stated, bins.observed, color=colour, alpha=0.5, linewidth=1.4)
            for at, height, low, high, crops in zip(
                bins.stated, bins.observed, bins.low, bins.high, bins.crops, strict=True
            ):
                if place == 0:
                    axes.plot([at, at], [low, high], color=colour, linewidth=1.4)
                (drawn,) = axes.plot([at], [height], **drawing.look(colour, marker))
                drawn.set_clip_on(False)
                drawing.tell(drawn, f"{words}: {crops} crops")
            described.append(f"{words}: {len(bins.stated)} bins")
        drawing.legend(figure, entries)
        title = "Share of malignant crops against probability"
        return drawing.as_svg(
            figure, name="calibration", title=title, description="; ".join(described[::-1])
        )


def stressed(row: Row) -> str | None:
    """What each distortion of the crops takes from AUROC and adds to the Brier score.

    Returns:
        SVG, or None if the model was not tested on distorted crops.
    """
    if row.stress is None:
        return None
    shown = [one for one in row.stress["rows"] if one["differences"]]
    with drawing.style():
        figure = drawing.new_figure(WIDTH, 70 + 24 * len(shown))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name, words in zip(
            panels,
            ("auroc", "brier"),
            ("AUROC, distorted less as is", "Brier, distorted less as is"),
            strict=True,
        ):
            axes.grid(axis="y", visible=False)
            axes.axvline(0, color=MUTED, linewidth=1.4, linestyle=DOTS)
            axes.set_xlabel(words)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:g}")
            for place, one in enumerate(shown):
                measured = estimate(one["differences"][name])
                worse = measured.high < 0 if name == "auroc" else measured.low > 0
                colour = WARN if worse else SERIES[0]
                axes.plot([measured.low, measured.high], [place, place], color=colour)
                (drawn,) = axes.plot([measured.value], [place], **drawing.look(colour, "o"))
                drawing.tell(drawn, f"{one['distortion']}: {interval(measured)}")
        panels[0].set_yticks(
            range(len(shown)),
            [drawing.shortened(one["distortion"], 240, 12) for one in shown],
            color=INK,
        )
        panels[0].set_ylim(len(shown) - 0.5, -0.5)
        described = "; ".join(
            f"{one['distortion']}: {interval(estimate(one['differences']['auroc']))}"
            for one in shown
        )
        title = "Loss on distorted crops"
        return drawing.as_svg(figure, name="stress", title=title, description=described)


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
    height = _ROW * (len(rows) - 1) + _HEIGHT + 4
    with drawing.style():
        figure = drawing.new_figure(WIDTH, height, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        for key, node in nodes.items():
            chains = [(_chain(parent, key, rows), role) for parent, role in node.parents.items()]
            chains.sort(key=lambda pair: places[pair[0][-2]][0])
            for number, (chain, role) in enumerate(chains, start=1):
                points = [places[step] for step in chain]
                x, y = points[-1]
                points[-1] = (x - width / 2 + width * number / (len(chains) + 1), y)
                _edge(axes, points, role)
        for key, node in nodes.items():
            _box(axes, places[key], width, node)
        title = "Where the model comes from"
        return drawing.as_svg(figure, name="lineage", title=title, description=described)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Room for each interval and for the line of a random guess."""
    measured = [row.metrics["auroc"] for row in rows]
    ends = [v for m in measured for v in (m.low, m.value, m.high) if math.isfinite(v)]
    return min([0.48, *ends]) - 0.01, max([0.6, *ends]) + 0.01


def _means(axes: Axes, finite: Sequence[Row], starts: Sequence[str]) -> None:
    series: dict[tuple[str, tuple[str, str]], dict[float, list[float]]] = {}
    for row in finite:
        groups = series.setdefault((_kind(row), row.measured_on), {})
        groups.setdefault(row.epsilon, []).append(row.metrics["auroc"].value)
    for (start, _), groups in series.items():
        if len(groups) > 1:
            levels = sorted(groups)
            means = [sum(groups[level]) / len(groups[level]) for level in levels]
            colour = drawing.series(starts.index(start))[0]
            axes.plot(levels, means, color=colour, alpha=0.5, linewidth=1.4)


def _side_by_side(
    rows: Sequence[Row], pixels: float, starts: Sequence[str]
) -> list[tuple[Row, float]]:
    """Epsilons at which markers stand; those that would lie on one another stand side by side.

    Args:
        rows: With a finite epsilon.
        pixels: Of a factor e on the axis.
        starts: Of all series.
    """
    ordered = sorted(rows, key=lambda row: (row.epsilon, starts.index(_kind(row)), row.name))
    clusters: list[list[Row]] = []
    for row in ordered:
        if clusters and pixels * math.log(row.epsilon / clusters[-1][-1].epsilon) < _GAP:
            clusters[-1].append(row)
        else:
            clusters.append([row])
    placed = []
    for cluster in clusters:
        centre = sum(math.log(row.epsilon) for row in cluster) / len(cluster)
        for place, row in enumerate(cluster):
            shift = _GAP / pixels * (place - (len(cluster) - 1) / 2)
            placed.append((row, math.exp(centre + shift)))
    return placed


def _without_guarantee(axes: Axes, lane: Sequence[Row], starts: Sequence[str]) -> None:
    """Models without guarantee: private last stages first, then those without privacy."""
    axes.set_xlim(0, len(lane))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.add_patch(
        Rectangle((0, 0), 1, 1, transform=axes.transAxes, color=WARN, alpha=VEIL, linewidth=0)
    )
    axes.set_xticks([len(lane) / 2], ["∞"], color=INK, weight="bold")
    axes.set_xlabel("no guarantee")
    axes.tick_params(labelleft=False)
    ordered = sorted(
        lane,
        key=lambda row: (not row.is_private, starts.index(_kind(row)), _stage(row), row.name),
    )
    for place, row in enumerate(ordered):
        _evaluation(axes, row, place + 0.5, starts)


def _evaluation(axes: Axes, row: Row, x: float, starts: Sequence[str]) -> None:
    """Marker and interval of one model, with its name for a pointer."""
    auroc, without = row.metrics["auroc"], math.isinf(row.epsilon)
    colour, marker = drawing.series(starts.index(_kind(row)))
    drawing.mark(
        axes,
        x,
        auroc,
        colour=colour,
        marker="x" if without and not row.is_private else marker,
        hollow=without and row.is_private,
        words=f"{row.name}: AUROC {interval(auroc)}, ε {epsilon(row.epsilon)}",
    )


def _kind(row: Row) -> str:
    """What the weights were before the run, and of what body."""
    return f"{row.start}, {row.backbone}" if row.backbone else row.start


def _stage(row: Row) -> float:
    return row.own.own_epsilon if row.own else 0.0


def _conditions(rows: Sequence[Row]) -> str:
    stated = [row.guarantee for row in rows if row.guarantee]
    units = " or ".join(sorted({one.unit for one in stated}))
    deltas = ", ".join(f"{delta:g}" for delta in sorted({one.delta for one in stated}))
    adjacency = " or ".join(sorted({one.adjacency for one in stated}))
    return f"unit {units}, δ = {deltas}, {adjacency}"


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _bar(axes: Axes, place: int, measured: Mapping[str, float], *, exceeds: bool) -> None:
    """One measured value with its interval, on a bar as long as the bound."""
    ground = WARN if measured["bound"] >= 1 else MUTED
    bound = min(1.0, measured["bound"])
    axes.barh(place, bound, height=0.66, color=ground, alpha=VEIL, linewidth=0)
    colour = WARN if exceeds else SERIES[0]
    axes.plot([measured["low"], measured["high"]], [place, place], color=colour)
    (drawn,) = axes.plot([measured["value"]], [place], **drawing.look(colour, "o"))
    drawn.set_clip_on(False)


def _square(entries: int, across: str, up: str) -> tuple[Figure, Axes]:
    """A square of shares against shares, with its diagonal and room for a legend."""
    figure = drawing.new_figure(_SQUARE, 360 + drawing.legend_height(entries))
    axes = figure.subplots()
    axes.set_box_aspect(1)
    axes.set_anchor("N")
    shares = [tick / 5 for tick in range(6)]
    for limit, set_ticks in ((axes.set_xlim, axes.set_xticks), (axes.set_ylim, axes.set_yticks)):
        limit(0, 1)
        set_ticks(shares, [f"{share:g}" for share in shares])
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.4, linestyle=DOTS)
    return figure, axes


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


def _edge(axes: Axes, points: Sequence[Point], role: str) -> None:
    """From a box through gaps to another box, given by the upper ends of all of them."""
    for (x1, y1), (x2, y2) in pairwise(points):
        bend = (y1 + _HEIGHT + y2) / 2
        corners = [(x1, y1 + _HEIGHT), (x1, bend), (x2, bend), (x2, y2)]
        codes = [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
        if y2 != points[-1][1]:
            corners.append((x2, y2 + _HEIGHT))
            codes.append(Outline.LINETO)
        axes.add_patch(PathPatch(Outline(corners, codes), fill=False, edgecolor=MUTED))
    x, y = points[-1]
    axes.add_patch(Polygon([(x - 4, y - 7), (x + 4, y - 7), (x, y)], color=MUTED, linewidth=0))
    axes.text(x + 8, y - 8, role, size=11, color=MUTED)


def _box(axes: Axes, place: Point, width: float, node: Node) -> None:
    x, y = place[0] - width / 2, place[1]
    frame = FancyBboxPatch(
        (x, y),
        width,
        _HEIGHT,
        boxstyle="round,pad=0,rounding_size=5",
        facecolor=PAPER,
        edgecolor=_FRAMES[node.kind],
    )
    drawing.tell(frame, "\n".join([node.title, *node.lines]))
    axes.add_patch(frame)
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            5,
            _HEIGHT,
            boxstyle="round,pad=0,rounding_size=2",
            facecolor=_FRAMES[node.kind],
            linewidth=0,
        )
    )
    title = drawing.shortened(node.title, width - 20, 12)
    axes.text(x + 14, y + 20, title, size=12, weight="bold")
    for number, line in enumerate(node.lines[:2]):
        words = drawing.shortened(line, width - 20, 11)
        axes.text(x + 14, y + 37 + 15 * number, words, size=11, color=MUTED)
