# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.crop_image import pixel_hash
from data_prep.duplicates import AcrossPatients, Deduplicated, deduplicate, thumbnail
from data_prep.errors import DuplicateConflict, LeakageError
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 65536, (6, 64, 64), dtype=np.uint16)


def crop(number: int, pixels: NDArray[np.uint16], **changes: Any) -> Crop:
    values: dict[str, Any] = {
        "file": f"images/{number}.png",
        "patient_id": f"P{number}",
        "lesion_id": "1",
        "image_id": f"I{number}",
        "malignant": True,
        "split": "train",
        "origin": "cbis-ddsm",
        "label_source": "pathology",
        "crop_rule": "centred",
        "sha256": pixel_hash(pixels),
        "fingerprint": fingerprint(pixels),
    }
    return Crop(**values | changes)


def cleared(
    *items: tuple[Crop, NDArray[np.uint16]], across_patients: AcrossPatients = "refuse"
) -> Deduplicated:
    return deduplicate(
        [c for c, _ in items],
        lambda position: thumbnail(items[position][1]),
        across_patients=across_patients,
    )


def nearly(pixels: NDArray[np.uint16], noise: float) -> NDArray[np.uint16]:
    """A copy whose 32 x 32 means correlate with the original by about ``1 / sqrt(1 + noise^2)``."""
    rng = np.random.default_rng(1)
    means = np.kron(rng.standard_normal((32, 32)), np.ones((2, 2)))
    spread = float(pixels.reshape(32, 2, 32, 2).mean((1, 3)).std())
    return (pixels / 2 + noise * spread / 2 * means + 10000).clip(0, 65535).astype(np.uint16)


def test_thumbnails_multiply_to_correlations_of_area_means() -> None:
    means = [p.reshape(32, 2, 32, 2).mean((1, 3)).ravel() for p in PICTURES[:2]]
    expected = np.corrcoef(means[0], means[1])[0, 1]
    assert thumbnail(PICTURES[0]) @ thumbnail(PICTURES[1]) == pytest.approx(expected, abs=1e-5)
    assert not thumbnail(np.full((64, 64), 7, np.uint16)).any()


def test_different_crops_all_stay() -> None:
    items = [(crop(i, p), p) for i, p in enumerate(PICTURES)]
    result = cleared(*items)
    assert result == Deduplicated(tuple(c for c, _ in items), (), 0)


def test_lowest_key_of_an_exact_copy_stays_and_patients_merge() -> None:
    p, q = PICTURES[:2]
    result = cleared(
        (crop(5, p), p),
        (crop(3, p), p),
        (crop(4, q, patient_id="P5"), q),
        across_patients="merge",
    )
    assert [(c.image_id, c.patient_id) for c in result.crops] == [("I3", "P3"), ("I4", "P3")]
    assert [(file, error.reason) for file, error in result.rejected] == [
        ("images/5.png", "duplicate")
    ]
    assert "images/3.png" in str(result.rejected[0][1])
    assert result.merged_patients == 1


def test_thumbnails_count_within_a_patient_only() -> None:
    p = PICTURES[0]
    near, far = nearly(p, 0.1), nearly(p, 0.4)
    assert thumbnail(p) @ thumbnail(near) > 0.98 > thumbnail(p) @ thumbnail(far)
    one = cleared((crop(1, p), p), (crop(2, near, patient_id="P1"), near))
    assert [c.image_id for c in one.crops] == ["I1"]
    unknown = {"fingerprint": ""}
    two = cleared((crop(1, p, **unknown), p), (crop(2, near, **unknown), near))
    assert len(two.crops) == 2
    assert len(cleared((crop(1, p), p), (crop(2, far, patient_id="P1"), far)).crops) == 2


def test_copies_with_both_labels_all_go() -> None:
    p = PICTURES[0]
    own = {"patient_id": "P1"}
    result = cleared(
        (crop(1, p, **own), p), (crop(2, p, malignant=False, **own), p), (crop(3, p, **own), p)
    )
    assert not result.crops
    assert {error.reason for _, error in result.rejected} == {"conflict"}
    assert "images/2.png" in str(result.rejected[0][1])


def test_copies_in_two_splits_are_leakage() -> None:
    p = PICTURES[0]
    with pytest.raises(LeakageError, match=r"images/2\.png in 'val' is a copy of images/1\.png"):
        cleared((crop(1, p), p), (crop(2, p, split="val"), p))


def test_synthetic_copies_need_no_patient() -> None:
    p = PICTURES[0]
    changes = {"patient_id": "", "origin": "gan:0"}
    result = cleared((crop(1, p, **changes), p), (crop(2, p, **changes), p))
    assert [c.image_id for c in result.crops] == ["I1"]
    assert result.merged_patients == 0


Change = Callable[[NDArray[np.uint16]], NDArray[np.uint16]]
SAVED_AGAIN: dict[str, Change] = {
    "as it was": lambda pixels: pixels,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "in 8 bits": lambda pixels: pixels // 257 * 257,
    "dimmer": lambda pixels: pixels // 2 + 9000,
}


@pytest.mark.parametrize("change", SAVED_AGAIN.values(), ids=SAVED_AGAIN)
@pytest.mark.parametrize("malignant", [True, False])
def test_patients_who_share_a_crop_are_refused_by_file(change: Change, malignant: bool) -> None:
    p, q = PICTURES[0], np.ascontiguousarray(change(PICTURES[0]))
    items = [(crop(1, p), p), (crop(2, q, malignant=malignant), q)]
    with pytest.raises(
        DuplicateConflict, match=r"1\.png and .*2\.png: .*same patient id"
    ) as caught:
        cleared(*items)
    assert caught.value.reason == "patients"
    assert "P1" not in str(caught.value)
    merged = cleared(*items, across_patients="merge")
    assert {c.patient_id for c in merged.crops} <= {"P1"}
    assert merged.merged_patients == 1


def test_spellings_of_a_patient_are_no_strangers() -> None:
    p, q = PICTURES[:2]
    result = cleared(
        (crop(1, p, patient_id="P_7"), p), (crop(2, p, patient_id="p 7"), p), (crop(3, q), q)
    )
    assert [c.image_id for c in result.crops] == ["I1", "I3"]
    assert result.merged_patients == 0


def test_a_mirrored_copy_in_another_split_is_leakage() -> None:
    p, q = PICTURES[0], np.ascontiguousarray(PICTURES[0][:, ::-1])
    for mode in ("refuse", "merge"):
        with pytest.raises(
            LeakageError, match=r"images/2\.png in 'val' is a copy of images/1\.png"
        ):
            cleared((crop(1, p), p), (crop(2, q, split="val"), q), across_patients=mode)


def test_another_patient_moves_no_crop() -> None:
    """The kind of hole: with or without a patient, the crops of the others are the same."""
    items = [(crop(i, p), p) for i, p in enumerate(PICTURES)]
    assert cleared(*items).crops[:-1] == cleared(*items[:-1]).crops
