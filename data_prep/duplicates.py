# SPDX-License-Identifier: Apache-2.0
"""Exact and near copies: one crop stays per cluster, and copies never straddle two splits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DuplicateConflict, LeakageError
from data_prep.manifest import Crop

THUMBNAIL = 32  # px
NEAR = 0.98  # best match between different patients of the published crops: 0.975


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
        pixels: Shape ``(size, size)``.

    Returns:
        Shape ``(1024,)``, mean 0, Euclidean length 1; all 0 for a constant crop.
    """
    small = cv2.resize(
        pixels.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA
    )
    flat = np.asarray(small, np.float64).ravel()
    flat -= flat.mean()
    length = float(np.linalg.norm(flat))
    return (flat / length if length else flat).astype(np.float32)


def deduplicate(crops: Sequence[Crop], thumbnails: Sequence[NDArray[np.float32]]) -> Deduplicated:
    """Keeps one crop per cluster of copies.

    Copies are crops of equal pixels, anywhere, and crops of one patient whose thumbnails correlate
    by 0.98 or more. The lowest crop key stays; a cluster with both labels goes whole; patients who
    share an image become one, under the lowest id.

    Args:
        crops: Rows to be written.
        thumbnails: One :func:`thumbnail` per crop.

    Raises:
        LeakageError: If copies stand in different splits.
    """
    clusters = _Groups(len(crops))
    by_hash: dict[str, int] = {}
    by_patient: dict[str, list[int]] = {}
    for i, crop in enumerate(crops):
        clusters.join(by_hash.setdefault(crop.sha256, i), i)
        if crop.patient_id:
            by_patient.setdefault(crop.patient_id, []).append(i)
    for rows in by_patient.values():
        stack = np.stack([thumbnails[i] for i in rows])
        for a, b in np.argwhere(np.triu(stack @ stack.T >= NEAR, k=1)):
            clusters.join(rows[int(a)], rows[int(b)])
    rejected: dict[int, DuplicateConflict] = {}
    for members in clusters.lists():
        rejected |= _copies(crops, members)
    merged = _merged(crops, by_hash)
    return Deduplicated(
        crops=tuple(
            replace(crop, patient_id=merged.get(crop.patient_id, crop.patient_id))
            for i, crop in enumerate(crops)
            if i not in rejected
        ),
        rejected=tuple((crops[i].file, rejected[i]) for i in sorted(rejected)),
        merged_patients=len(merged),
    )


def _copies(crops: Sequence[Crop], members: Sequence[int]) -> dict[int, DuplicateConflict]:
    """Rejections within one cluster."""
    stays = min(members, key=lambda i: crops[i].key)
    if len({crops[i].split for i in members}) > 1:
        other = next(i for i in members if crops[i].split != crops[stays].split)
        raise LeakageError(
            f"{crops[other].file} in {crops[other].split!r} is a copy of {crops[stays].file} in "
            f"{crops[stays].split!r}. Remove one of them from the source."
        )
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
        i: DuplicateConflict("duplicate", f"{crops[i].file}: a copy of {crops[stays].file}.")
        for i in members
        if i != stays
    }


def _merged(crops: Sequence[Crop], by_hash: dict[str, int]) -> dict[str, str]:
    """New id of every patient who shares an image with one of a lower id."""
    ids = sorted({crop.patient_id for crop in crops if crop.patient_id})
    place = {patient: i for i, patient in enumerate(ids)}
    groups = _Groups(len(ids))
    for crop in crops:
        twin = crops[by_hash[crop.sha256]]
        if crop.patient_id and twin.patient_id:
            groups.join(place[twin.patient_id], place[crop.patient_id])
    merged: dict[str, str] = {}
    for members in groups.lists():
        names = [ids[i] for i in members]
        merged |= dict.fromkeys(names[1:], names[0])
    return merged


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
