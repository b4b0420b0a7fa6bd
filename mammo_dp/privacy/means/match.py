# SPDX-License-Identifier: Apache-2.0
"""``match-means``: chooses phantoms whose classes have, on average, the released mean features.

Nothing is trained, so nothing can collapse: each crop of the pool is taken once at most, and what
is chosen varies as the pool does. The class of a crop is that of the mean it was chosen for, not
what it was drawn as: what tells real malignant masses apart is what the patients have said.

Source: kernel herding, Chen et al. 2010, arXiv 1203.3472, here among a finite pool without
repetition, followed by exchanges.
"""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.unit_features import features_of
from data_prep.crop_set import print_counts
from data_prep.errors import LabelError
from data_prep.manifest import FILE_NAME, CropsManifest
from data_prep.progress import watched
from mammo_dp.privacy.means.query import CLASSES
from mammo_dp.privacy.means.release import ReleasedMeans

_ROUNDS = 20  # of exchanges; five or so leave nothing to gain
_GAIN = 1e-12  # of the squared distance that counts as one
NONE = -1  # class of a crop that was not chosen


def match_means(*, crops: str, means: str, out: str, per_class: int = 300) -> None:
    """Chooses crops of a pool so that the means of each class are near those patients released.

    No patient's crop is read: choosing is post-processing of `mammo-dp release-means` and consumes
    no budget, however often it is done. The class of a chosen crop is that of the mean that it was
    chosen for. The more crops a pool has for each that is chosen, the nearer the means, so choose a
    fifth of it or less; what the pool lacks is not made up.

    Args:
        crops: Folder of synthetic crops to choose from, best of phantoms.
        means: File means.pt of `mammo-dp release-means`.
        out: Folder of the chosen crops.
        per_class: Crops of each class, ``>= 1``, at most half of the pool.

    Raises:
        LabelError: If crops belong to patients, or the pool is too small.
        PrivacyError: If the file holds no released means, or a class counts no more than its noise.
    """
    manifest = CropsManifest.read(crops)
    count = len(manifest.crops)
    if own := sum(not crop.is_synthetic for crop in manifest.crops):
        raise LabelError(
            f"{manifest.folder / FILE_NAME}: {own} crops belong to patients. Give a folder of "
            "phantoms or other synthetic crops."
        )
    if not 1 <= per_class <= count // CLASSES:
        raise LabelError(
            f"--per_class {per_class}: {manifest.folder / FILE_NAME} has {count} crops. Give 1 to "
            f"{count // CLASSES}, best a tenth of the pool, or a larger pool."
        )
    released = ReleasedMeans.read(means)
    targets, noise = released.released.means()
    features = features_of(released.model, manifest, manifest.rows())
    classes = nearest_set(features, targets, per_class)
    folder = Path(out)
    rows = []
    for row in watched(np.flatnonzero(classes != NONE).tolist(), "Copying"):
        crop = manifest.crops[row]
        (folder / crop.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.folder / crop.file, folder / crop.file)
        rows.append(replace(crop, malignant=bool(classes[row]), label_source="means"))
    chosen = CropsManifest.write(folder, rows)
    before = np.linalg.norm(features.mean(axis=0) - targets, axis=1)
    after = [np.linalg.norm(features[classes == c].mean(axis=0) - targets[c]) for c in (0, 1)]
    for name, *values in zip(("benign", "malignant"), before, after, noise, strict=True):
        print(
            f"Mean of {name}: {values[0]:.2f} from the released one before, {values[1]:.2f} after; "
            f"its noise has length {values[2]:.2f}."
        )
    print_counts(chosen, Counter(), merged=0)


def nearest_set(
    features: NDArray[np.float64], targets: NDArray[np.float64], per_class: int
) -> NDArray[np.int64]:
    """Chooses as many crops for each class, each once at most, with means near the targets.

    Crops are first taken one by one, in turn for each class, and then exchanged for others until no
    exchange of one crop makes its class's mean nearer.

    Args:
        features: Of the pool, shape ``(N, d)``.
        targets: Means of the classes, shape ``(2, d)``.
        per_class: Crops of each class, in ``[1, N / 2]``.

    Returns:
        Class of each crop, shape ``(N,)``, :data:`NONE` for those that were not chosen.
    """
    classes = np.full(len(features), NONE)
    lengths = np.square(features).sum(axis=1)
    sums = np.zeros_like(targets)

    def best(label: int, count: int) -> tuple[int, NDArray[np.float64]]:
        """The free crop that brings a class of ``count`` nearest, and what each crop adds."""
        away = sums[label] - count * targets[label]
        added = lengths + 2 * features @ away
        added[classes != NONE] = np.inf
        return int(added.argmin()), added

    for count in range(1, per_class + 1):
        for label in range(CLASSES):
            row, _ = best(label, count)
            classes[row] = label
            sums[label] += features[row]
    for _ in range(_ROUNDS):
        exchanged = False
        for row in np.flatnonzero(classes != NONE).tolist():
            label = int(classes[row])
            sums[label] -= features[row]
            classes[row] = NONE
            other, added = best(label, per_class)
            gain = (added[row] - added[other]) / per_class**2
            other = other if gain > _GAIN else row
            exchanged |= other != row
            classes[other] = label
            sums[label] += features[other]
        if not exchanged:
            break
    return classes
