# SPDX-License-Identifier: Apache-2.0
"""Controllability: what was asked of a generator against what is measured on its crops.

Numbers by correlation: the size of the mass by its area above a threshold. Categories by chance-
corrected agreement with a reader: a kernel machine that learned each attribute from phantoms, on a
descriptor that no generator was matched to. A generator that ignores what it is asked for has 0.
How well attributes can be read at all is seen on other phantoms, whose attributes are known: their
value is the ceiling.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate, percentiles, resampled_weights
from data_prep.crop_image import plane_of
from data_prep.manifest import Crop
from data_prep.phantoms.crops import phantom_cases, phantom_stream
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.phantoms.tomosynthesis import draw_volume
from data_prep.progress import watched
from gan.conditions import LEVELS, MALIGNANCY, NUMBERS, level_of
from mammo_dp.fidelity.agreement import STUDENTS, kernel_machine
from mammo_dp.fidelity.samples import LEVEL, Images, Rows, Samples

Floats = NDArray[np.float64]
Words = Sequence[str | None]  # by crop; none where an attribute is unknown

CLASS = "malignancy"
WORDS = (
    "Asked against measured. Malignancy and descriptors: Cohen's kappa with what a support vector "
    "machine reads off the crop, which learned from phantoms; size_share: correlation with the "
    "root of the area of the mass above a threshold. 0 is a generator that ignores what it is "
    "asked for; the ceiling is the same on phantoms that the reader has not seen. Intervals "
    "resample crops, those of one patient together."
)
# Phantoms of each class that teach the reader, and others for the ceiling, far from users' seeds.
TAUGHT, JUDGED = 400, 250
TAUGHT_VOLUMES, JUDGED_VOLUMES = 150, 100
_TAUGHT_SEED, _JUDGED_SEED = 30_000, 40_000
POPULATION = PhantomParameters()
_RESAMPLES = 1000
_EDGE, _THRESHOLDS, _PRIOR = 32, 15, 0.25  # pixels; tried; standard deviation in edges of a crop
_RIM, _LEAST, _MOST = 0.42, 0.02, 0.75  # from where tissue is; area of a mass, in crops


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How one attribute of one source follows what was asked for.

    Attributes:
        found: Correlation or kappa, at most 1, with its interval.
        crops: Crops of which the attribute was asked.
    """

    found: Estimate
    crops: int


def controllability(
    sources: Mapping[str, tuple[Samples, Sequence[Crop]]], *, depth: int | None, seed: int
) -> dict[str, Any]:
    """Asked against measured for each attribute that a source varies, as plain values.

    Args:
        sources: Crops of each source in the plane, and their rows, which say what was asked for.
        depth: Slices of the volumes that the crops are the middle of, if they are.
        seed: Of the resamples.
    """
    size = next(iter(sources.values()))[0].images.shape[-1]
    reader = _reader(size, depth)
    asked = {
        source: {name: words for name in reader.ceiling if varies(words := asked_of(crops, name))}
        for source, (_, crops) in sources.items()
    }
    found = {
        source: {
            name: followed(name, words[name], measured, sources[source][0].patient, seed=seed)
            for name, measured in reader.read(words, sources[source][0].images).items()
        }
        for source, words in watched(list(asked.items()), "Reading off what was asked for")
    }
    attributes = {
        name: {
            "measure": "correlation" if name in NUMBERS else "kappa",
            "ceiling": asdict(ceiling),
            "sources": {source: asdict(own[name]) for source, own in found.items() if name in own},
        }
        for name, ceiling in reader.ceiling.items()
        if any(name in own for own in found.values())
    }
    return {"words": WORDS, "attributes": attributes}


def varies(words: Words) -> bool:
    """Whether crops were asked for different things."""
    return len({*words} - {None}) > 1


def asked_of(crops: Sequence[Crop], name: str) -> list[str | None]:
    """Level or number of an attribute by crop; none where it was not asked for."""
    if name == CLASS:
        return [MALIGNANCY[crop.malignant] for crop in crops]
    return [level_of(crop, name) for crop in crops]


def followed(
    name: str, asked: Words, measured: Sequence[str] | Floats, unit: Rows, *, seed: int
) -> Control:
    """Correlation or kappa of asked and measured, with an interval over patients or crops.

    Args:
        name: The attribute.
        asked: By crop.
        measured: By crop, as a reader read it.
        unit: By crop, an integer per patient; a synthetic crop is one of its own.
        seed: Of the resamples.
    """
    rows = [row for row, word in enumerate(asked) if word is not None]
    words = [word for word in asked if word is not None]
    rng = np.random.default_rng(seed)
    counts = resampled_weights(unit[rows], _RESAMPLES, rng).astype(float)
    weights = np.concatenate([np.ones((1, len(rows))), counts])
    kept = [measured[row] for row in rows]
    if name in NUMBERS:
        values = correlations(np.array(words, np.float64), np.array(kept, np.float64), weights)
    else:
        values = kappas(words, kept, weights)
    return Control(found=percentiles(values, LEVEL), crops=len(rows))


def correlations(asked: Floats, measured: Floats, weights: Floats) -> Floats:
    """Pearson's correlation for each row of weights.

    Args:
        asked: Shape ``(N,)``.
        measured: Shape ``(N,)``.
        weights: Shape ``(R, N)``, each row of a sum above 0.

    Returns:
        Shape ``(R,)``; 0 where one of the two does not vary, since nothing is followed then.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    one, other = (values - (share @ values)[:, None] for values in (asked, measured))
    joint = (share * one * other).sum(axis=1)
    product = (share * one**2).sum(axis=1) * (share * other**2).sum(axis=1)
    varies = product > 1e-18
    return np.where(varies, joint / np.sqrt(np.where(varies, product, 1)), 0.0)


def kappas(asked: Sequence[str], measured: Sequence[str], weights: Floats) -> Floats:
    """Cohen's kappa for each row of weights: agreement beyond that of independent words.

    Args:
        asked: Words by crop.
        measured: Words by crop.
        weights: Shape ``(R, N)``, each row of a sum above 0.

    Returns:
        Shape ``(R,)``, at most 1; 0 where only one word is left.

    Source: Cohen 1960, Educational and Psychological Measurement 20:37.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    words = sorted({*asked, *measured})
    one, other = (
        share @ np.array([[word == level for level in words] for word in given], float)
        for given in (asked, measured)
    )
    agreed = share @ np.array([a == b for a, b in zip(asked, measured, strict=True)], float)
    expected = (one * other).sum(axis=1)
    varies = expected < 1 - 1e-9
    return np.where(varies, (agreed - expected) / np.where(varies, 1 - expected, 1), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads attributes off crops.

    Attributes:
        machines: Of each category: maps descriptions ``(N, d)`` to words.
        ceiling: Of each attribute: how phantoms that taught nothing follow their own.
    """

    machines: Mapping[str, Callable[[Floats], NDArray[np.str_]]]
    ceiling: Mapping[str, Control]

    def read(self, names: Iterable[str], images: Images) -> dict[str, Sequence[str] | Floats]:
        """Attributes as measured on crops ``(N, size, size)`` in ``[0, 1]``, by name."""
        numbers = STUDENTS["machine"].describe(images)
        return {
            name: mass_shares(images) if name in NUMBERS else self.machines[name](numbers).tolist()
            for name in names
        }


@functools.cache
def _reader(size: int, depth: int | None) -> Reader:
    """The reader of crops of one size, or of middle slices; some seconds of drawing."""
    taught, judged = (TAUGHT, JUDGED) if depth is None else (TAUGHT_VOLUMES, JUDGED_VOLUMES)
    images, known = _phantoms(taught, size, depth, seed=_TAUGHT_SEED)
    numbers = STUDENTS["machine"].describe(images)
    machines = {
        name: kernel_machine().fit(numbers, known[name]).predict
        for name in known.keys() - NUMBERS.keys()
    }
    others, theirs = _phantoms(judged, size, depth, seed=_JUDGED_SEED)
    measured = Reader(machines=machines, ceiling={}).read(theirs, others)
    ceiling = {
        name: followed(name, words, measured[name], np.arange(len(others)), seed=0)
        for name, words in theirs.items()
    }
    return Reader(machines=machines, ceiling=ceiling)


def _phantoms(
    per_class: int, size: int, depth: int | None, *, seed: int
) -> tuple[Images, dict[str, list[str]]]:
    """Phantoms in the plane, or middle slices of volumes, and their attributes."""
    if depth is None:
        phantoms = list(
            phantom_stream(per_class=per_class, size=size, seed=seed, parameters=POPULATION)
        )
        cases = [phantom.case for phantom in phantoms]
        images = np.stack([phantom.image for phantom in phantoms])
    else:
        cases = phantom_cases(0, 2 * per_class, seed=seed, parameters=POPULATION)
        volumes = (draw_volume(case, size=size, depth=depth) for case in cases)
        images = np.stack([plane_of(volume.slices) for volume in volumes])
    stated = [{**c.stated, "view": c.view, CLASS: MALIGNANCY[c.malignant]} for c in cases]
    names = (CLASS, *LEVELS, *NUMBERS)
    return images.astype(np.float32), {name: [one[name] for one in stated] for name in names}


def mass_shares(images: Images) -> Floats:
    """Size of the mass in the middle of each crop, by its area above a threshold.

    A plane through the tissue at the border of the crop is taken off, and what is far from the
    middle counts less. Of several thresholds the one counts at whose rim grey falls off most
    steeply, outwards from the middle, of the part that holds the middle.

    Args:
        images: Shape ``(N, size, size)``, in ``[0, 1]``.

    Returns:
        Shape ``(N,)``, root of the area in edges of a crop, in ``[0, 1]``; 0 where no part of a
        possible size holds the middle.

    Source: after Kupinski and Giger 1998, IEEE Transactions on Medical Imaging 17:510; here the
    mean derivative along the rim, not its share of the gradient, decides.
    """
    return np.array([_mass_share(image) for image in images])


def _mass_share(image: NDArray[np.float32]) -> float:
    small = cv2.resize(image, (_EDGE, _EDGE), interpolation=cv2.INTER_AREA)
    fall, weight, plane, border = _geometry()
    small = small - (plane @ small[border]).reshape(small.shape)
    down, across = np.gradient(small)
    slope = -(down * fall[0] + across * fall[1])
    seen = small * weight
    middle = slice(_EDGE // 2 - 2, _EDGE // 2 + 2)
    top = float(np.median(seen[middle, middle]))
    best, root = -np.inf, 0.0
    for share in np.linspace(0.05, 0.95, _THRESHOLDS):
        _, parts = cv2.connectedComponents((seen > share * top).astype(np.uint8), connectivity=4)
        own = parts[_EDGE // 2, _EDGE // 2]
        part = parts == own
        if not own or not _LEAST <= part.mean() <= _MOST:
            continue
        inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if (steep := float(slope[part & ~inner].mean())) > best:
            best, root = steep, math.sqrt(part.mean())
    return root


@functools.cache
def _geometry() -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Of a small crop: direction outwards, weight, a plane's fit to its border, and the border."""
    y, x = (np.mgrid[:_EDGE, :_EDGE] + 0.5) / _EDGE - 0.5
    radius = np.hypot(y, x)
    border = radius > _RIM
    columns = np.stack([np.ones_like(x), x, y], axis=-1)
    plane = columns.reshape(-1, 3) @ np.linalg.pinv(columns[border])
    weight = np.exp(-0.5 * (radius / _PRIOR) ** 2)
    return np.stack([y, x]) / radius, weight, plane, border
