# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.manifest import Crop, CropsManifest, save_crop_image
from mammo_dp.attacks.scoring import read_result
from mammo_dp.attacks.signals import AttackError
from mammo_dp.attacks.synthetic import CALIBRATED, distances, synthetic
from mammo_dp.runs import read_run

Pixels = NDArray[np.uint16]


def noise(count: int, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 65536, (count, 32, 32)).astype(np.uint16)


def write(folder: Path, pixels: Pixels, *, patients: bool, labels: list[int]) -> CropsManifest:
    rows = [
        Crop(
            file=f"images/{i}.png",
            patient_id=f"P{i // 2}" if patients else "",
            lesion_id="1",
            image_id=str(i),
            malignant=bool(labels[i]),
            split="train" if not patients or i < len(pixels) // 2 else "val",
            origin="phantom-archive" if patients else "phantom",
            label_source="phantom",
            crop_rule="as-is",
            sha256=save_crop_image(folder / f"images/{i}.png", image),
        )
        for i, image in enumerate(pixels)
    ]
    return CropsManifest.write(folder, rows)


LABELS = [i % 2 for i in range(80)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    return write(tmp_path_factory.mktemp("cohort"), noise(80, 0), patients=True, labels=LABELS)


def state(folder: Path, cohort: CropsManifest, **changes: Any) -> None:
    statement = {
        "cohort": cohort.sha256,
        "cohort_name": "phantom-archive/train",
        "unit": "patient",
        "epsilon": "infinity",
        "delta": 1e-4,
        "risk": {"advantage": 1.0, "tpr_at_fpr": {"0.01": 1.0, "0.001": 1.0}},
    } | changes
    (folder / "privacy.json").write_text(json.dumps({"statements": [statement]}))


def attacked(folder: Path, released: CropsManifest, cohort: CropsManifest) -> dict[str, Any]:
    synthetic(
        synthetic=str(released.folder), crops=str(cohort.folder), out=str(folder), resamples=200
    )
    assert read_run(folder).is_finished
    return read_result(folder / "attack.json")


def test_turned_copies_give_their_patients_away(cohort: CropsManifest, tmp_path: Path) -> None:
    copies = np.rot90(cohort.images(cohort.rows("train")), 1, (1, 2))[:, :, ::-1]
    released = write(tmp_path / "copies", copies, patients=False, labels=LABELS)
    state(released.folder, cohort)
    result = attacked(tmp_path / "attack", released, cohort)
    assert result["attacks"]["nearest-sample"]["auc"]["value"] == 1
    assert not result["exceeds_bound"]  # nothing was promised


def test_a_broken_promise_is_reported(cohort: CropsManifest, tmp_path: Path) -> None:
    copies = cohort.images(cohort.rows("train"))
    released = write(tmp_path / "copies", copies, patients=False, labels=LABELS)
    risk = {"advantage": 0.1, "tpr_at_fpr": {"0.01": 0.02, "0.001": 0.003}}
    state(released.folder, cohort, epsilon=1.0, risk=risk)
    assert attacked(tmp_path / "attack", released, cohort)["exceeds_bound"]


def test_independent_crops_give_nobody_away(cohort: CropsManifest, tmp_path: Path) -> None:
    released = write(tmp_path / "fresh", noise(60, 5), patients=False, labels=LABELS)
    state(released.folder, cohort)
    result = attacked(tmp_path / "attack", released, cohort)
    area = result["attacks"]["nearest-sample"]["auc"]
    assert area["low"] < 0.5 < area["high"]


def test_signals_match_a_loop_over_pairs_and_symmetries(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    released = write(tmp_path / "few", noise(4, 5), patients=False, labels=LABELS)
    reference = write(tmp_path / "other", noise(4, 6), patients=False, labels=LABELS)
    found = distances(cohort, released, reference, "train", "val")
    for index in (0, 41):
        row = int(found.row[index])
        best = []
        for made in (released, reference):
            pairs = [
                np.corrcoef(symmetric.ravel(), cohort.image(row).ravel())[0, 1]
                for other in made.rows()
                if made.crops[other].malignant == cohort.crops[row].malignant
                for turns in range(4)
                for turned in [np.rot90(made.image(other), turns)]
                for symmetric in (turned, turned[:, ::-1])
            ]
            best.append(max(pairs))
        assert found.of(CALIBRATED.name)[index] == pytest.approx(best[0] - best[1], abs=1e-5)


def test_what_would_measure_nothing_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(AttackError, match=r"holds crops of patients. Give a synthetic set"):
        distances(cohort, cohort, None, "train", "val")
    released = write(tmp_path / "fresh", noise(4, 5), patients=False, labels=LABELS)
    with pytest.raises(AttackError, match="split 'test' holds no crop"):
        distances(cohort, released, None, "train", "test")

    def attack(**settings: Any) -> None:
        folders = str(released.folder), str(cohort.folder)
        synthetic(synthetic=folders[0], crops=folders[1], out=str(tmp_path / "attack"), **settings)

    with pytest.raises(AttackError, match="must be different patients"):
        attack(nonmember_split="train")
    with pytest.raises(AttackError, match="resamples=5"):
        attack(resamples=5)
