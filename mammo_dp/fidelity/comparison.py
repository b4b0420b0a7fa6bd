# SPDX-License-Identifier: Apache-2.0
"""All measures of all sources against real crops, at equal numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.progress import watched
from mammo_dp.fidelity.agreement import STUDENTS
from mammo_dp.fidelity.copying import (
    FALSE_POSITIVE_RATE,
    Copying,
    Gallery,
    copying_of,
    gallery,
    pixels,
)
from mammo_dp.fidelity.distances import NEIGHBOURS
from mammo_dp.fidelity.features import Extractor
from mammo_dp.fidelity.measures import (
    Scores,
    in_features,
    in_labels,
    in_pairs,
    in_public_features,
    in_spectrum,
)
from mammo_dp.fidelity.results import draw_sheet
from mammo_dp.fidelity.samples import (
    LEVEL,
    FidelityError,
    Samples,
    real_halves,
    synthetic_parts,
)

SCHEMA = 4  # of fidelity.json
_TRIES = 100  # of the control; with two patients of a class five of nine fail
NOTICE = (
    "Computed from the real crops without noise: no epsilon covers these numbers, the figure or "
    "the sheets. Keep them inside, and choose no checkpoint or setting of a private generator by "
    "them."
)
_COPY_RULE = (
    "copies is true if the probability of such an excess of closeness to training patients, were "
    "they interchangeable with held-out ones of equally many crops, is at most "
    f"{FALSE_POSITIVE_RATE / 2:g} in features or in pixels. Of generators that copy nobody at most "
    f"{FALSE_POSITIVE_RATE:g} are flagged, if patients were split at random."
)


def compare(
    train: Samples,
    test: Samples,
    sources: Mapping[str, Samples],
    extractor: Extractor,
    *,
    public: Extractor | None,
    draws: int,
    seeds: int,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """All measures of all sources as plain values, the content of ``fidelity.json``.

    Args:
        train: Real crops that sources are compared with.
        test: Real crops of other patients.
        sources: Synthetic crops by name.
        extractor: Feature space of all measures that need one.
        public: Space of two further distances, if its weights are there.
        draws: Draws of halves.
        seeds: Draws of training crops.
        seed: Start of all draws.
        folder: Where a sheet of nearest crops is written for each source.
    """
    available = [samples.per_class for samples in sources.values()]
    halves = real_halves(train, available, draws=draws, least=NEIGHBOURS + 1, seed=seed)
    drawn = {name: synthetic_parts(samples, halves, seed=seed) for name, samples in sources.items()}
    spaces = {"features": extractor.features, "pixels": pixels}
    galleries = {name: gallery(train, test, space) for name, space in spaces.items()}
    control = _copies(_control(galleries, draws=draws, seed=seed))
    features = {name: extractor.features(samples.images) for name, samples in sources.items()}
    real_features = galleries["features"].views[0][: len(train)]

    labels, differences, numbers = in_labels(train, test, sources, seeds=seeds, seed=seed)
    parts: list[Mapping[str, Scores]] = [
        in_features(real_features, features, halves, drawn),
        in_spectrum(train, sources, halves, drawn),
        in_pairs(train, sources, seed=seed),
        labels,
    ]
    if public is not None:
        theirs = {name: public.features(samples.images) for name, samples in sources.items()}
        parts.append(in_public_features(public.features(train.images), theirs, halves, drawn))
    found: dict[str, Any] = {}
    real_images = np.concatenate([train.images, test.images])
    for name, samples in watched(list(sources.items()), "Looking for copies"):
        at = {"features": features[name], "pixels": pixels(samples.images)}
        copies = {
            space: copying_of(at[space], samples.malignant, real, draws=draws, seed=seed)
            for space, real in galleries.items()
        }
        found[name] = {
            "crops": len(sources[name]),
            "scores": {k: _plain(asdict(v)) for part in parts for k, v in part[name].items()},
            "copying": _copies(copies),
        }
        path = folder / f"nearest_{name}.png"
        draw_sheet(path, samples, at["features"], real_images, galleries["features"], title=name)
    return {
        **_conditions(extractor, real_features.shape[1], halves.crops, draws),
        "public": None if public is None else {"name": public.name, "sha256": public.sha256},
        "crops_of_a_half": dict(zip(("benign", "malignant"), halves.per_class, strict=True)),
        "agreement_crops": numbers,
        "real": {"crops": len(train), "patients": train.patients, "copying": control},
        "sources": found,
        "tstr_differences": {
            student: {pair: _plain(asdict(value)) for pair, value in pairs.items()}
            for student, pairs in differences.items()
        },
    }


def _conditions(extractor: Extractor, dimension: int, crops: int, draws: int) -> dict[str, Any]:
    """What must be known to read the numbers."""
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "dimension": dimension,
        },
        "classifiers": {name: student.words for name, student in STUDENTS.items()},
        "level": LEVEL,
        "draws": draws,
        "neighbours": NEIGHBOURS,
        "covariance": "sample" if crops > dimension else "Ledoit-Wolf",
        "copy_rule": _COPY_RULE,
    }


def _control(
    galleries: Mapping[str, Gallery], *, draws: int, seed: int
) -> dict[str, dict[str, Copying]]:
    """The copying test on real crops of a third of the training patients, which copy nobody.

    They play the generator; the other training patients and the held-out ones stay.
    """
    plays = players(galleries["features"], seed)
    controls = {}
    for space, real in galleries.items():
        row = plays[real.patient]
        rest, ids = ~row, np.flatnonzero(~plays)
        controls[space] = copying_of(
            real.views[0][row],
            real.malignant[row],
            Gallery(
                views=tuple(view[rest] for view in real.views),
                malignant=real.malignant[rest],
                patient=np.searchsorted(ids, real.patient[rest]),
                is_training=real.is_training[ids],
            ),
            draws=draws,
            seed=seed,
        )
    return controls


def players(real: Gallery, seed: int) -> NDArray[np.bool_]:
    """About a third of the training patients, with crops of both classes on either side.

    Raises:
        FidelityError: If there are too few patients of a class for that.
    """
    rng = np.random.default_rng(seed)
    is_training = real.is_training[real.patient]
    for _ in range(_TRIES):
        plays = (rng.random(len(real.is_training)) < 1 / 3) & real.is_training
        row = plays[real.patient]
        sides = (row, is_training & ~row)
        if all(len(set(real.malignant[side].tolist())) == 2 for side in sides):
            return plays
    raise FidelityError(
        f"{real.is_training.sum()} training patients do not give a third of them with crops of "
        "both classes, as the control of the copying test needs. Give more patients."
    )


def _copies(found: Mapping[str, Mapping[str, Copying]]) -> dict[str, Any]:
    p_values = [by_class["all"].p_value for by_class in found.values()]
    return {
        "copies": min(p_values) <= FALSE_POSITIVE_RATE / len(p_values),
        **{
            space: {group: _plain(asdict(value)) for group, value in by_class.items()}
            for space, by_class in found.items()
        },
    }


def _plain(value: Any) -> Any:  # noqa: ANN401  a tree of plain values, with None for NaN
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
