# SPDX-License-Identifier: Apache-2.0
"""What an adversary has who saw nothing of the training: the baselines of every reconstruction."""

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.copies import shared_rows
from data_prep.datamodule import FULL_SCALE
from data_prep.manifest import FILE_NAME, CropsManifest
from mammo_dp.attacks.signals import AttackError

Images = NDArray[np.float64]  # shape (images, edge, edge), grey values in [0, 1]
TARGETS = 60  # their mean correlation is then known to about .03


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """Mean success of guesses at one resolution.

    Attributes:
        edge: Edge of the images, in pixels.
        blank_mse: Squared error of a black image, which has no correlation with anything.
        mean_mse: Squared error of the mean image of the reference.
        mean_ncc: Its correlation.
        nearest_mse: Squared error of the reference image nearest to the target: the best guess
            that the reference offers, chosen by who knows the target.
        nearest_ncc: Its correlation.
    """

    edge: int
    blank_mse: float
    mean_mse: float
    mean_ncc: float
    nearest_mse: float
    nearest_ncc: float

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def blind(targets: Images, reference: Images, edge: int) -> Blind:
    """Success of guesses.

    Args:
        targets: Images to be guessed, shape ``(m, size, size)``.
        reference: Images that do not depend on the targets' patients, shape ``(r, size, size)``.
        edge: Both are averaged to this edge, in pixels.
    """
    truth, known = _flat(targets, edge), _flat(reference, edge)
    mean = known.mean(axis=0)
    # |x - y|^2 without the m r n numbers of all differences
    distances = (truth**2).mean(1)[:, None] + (known**2).mean(1) - 2 * truth @ known.T / edge**2
    nearest = distances.argmin(axis=1)
    return Blind(
        edge=edge,
        blank_mse=float((truth**2).mean()),
        mean_mse=float(((truth - mean) ** 2).mean()),
        mean_ncc=float(_correlations(truth, np.broadcast_to(mean, truth.shape)).mean()),
        nearest_mse=float(((truth - known[nearest]) ** 2).mean()),
        nearest_ncc=float(_correlations(truth, known[nearest]).mean()),
    )


def require_apart(targets: CropsManifest, reference: CropsManifest) -> None:
    """Checks that a guess from the reference is blind.

    Raises:
        AttackError: If the two share patients, or synthetic crops.
    """
    if shared := len(shared_rows(reference, reference.rows(), targets, targets.rows())):
        raise AttackError(
            f"{reference.folder / FILE_NAME}: {shared} crops of the reference, or their patients, "
            "are among those to be guessed. Give phantoms or crops of other patients."
        )


def images(manifest: CropsManifest, most: int = TARGETS) -> Images:
    """At most so many crops, spread evenly over the rows, as grey values in ``[0, 1]``.

    Raises:
        AttackError: If there is no crop.
    """
    rows = manifest.rows()
    if not rows:
        raise AttackError(f"{manifest.folder / FILE_NAME}: holds no crop. Give another folder.")
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return manifest.images([rows[place] for place in places]) / FULL_SCALE


def _flat(of: Images, edge: int) -> NDArray[np.float64]:
    small = [cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA) for image in of]
    return np.stack(small).reshape(len(of), -1).astype(np.float64)


def _correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation over pixels, row by row; 0 where an image is constant."""
    a = one - one.mean(axis=1, keepdims=True)
    b = other - other.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("ij,ij->i", a, b)
    return np.where(lengths > 1e-12, products / np.maximum(lengths, 1e-12), 0.0)
