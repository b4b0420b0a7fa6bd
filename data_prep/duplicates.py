# SPDX-License-Identifier: Apache-2.0
"""Exact and near copies: one crop stays per cluster, and copies never straddle two splits.

Copies of one patient are that patient's own matter. Copies of two patients are not: whatever is
done about them, the crops of one come to depend on the other, and no account of a fit covers that.
So they are refused, unless whoever prepares the crops has them merged and says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.copies import copied
from data_prep.errors import DuplicateConflict, LeakageError
from data_prep.manifest import Crop

AcrossPatients = Literal["refuse", "merge"]

THUMBNAIL = 32  # px
NEAR = 0.98  # best match between different patients of the published crops: 0.975
_SHOWN = 5  # pairs of files that a message names


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What remains of a set of crops.

    Attributes:
        crops: Crops that stay, in the given order, patients merged.
        rejected: File of each crop that goes, with the reason.
        merged_patients: Patient ids that went into another one because they share an image.
    """

    crops: tuple[Crop, ...]
    rejected: tuple[tuple[str, DuplicateConflict], ...]
    merged_patients: int


def thumbnail(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Area means on a 32 x 32 grid, centred and scaled so that dot products are correlations.

    Args:
        pixels: Shape ``(size, size)``; of a volume, the mean of its slices is taken.

    Returns:
        Shape ``(1024,)``, mean 0, Euclidean length 1; all 0 for a constant crop.
    """
    grey = pixels.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=0)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    flat = np.asarray(small, np.float64).ravel()
    flat -= flat.mean()
    length = float(np.linalg.norm(flat))
    return (flat / length if length else flat).astype(np.float32)


def deduplicate(
    crops: Sequence[Crop],
    thumbnails: Callable[[int], NDArray[np.float32]],
    *,
    across_patients: AcrossPatients = "refuse",
) -> Deduplicated:
    """Keeps one crop per cluster of copies.

    Copies are crops of equal pixels, anywhere, and crops of one patient whose thumbnails correlate
    by 0.98 or more. The lowest crop key stays; a cluster with both labels goes whole.

    Args:
        crops: Rows to be written.
        thumbnails: The :func:`thumbnail` of the crop at a position; asked of patients with several
            crops only, so that those of a large set need not lie in memory.
        across_patients: What happens to different patients who share a crop, by pixels or by
            fingerprint: they are refused, or become one, under the lowest id.

    Raises:
        DuplicateConflict: ``patients`` if different patients share a crop and are to be refused.
        LeakageError: If copies stand in different splits.
    """
    given = {crop.patient_id for crop in crops}
    shared = [
        (a, b)
        for a, b in copied(crops)
        if crops[a].patient != crops[b].patient and crops[a].patient and crops[b].patient
    ]
    _require_one_split(crops, shared)
    if shared and across_patients == "refuse":
        shown = "; ".join(f"{crops[a].file} and {crops[b].file}" for a, b in shared[:_SHOWN])
        more = "; and others" if len(shared) > _SHOWN else ""
        raise DuplicateConflict(
            "patients",
            f"{shown}{more}: one crop, as it is or saved in another way, under two patients. "
            "Removing or renaming would let one patient change another's crops, which no privacy "
            "statement covers. Correct the source: give both the same patient id, or remove one; "
            "or --across_patients merge in a new folder, and the statement of each fit says that "
            "this is left out.",
        )
    crops = _merged(crops, shared)
    clusters = _Groups(len(crops))
    by_hash: dict[str, int] = {}
    by_patient: dict[str, list[int]] = {}
    for i, crop in enumerate(crops):
        clusters.join(by_hash.setdefault(crop.sha256, i), i)
        if crop.patient:
            by_patient.setdefault(crop.patient, []).append(i)
    for rows in by_patient.values():
        if len(rows) < 2:
            continue  # so that the thumbnail is not needed either
        stack = np.stack([thumbnails(i) for i in rows])
        for a, b in np.argwhere(np.triu(stack @ stack.T >= NEAR, k=1)):
            clusters.join(rows[int(a)], rows[int(b)])
    rejected: dict[int, DuplicateConflict] = {}
    for members in clusters.lists():
        rejected |= _copies(crops, members)
    return Deduplicated(
        crops=tuple(crop for i, crop in enumerate(crops) if i not in rejected),
        rejected=tuple((crops[i].file, rejected[i]) for i in sorted(rejected)),
        merged_patients=len(given - {crop.patient_id for crop in crops}),
    )


def _require_one_split(crops: Sequence[Crop], copies: Iterable[tuple[int, int]]) -> None:
    """Refuses copies in different splits.

    Raises:
        LeakageError: Naming both files.
    """
    for a, b in copies:
        if crops[a].split != crops[b].split:
            raise LeakageError(
                f"{crops[b].file} in {crops[b].split!r} is a copy of {crops[a].file} in "
                f"{crops[a].split!r}: equal pixels or fingerprints, or alike to {NEAR} at "
                f"{THUMBNAIL} x {THUMBNAIL} px. Remove one of them from the source; if they are "
                "two crops that hardly differ, have both in one split."
            )


def _copies(crops: Sequence[Crop], members: Sequence[int]) -> dict[int, DuplicateConflict]:
    """Rejections within one cluster."""
    stays = min(members, key=lambda i: crops[i].key)
    _require_one_split(crops, [(stays, i) for i in members])
    if len({crops[i].malignant for i in members}) > 1:
        files = ", ".join(crops[i].file for i in members)
        return {
            i: DuplicateConflict(
                "conflict",
                f"{crops[i].file}: copies with both labels ({files}). Correct the source.",
            )
            for i in members
        }
    return {
        i: DuplicateConflict(
            "duplicate",
            f"{crops[i].file}: a copy of {crops[stays].file}, by equal pixels, or of one patient "
            f"and alike to {NEAR} at {THUMBNAIL} x {THUMBNAIL} px. One of them stays; to have this "
            "one, remove the other from the source.",
        )
        for i in members
        if i != stays
    }


def _merged(crops: Sequence[Crop], shared: Sequence[tuple[int, int]]) -> list[Crop]:
    """The crops, those of patients who share one under the lowest origin and id among them."""
    lowest: dict[str, Crop] = {}
    for crop in sorted(crops, key=lambda crop: (crop.origin, crop.patient_id)):
        if crop.patient:
            lowest.setdefault(crop.patient, crop)
    place = {patient: i for i, patient in enumerate(lowest)}
    groups = _Groups(len(place))
    for a, b in shared:
        groups.join(place[crops[a].patient], place[crops[b].patient])
    names = list(lowest)
    stands_for = {
        names[i]: lowest[names[members[0]]] for members in groups.lists() for i in members[1:]
    }
    return [
        replace(crop, origin=one.origin, patient_id=one.patient_id)
        if (one := stands_for.get(crop.patient)) is not None
        else crop
        for crop in crops
    ]


class _Groups:
    """Disjoint sets of ``0..n-1``; the lowest member stands for its set."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def join(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        self._parent[max(a, b)] = min(a, b)

    def lists(self) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for i in range(len(self._parent)):
            groups.setdefault(self._root(i), []).append(i)
        return list(groups.values())

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i
