# SPDX-License-Identifier: Apache-2.0
"""How well a few models rank and how honest their probabilities are: two small squares."""

from collections.abc import Sequence

from classifier.predictions import Predictions
from mammo_dp.report.diagnosis import LEAST_CROPS, calibration_bins, roc_curve
from mammo_dp.report.drawings.svg import (
    SERIES,
    SHAPES,
    Drawing,
    Entry,
    Scale,
    legend,
    legend_height,
    x_axis,
    y_axis,
)

_WIDTH, _TOP, _LEFT, _SIDE = 370.0, 14.0, 58.0, 300.0
_SHARES = [(tick / 5, f"{tick / 5:g}") for tick in range(6)]

Named = Sequence[tuple[str, Predictions]]


def receiver_operating_characteristic(models: Named) -> str | None:
    """Sensitivity against false-positive rate; the first model has a band.

    Args:
        models: Words for the legend and predictions of one split, most important first.

    Returns:
        SVG, or none without models.
    """
    if not models:
        return None
    entries = [
        (f"s{place % SERIES} bold", "line", False, words) for place, (words, _) in enumerate(models)
    ]
    entries.append(("s0 full veil", "area", False, "95 % of resamples of patients"))
    drawing, x, y = _square(entries, "false-positive rate", "true-positive rate")
    curves = [roc_curve(predictions) for _, predictions in models]
    band = [(x(f), y(t)) for f, t in zip(curves[0].fpr, curves[0].high, strict=True)]
    band += [(x(f), y(t)) for f, t in zip(curves[0].fpr, curves[0].low, strict=True)][::-1]
    drawing.area(band, "s0 veil")
    drawing.line((x(0), y(0)), (x(1), y(1)), "muted dots")
    for place, curve in reversed(list(enumerate(curves))):
        points = [(x(0), y(0))]
        points += [(x(f), y(t)) for f, t in zip(curve.fpr, curve.tpr, strict=True)]
        drawing.polyline(points, f"s{place % SERIES} bold")
    described = f"Receiver operating characteristic of {'; '.join(words for words, _ in models)}."
    return drawing.svg("roc", "Sensitivity against false-positive rate", described)


def calibration(models: Named) -> str | None:
    """Observed share of malignant crops against the stated probability.

    Args:
        models: Words for the legend and predictions of one split, most important first.

    Returns:
        SVG, or none without a model that scored at least ``LEAST_CROPS`` crops.
    """
    models = [(words, one) for words, one in models if len(one.row) >= LEAST_CROPS]
    if not models:
        return None
    entries = [
        (f"s{place % SERIES}", SHAPES[place % SERIES], False, words)
        for place, (words, _) in enumerate(models)
    ]
    entries.append(("muted dots", "line", False, "probabilities that are kept"))
    drawing, x, y = _square(entries, "stated probability of malignancy", "share malignant")
    drawing.line((x(0), y(0)), (x(1), y(1)), "muted dots")
    described = []
    for place, (words, predictions) in reversed(list(enumerate(models))):
        css, bins = f"s{place % SERIES}", calibration_bins(predictions)
        points = [(x(p), y(o)) for p, o in zip(bins.stated, bins.observed, strict=True)]
        drawing.polyline(points, f"{css} faint")
        for (at, height), low, high, crops in zip(
            points, bins.low, bins.high, bins.crops, strict=True
        ):
            start = drawing.count
            if place == 0:
                drawing.line((at, y(low)), (at, y(high)), css)
            drawing.marker(SHAPES[place % SERIES], (at, height), css)
            drawing.titled(f"{words}: {crops} crops", start)
        described.append(f"{words}: {len(bins.stated)} bins")
    return drawing.svg(
        "calibration", "Share of malignant crops against probability", "; ".join(described[::-1])
    )


def _square(entries: Sequence[Entry], across: str, up: str) -> tuple[Drawing, Scale, Scale]:
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    drawing = Drawing(bottom + 58 + legend_height(entries, columns=1), _WIDTH)
    x = Scale(low=0, high=1, start=_LEFT, end=right)
    y = Scale(low=0, high=1, start=bottom, end=_TOP)
    y_axis(drawing, y, left=_LEFT, right=right, ticks=_SHARES, title=up)
    x_axis(drawing, x, top=_TOP, bottom=bottom, ticks=_SHARES, title=across)
    legend(drawing, bottom + 68, _LEFT + 8, entries, columns=1)
    return drawing, x, y
