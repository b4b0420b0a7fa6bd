# SPDX-License-Identifier: Apache-2.0
"""`fidelity`: synthetic sources against real crops, in one feature space at equal numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import CropsManifest, Split
from mammo_dp.fidelity.agreement import CLASSIFIER
from mammo_dp.fidelity.copying import FALSE_ALARM, Copying
from mammo_dp.fidelity.extractors import Extractor, choose
from mammo_dp.fidelity.figure import draw_figure
from mammo_dp.fidelity.halves import LEVEL, matched, real_halves, synthetic_halves
from mammo_dp.fidelity.manifold import NEIGHBOURS
from mammo_dp.fidelity.measures import Scores, in_features, in_labels, in_pairs, in_spectrum
from mammo_dp.fidelity.nearest import Gallery, copying_of, gallery, pixels
from mammo_dp.fidelity.samples import FidelityError, Samples
from mammo_dp.fidelity.sheet import draw_sheet
from mammo_dp.fidelity.tables import print_table
from mammo_dp.runs import close_run, open_run, read_run, run_of, write_text_atomically

RESULT = "fidelity.json"
NOTICE = (
    "Computed from the real crops without noise: no epsilon covers these numbers, the figure or "
    "the sheets. Keep them inside, and choose no checkpoint or setting of a private generator by "
    "them."
)
_COPY_RULE = (
    f"copies is true if the chance of such an excess of closeness to training patients, were they "
    f"interchangeable with held-out ones, is at most {FALSE_ALARM / 2:g} in features or in pixels: "
    f"at most {FALSE_ALARM:g} false alarms"
)


def fidelity(
    *,
    real: str,
    synthetic: str | dict[str, str],
    out: str,
    encoder: str | None = None,
    timm: str | None = None,
    weights: str | None = None,
    train_split: Split = "train",
    test_split: Split = "val",
    draws: int = 100,
    seeds: int = 5,
    seed: int = 0,
) -> None:
    """Compares synthetic crops with real ones: distance, overlap, diversity, labels, copies.

    Writes fidelity.json, fidelity.png and, for each source, a sheet of synthetic crops beside their
    nearest training crops, and prints a table. All of it is computed from private crops without
    noise, and no epsilon covers it.

    Args:
        real: Folder of the real crops.
        synthetic: Folder of synthetic crops; or several by name, as --synthetic.MCGAN DIR
            --synthetic.phantoms DIR, compared in one table at equal numbers of crops.
        out: New folder of the result.
        encoder: Checkpoint of a crop classifier whose body gives the features. It must be trained
            on none of the crops compared. If neither it nor timm is given: a small network trained
            on phantoms, made on first use in about a minute and kept in the user's cache
            (MAMMO_DP_CACHE).
        timm: Name of a timm model whose body gives the features.
        weights: File with weights of the timm model; from the hub if not given.
        train_split: Real crops that sources are compared with, and that a generator may have seen.
        test_split: Real crops of other patients, never seen by a generator: they test agreement
            and are the hold-out of the copying test.
        draws: Draws of halves for values and intervals, at least 20.
        seeds: Draws of the training crops for agreement, > 0.
        seed: Start of all draws.
    """
    folders = {"synthetic": synthetic} if isinstance(synthetic, str) else dict(synthetic)
    if not folders or draws < 20 or seeds < 1 or train_split == test_split:
        raise FidelityError(
            f"{len(folders)} sources, {draws=}, {seeds=}, {train_split=}, {test_split=}. Give a "
            "source, at least 20 draws, at least 1 seed and two different splits."
        )
    manifests = {name: CropsManifest.read(folder) for name, folder in folders.items()}
    record = open_run(
        out,
        command="fidelity",
        config={
            "real": real,
            "synthetic": folders,
            "encoder": encoder,
            "timm": timm,
            "weights": weights,
            "train_split": train_split,
            "test_split": test_split,
            "draws": draws,
            "seeds": seeds,
        },
        inputs={"real": Path(real)}
        | {f"synthetic {name}": Path(folder) for name, folder in folders.items()}
        | ({"encoder": Path(encoder)} if encoder else {})
        | ({"weights": Path(weights)} if weights else {}),
        seed=seed,
    )
    folder = record.folder
    if not record.is_finished:
        cohort = CropsManifest.read(real)
        if encoder:
            _require_foreign(encoder, {cohort.sha256, *(m.sha256 for m in manifests.values())})
        train, test = (Samples.of_manifest(cohort, split) for split in (train_split, test_split))
        extractor = choose(train.images.shape[-1], encoder=encoder, timm=timm, weights=weights)
        sources = {name: Samples.of_manifest(found) for name, found in manifests.items()}
        _require_one_size(train, sources)
        result = compare(
            train, test, sources, extractor, draws=draws, seeds=seeds, seed=seed, folder=folder
        )
        result["real"] |= {"manifest": cohort.sha256, "train": train_split, "test": test_split}
        for name, found in manifests.items():
            result["sources"][name]["manifest"] = found.sha256
        draw_figure(result, folder / "fidelity.png")
        write_text_atomically(folder / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")
        close_run(record)
    print_table(json.loads((folder / RESULT).read_text()), folder)


def compare(
    train: Samples,
    test: Samples,
    sources: Mapping[str, Samples],
    extractor: Extractor,
    *,
    draws: int,
    seeds: int,
    seed: int,
    folder: Path | None = None,
) -> dict[str, Any]:
    """All measures of all sources as plain values, the content of ``fidelity.json``.

    Args:
        train: Real crops that sources are compared with.
        test: Real crops of other patients.
        sources: Synthetic crops by name.
        extractor: Feature space.
        draws: Draws of halves.
        seeds: Draws of training crops.
        seed: Start of all draws.
        folder: Where a sheet of nearest crops is written for each source, if given.
    """
    available = [samples.per_class for samples in sources.values()]
    halves = real_halves(train, available, draws=draws, least=NEIGHBOURS + 1, seed=seed)
    used = {name: matched(samples, halves, seed=seed) for name, samples in sources.items()}
    drawn = {name: synthetic_halves(samples, halves, seed=seed) for name, samples in used.items()}

    galleries = {
        "features": gallery(train, test, extractor.features),
        "pixels": gallery(train, test, pixels),
    }
    features = {name: extractor.features(samples.images) for name, samples in used.items()}
    real_features = galleries["features"].views[0][: len(train)]
    labels, differences, numbers = in_labels(train, test, sources, seeds=seeds, seed=seed)
    parts: list[Mapping[str, Scores]] = [
        in_features(real_features, features, halves, drawn),
        in_spectrum(train, used, halves, drawn),
        in_pairs(train, used, seed=seed),
        labels,
    ]
    found: dict[str, Any] = {}
    for name, samples in used.items():
        spaces = {"features": features[name], "pixels": pixels(samples.images)}
        copies = {
            space: copying_of(at, samples.malignant, galleries[space], draws=draws, seed=seed)
            for space, at in spaces.items()
        }
        found[name] = {
            "crops": len(sources[name]),
            "scores": {k: _plain(asdict(v)) for part in parts for k, v in part[name].items()},
            "copying": _copies(copies),
        }
        if folder:
            draw_sheet(
                folder / f"nearest_{name}.png",
                samples,
                spaces["features"],
                np.concatenate([train.images, test.images]),
                galleries["features"],
                title=name,
            )
    control = _control(train, galleries, draws=draws, seed=seed)
    return {
        "schema": 1,
        "notice": NOTICE,
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "dimension": real_features.shape[1],
        },
        "classifier": CLASSIFIER,
        "level": LEVEL,
        "draws": draws,
        "neighbours": NEIGHBOURS,
        "covariance": "sample" if halves.crops > real_features.shape[1] else "Ledoit-Wolf",
        "crops_of_a_half": dict(zip(("benign", "malignant"), halves.per_class, strict=True)),
        "agreement_crops": numbers,
        "copy_rule": _COPY_RULE,
        "real": {"crops": len(train), "patients": train.patients, "copying": _copies(control)},
        "sources": found,
        "tstr_differences": {pair: _plain(asdict(value)) for pair, value in differences.items()},
    }


def _control(
    train: Samples, galleries: Mapping[str, Gallery], *, draws: int, seed: int
) -> dict[str, dict[str, Copying]]:
    """The copying test on real crops of a third of the training patients, which copy nobody.

    They play the generator; the other training patients and the held-out ones stay.
    """
    third = np.random.default_rng(seed).random(len(galleries["features"].is_training)) < 1 / 3
    controls = {}
    for space, real in galleries.items():
        plays = third & real.is_training
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


def _copies(found: Mapping[str, Mapping[str, Copying]]) -> dict[str, Any]:
    chances = [by_class["all"].p_value for by_class in found.values()]
    return {
        "copies": min(chances) <= FALSE_ALARM / len(chances),
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


def _require_foreign(encoder: str, compared: set[str]) -> None:
    """Refuses features of a network that learned from the crops it would compare."""
    folder = run_of(encoder)
    read = {} if folder is None else {k: v.sha256 for k, v in read_run(folder).inputs.items()}
    if seen := sorted(role for role, digest in read.items() if digest in compared):
        raise FidelityError(
            f"{encoder}: was trained on crops that are compared here ({', '.join(seen)}), so its "
            "features are nearer to them than to others. Give an encoder of other crops."
        )


def _require_one_size(train: Samples, sources: Mapping[str, Samples]) -> None:
    size = train.images.shape[-1]
    if other := {k: v.images.shape[-1] for k, v in sources.items() if v.images.shape[-1] != size}:
        raise FidelityError(
            f"Real crops have {size} px, {other} have another size. Prepare all at one size: "
            "resizing would change spectrum and distances."
        )
