# SPDX-License-Identifier: Apache-2.0
"""The same patients under other names: what statements make of them, from crops to epsilon."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.population import Electorate
from mammo_dp.privacy.statement.cohort import Cohort, CohortEvidence
from mammo_dp.privacy.statement.document import covering_ledger, write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.seals import KEY_VARIABLE
from mammo_dp.privacy.training.sampling import PoissonSampling
from tests.fixtures import write_cohort

DELTA = 1e-3
NOISY = Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=10)
Change = Callable[[NDArray[np.uint16]], NDArray[np.uint16]]


def resized(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return cv2.resize(pixels, (33, 33), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


CHANGES: dict[str, Change] = {
    "as they were": lambda pixels: pixels,
    "in 8 bits": lambda pixels: pixels // 257 * 257,
    "dimmer": lambda pixels: pixels // 3 + 5000,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "resized": resized,
}


def saved_again(
    cohort: CropsManifest, folder: Path, change: Change, *, patients: Iterable[str], **names: str
) -> CropsManifest:
    """Crops of some patients, saved anew under other names."""
    rows = []
    for i, crop in enumerate(cohort.crops):
        if crop.patient_id in patients:
            pixels = np.ascontiguousarray(change(cohort.image(i)))
            rows.append(
                replace(
                    crop,
                    file=f"other/{i}.png",
                    image_id=f"other {i}",
                    sha256=save_crop_image(folder / f"other/{i}.png", pixels),
                    fingerprint=fingerprint(pixels),
                    **{"patient_id": f"N{crop.patient_id}", **names},  # type: ignore[arg-type]
                )
            )
    return CropsManifest.write(folder, rows)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    return write_cohort(tmp_path_factory.mktemp("ours"))


ALL = [f"P{i:03d}" for i in range(6)]


def epsilons(*accesses: Access) -> list[float]:
    return [statement.epsilon for statement in PrivacyLedger().plus(*accesses).statements(DELTA)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_crops_under_other_names_compose(
    ours: CropsManifest, tmp_path: Path, change: Change
) -> None:
    theirs = saved_again(ours, tmp_path, change, patients=ALL, origin="inbreast")
    both = (
        Access.of_training("gan", ours, "train", mechanism=NOISY, released="a"),
        Access.of_training("classifier", theirs, "train", mechanism=NOISY, released="b"),
    )
    assert both[0].cohort.overlap(both[1].cohort) == "on these patients"
    twice = compose([NOISY, NOISY]).epsilon(DELTA)
    assert epsilons(*both) == [pytest.approx(twice)] * 2
    without_dp = replace(both[0], mechanism=None)
    assert all(math.isinf(epsilon) for epsilon in epsilons(without_dp, both[1]))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_one_shared_crop_makes_a_shared_patient_and_no_count(
    ours: CropsManifest, tmp_path: Path, change: Change
) -> None:
    theirs = saved_again(ours, tmp_path, change, patients=["P001"], origin="x", patient_id="Z")
    mine, other = (Cohort.of_manifest(one, "train") for one in (ours, theirs))
    assert mine.overlap(other) == "on some of these patients"
    assert other.overlap(mine) == "on these patients"
    assert not set(mine.patients or ()) & set(other.patients or ())


@pytest.mark.parametrize("origin", ["Phantom Archive", "PHANTOM_ARCHIVE", "phantom\uff0darchive"])
def test_origins_that_differ_in_spelling_are_one(
    ours: CropsManifest, tmp_path: Path, origin: str
) -> None:
    unseen = write_cohort(tmp_path / "unseen", seed=5)  # same numbers, other crops
    crops = [replace(c, origin=origin, patient_id=c.patient_id.lower()) for c in unseen.crops]
    theirs = CropsManifest.write(unseen.folder, crops)
    mine, other = (Cohort.of_manifest(one, "train") for one in (ours, theirs))
    assert mine.overlap(other) == "on these patients"
    assert "taken to be these" in mine.overlap(Cohort.unknown(origin))


def test_strangers_do_not_touch_each_other(ours: CropsManifest, tmp_path: Path) -> None:
    theirs = write_cohort(tmp_path, seed=7, origin="inbreast")
    both = [
        Access.of_training(name, one, "train", mechanism=NOISY, released=name)
        for name, one in (("gan", ours), ("classifier", theirs))
    ]
    assert epsilons(*both) == [pytest.approx(compose([NOISY]).epsilon(DELTA))] * 2
    train, val = (Cohort.of_manifest(ours, split) for split in ("train", "val"))
    assert train.overlap(val) == ""


def test_crops_that_cannot_be_compared_are_taken_to_be_shared(
    ours: CropsManifest, tmp_path: Path
) -> None:
    mine = Cohort.of_manifest(ours, "train")
    stranger = write_cohort(tmp_path, seed=7, origin="inbreast")
    other = Cohort.of_manifest(stranger, "train")
    assert mine.overlap(other) == ""
    bare = [replace(crop, fingerprint="") for crop in stranger.crops]
    unknown = Cohort.of_manifest(CropsManifest.write(tmp_path, bare), "train")
    for one, two in ((mine, unknown), (unknown, mine), (mine, replace(other, private=None))):
        assert "could not be compared, taken to be these" in one.overlap(two)


def test_evidence_is_private_keyed_and_survives_its_file(
    ours: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Cohort.of_manifest(ours, "train")
    assert mine.private is not None
    assert CohortEvidence.from_json(mine.private.as_json()) == mine.private
    assert "private" not in mine.as_json()
    assert mine.private.manifest_sha256 == ours.sha256
    assert replace(mine, private=None) == mine
    assert "CropMark" not in repr(mine)
    monkeypatch.setenv(KEY_VARIABLE, "22" * 32)
    rekeyed = Cohort.of_manifest(ours, "train")
    assert rekeyed.private is not None
    stored = str(mine.private.as_json())
    for crop in ours.crops:
        assert crop.sha256[:16] not in stored
        assert crop.fingerprint not in stored
    ones = {m.exact for _, m in mine.private.marks()} | {m.near for _, m in mine.private.marks()}
    others = {m.exact for _, m in rekeyed.private.marks()}
    assert not ones & (others | {m.near for _, m in rekeyed.private.marks()})


def pooled(ours: CropsManifest, folder: Path, change: Change, **names: str) -> CropsManifest:
    """The cohort, and one crop of it once more under another name."""
    row = ours.rows("train")[0]
    pixels = np.ascontiguousarray(change(ours.image(row)))
    copy = replace(
        ours.crops[row],
        file="copy.png",
        image_id="copy",
        sha256=save_crop_image(folder / "copy.png", pixels),
        fingerprint=fingerprint(pixels),
        **names,  # type: ignore[arg-type]
    )
    for crop in ours.crops:
        save_crop_image(folder / crop.file, ours.image(ours.crops.index(crop)))
    return CropsManifest.write(folder, [*ours.crops, copy])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "names",
    [{"patient_id": "P999"}, {"origin": "inbreast"}, {"origin": "gan:0", "patient_id": ""}],
    ids=["patient", "origin", "synthetic"],
)
def test_a_private_fit_refuses_a_crop_of_two_units(
    ours: CropsManifest, tmp_path: Path, change: Change, names: dict[str, str]
) -> None:
    manifest = pooled(ours, tmp_path, change, **names)
    last = len(manifest.crops) + 1
    says = f"rows 2 and {last}: one crop.*Remove one row.*same origin and patient_id"
    with pytest.raises(PrivacyError, match=says):
        PoissonSampling.from_manifest(manifest, "train", rate=0.5)
    if change is not resized:
        with pytest.raises(PrivacyError, match=says):
            Electorate.of_manifest(manifest, "train")


def test_copies_of_one_patient_are_one_unit(ours: CropsManifest, tmp_path: Path) -> None:
    manifest = pooled(ours, tmp_path, CHANGES["mirrored"], patient_id="p_000")
    assert PoissonSampling.from_manifest(manifest, "train", rate=0.5).units == 4
    with pytest.raises(PrivacyError, match="two crops, so its patient"):
        PoissonSampling.from_manifest(manifest, "train", unit="crop", rate=0.5)


def test_an_emptied_fingerprint_hides_no_copy(ours: CropsManifest, tmp_path: Path) -> None:
    manifest = pooled(ours, tmp_path, CHANGES["dimmer"], patient_id="P999")
    hidden: list[Crop] = [replace(crop, fingerprint="") for crop in manifest.crops]
    with pytest.raises(PrivacyError, match="one crop"):
        PoissonSampling.from_manifest(CropsManifest.write(tmp_path, hidden), "train", rate=0.5)


@pytest.mark.parametrize("change", [CHANGES["dimmer"], CHANGES["mirrored"]])
def test_copies_in_an_imported_set_show_whom_its_generator_saw(
    ours: CropsManifest, tmp_path: Path, change: Change
) -> None:
    """Its provenance names another data set; the crops say whose they are."""
    spent = Access.of_training("fit", ours, "train", mechanism=NOISY)

    def found(patients: Iterable[str], folder: str) -> float:
        bought = saved_again(
            ours,
            tmp_path / folder,
            change,
            patients=patients,
            patient_id="",
            origin="synthetic:bought",
        )
        saw = Access(stage="GAN,", cohort=Cohort.of_imported(bought, "inbreast"))
        write_statement(tmp_path / folder, PrivacyLedger().plus(saw), about=bought.sha256)
        ledger = covering_ledger(tmp_path / folder, bought.sha256)  # as a fit on it finds it
        assert isinstance(ledger, PrivacyLedger)
        own = ledger.plus(spent).statements(DELTA)[-1]
        assert own.cohort == spent.cohort
        assert math.isfinite(own.epsilon) or own.because == (
            "GAN, was trained on some of these patients, as copies of their crops show, without DP."
        )
        return own.epsilon

    assert math.isinf(found(["P001"], "copies"))
    assert math.isfinite(found(["P004", "P005"], "others"))  # of val, who do not train
