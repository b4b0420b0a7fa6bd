# SPDX-License-Identifier: Apache-2.0
"""`fidelity`: folders of synthetic crops against a folder of real ones, into a run folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from data_prep.manifest import CropsManifest, Split
from mammo_dp.fidelity.comparison import SCHEMA, compare
from mammo_dp.fidelity.controllability import controllability
from mammo_dp.fidelity.features import choose, public_space
from mammo_dp.fidelity.results import draw_blind_sheet, draw_figure, print_table
from mammo_dp.fidelity.samples import FidelityError, Samples
from mammo_dp.privacy.statement.document import read_evidence
from mammo_dp.runs import (
    RunRecord,
    read_run,
    run_folder,
    run_of,
    write_text_atomically,
)

RESULT = "fidelity.json"


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
    blind: int = 8,
    seed: int = 0,
) -> None:
    """Compares synthetic crops with real ones: distance, overlap, diversity, labels, copies.

    Writes fidelity.json, fidelity.png, a sheet of real and synthetic crops in random order for a
    reader's eye, and, for each source, a sheet of synthetic crops beside their nearest training
    crops, and prints a table. All of it is computed from private crops without
    noise, and no epsilon covers it.
    Distances are taken in two feature spaces: the one chosen below, and beside it the middle of
    EfficientNet-Lite0, trained on ImageNet, where the extra `imagenet` is installed. A generator
    that was trained against public features is to be judged by the other one too.
    What was asked of a generator is compared with what is measured on its crops, attribute by
    attribute, beside the same on phantoms.
    Volumes are compared by their middle slices.
    There is no radiomics distance, since pyradiomics has no release that builds on this Python;
    texture counts in the features and in what agreement is learned from. Agreement is that of two
    classifiers: a kernel machine, and the default classifier of this package.

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
        blind: Crops of each source and of real patients in blind.png, which shows them in random
            order without labels; blind_key.csv says which is which. 0 leaves both out, else at
            least 2.
        seed: Start of all draws.
    """
    folders = {"synthetic": synthetic} if isinstance(synthetic, str) else dict(synthetic)
    if (
        not folders
        or draws < 20
        or seeds < 1
        or train_split == test_split
        or blind < 0
        or blind == 1
    ):
        raise FidelityError(
            f"{len(folders)} sources, {draws=}, {seeds=}, {train_split=}, {test_split=}, {blind=}. "
            "Give a source, at least 20 draws, at least 1 seed, two different splits, and 0 or at "
            "least 2 crops of each source for the blind sheet."
        )
    if odd := [name for name in folders if not re.fullmatch(r"[\w.-]+", name)]:
        raise FidelityError(f"Sources {odd}: a name becomes part of a file's; use letters, digits.")
    manifests = {name: CropsManifest.read(folder) for name, folder in folders.items()}
    with run_folder(
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
            "blind": blind,
        },
        inputs={"real": Path(real)}
        | {f"synthetic {name}": Path(folder) for name, folder in folders.items()}
        | ({"encoder": Path(encoder)} if encoder else {})
        | ({"weights": Path(weights)} if weights else {}),
        seed=seed,
    ) as record:
        if not record.is_finished:
            _fill(record, CropsManifest.read(real), manifests)
        path = record.folder / RESULT
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA:
            raise FidelityError(
                f"{path}: has schema {stored['schema']}, known is {SCHEMA}. Compare again, into a "
                "new folder."
            )
        print_table(stored, record.folder)


def _fill(record: RunRecord, cohort: CropsManifest, found: Mapping[str, CropsManifest]) -> None:
    """Compares and writes the files of the run."""
    asked, folder = record.config, record.folder
    if asked["encoder"]:
        compared = {cohort.sha256, *(manifest.sha256 for manifest in found.values())}
        _require_foreign(asked["encoder"], compared)
    for manifest in found.values():
        manifest.require_depth(cohort.depth)
    train = Samples.of_manifest(cohort, asked["train_split"])
    test = Samples.of_manifest(cohort, asked["test_split"])
    sources = {name: Samples.of_manifest(manifest) for name, manifest in found.items()}
    _require_one_size(train, sources)
    spaces = {name: asked[name] for name in ("encoder", "timm", "weights")}
    size = train.images.shape[-1]
    result = compare(
        train,
        test,
        sources,
        choose(size, **spaces),
        public=public_space(size),
        draws=asked["draws"],
        seeds=asked["seeds"],
        seed=record.seed or 0,
        folder=folder,
    )
    result["real"] |= {
        "manifest": cohort.sha256,
        "train": asked["train_split"],
        "test": asked["test_split"],
    }
    for name, manifest in found.items():
        result["sources"][name]["manifest"] = manifest.sha256
    asked_for = {name: (samples, found[name].crops) for name, samples in sources.items()}
    result["slices"] = cohort.depth
    result["controllability"] = controllability(
        asked_for, depth=cohort.depth, seed=record.seed or 0
    )
    draw_figure(result, folder / "fidelity.png")
    if asked["blind"]:
        draw_blind_sheet(
            folder / "blind.png",
            folder / "blind_key.csv",
            {"real": test, **sources},
            per_source=asked["blind"],
            seed=record.seed or 0,
        )
    write_text_atomically(folder / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")


def _require_foreign(encoder: str, compared: set[str]) -> None:
    """Refuses features of a network that learned, at any stage, from what it would compare.

    Stages before the last are known by the evidence of the statement, for patients' crops alone.
    """
    folder = run_of(encoder)
    if folder is None:
        return
    seen = {entry.sha256 for entry in read_run(folder).inputs.values()}
    if (evidence := read_evidence(folder)) is not None:
        seen |= {known["manifest_sha256"] for known in evidence["cohorts"] if known}
    if seen & compared:
        raise FidelityError(
            f"{encoder}: was trained on crops that are compared here, so its features are nearer "
            "to them than to others. Give an encoder of other crops."
        )


def _require_one_size(train: Samples, sources: Mapping[str, Samples]) -> None:
    size = train.images.shape[-1]
    if other := {k: v.images.shape[-1] for k, v in sources.items() if v.images.shape[-1] != size}:
        raise FidelityError(
            f"Real crops have {size} px, {other} have another size. Prepare all at one size: "
            "resizing would change spectrum and distances."
        )
