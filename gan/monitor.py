# SPDX-License-Identifier: Apache-2.0
"""Early warnings while a generator trains: collapse, copying, and how far its crops are from real.

Rough on purpose, so that it costs a moment: crops are compared as coarse grey patterns and as the
strength of their detail. ``mammo-dp fidelity`` measures properly, after training.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.datamodule import CropsDataModule
from data_prep.symmetries import SYMMETRIES, symmetric
from gan.discriminator import detail

LOOKED_AT = 256  # crops of each kind, at most
COARSE = 16  # edge of the patterns that are compared
COLLAPSED = 0.5  # of the diversity of real crops
COPIED = 0.8  # of the distance that other patients' crops have


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCheck:
    """Result of one check of a generator's crops.

    Attributes:
        distance: Kernel distance to the training crops, unbiased, so it may be below 0; 0 for crops
            of one law (Binkowski et al. 2018, arXiv 1801.01401, on our coarse features).
        diversity: Mean distance between crops of a class over that between real ones; 1 is alike.
        copying: Distance to the nearest training crop over that to the nearest of equally many
            crops of other patients, median over the crops; 1 is no copying. None without other
            patients.
    """

    distance: float
    diversity: float
    copying: float | None

    @property
    def warnings(self) -> list[str]:
        """What looks wrong, each with a remedy."""
        if not math.isfinite(self.diversity):
            return ["Crops hold NaN: the training diverged. Fit again with lower rates."]
        found = []
        if self.diversity < COLLAPSED:
            found.append(
                f"Crops differ only {self.diversity:.2f} times as much as real ones: the generator "
                "may be collapsing. Raise model.init_args.diversity or lower the rates."
            )
        if self.copying is not None and self.copying < COPIED:
            found.append(
                f"Crops lie {self.copying:.2f} times as far from training crops as from those of "
                "other patients: the generator may be copying. Stop earlier, or augment more."
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Real crops to compare with.

    Attributes:
        crops: Training crops, shape ``(R, 1, H, H)``, values in ``[-1, 1]``.
        malignant: Their classes, shape ``(R,)``.
        others: Crops of patients that do not train, shape ``(O, 1, H, H)``; ``O`` may be 0.
    """

    crops: Tensor
    malignant: Tensor
    others: Tensor

    @classmethod
    def of_data(cls, data: CropsDataModule, seed: int) -> Self:
        """A random part of the training and of the evaluation crops, as they are.

        Args:
            data: After ``setup``.
            seed: Of the choice.
        """
        rng = np.random.default_rng(seed)
        train, others = (
            data.dataset([int(row) for row in rng.permutation(rows)[:LOOKED_AT]])
            for rows in (data.train_rows, data.evaluate_rows)
        )
        items = [train[index] for index in range(len(train))]
        return cls(
            crops=torch.stack([item.image for item in items]),
            malignant=torch.tensor([item.malignant for item in items]),
            others=torch.cat(
                [torch.empty(0), *(others[index].image[None] for index in range(len(others)))]
            ),
        )

    def check(self, samples: Tensor, malignant: Tensor) -> SampleCheck:
        """Compares generated crops with real ones.

        Args:
            samples: Shape ``(S, 1, H, H)``, values in ``[-1, 1]``, ``S >= 4``.
            malignant: Their classes, shape ``(S,)``.
        """
        real, made = features(self.crops), features(samples)
        mean, spread = real.mean(0), real.std(0) + 1e-6
        own = _diversity(made, malignant)
        copying = None
        if len(self.others):
            count = min(len(self.others), len(self.crops))
            trained, fresh = (
                _nearest(samples, crops[:count]) for crops in (self.crops, self.others)
            )
            copying = float((trained / fresh.clamp(min=1e-9)).median())
        return SampleCheck(
            distance=kernel_distance((made - mean) / spread, (real - mean) / spread),
            diversity=own / max(_diversity(real, self.malignant), 1e-9),
            copying=copying,
        )


def features(crops: Tensor) -> Tensor:
    """Coarse grey pattern and logarithm of the detail's strength.

    Args:
        crops: Shape ``(N, 1, H, H)``, values in ``[-1, 1]``.

    Returns:
        Shape ``(N, COARSE**2 + (COARSE // 4)**2)``.
    """
    grey = F.adaptive_avg_pool2d(crops, COARSE).flatten(1)
    strength = F.adaptive_avg_pool2d(detail(crops).square(), COARSE // 4).flatten(1)
    return torch.cat([grey, (strength + 1e-6).log()], dim=1)


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased, with the kernel ``(x y / d + 1)**3``.

    Args:
        one: Shape ``(N, d)``, ``N >= 2``.
        other: Shape ``(M, d)``, ``M >= 2``.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())


def _diversity(vectors: Tensor, malignant: Tensor) -> float:
    """Mean distance between two of a class, mean over the classes that have two."""
    classes = [vectors[malignant == label] for label in (0, 1)]
    means = [F.pdist(rows).mean() for rows in classes if len(rows) > 1]
    return float(torch.stack(means).mean()) if means else 0.0


def _nearest(samples: Tensor, crops: Tensor) -> Tensor:
    """Distance of each sample to the nearest crop, over the symmetries of the square.

    Patterns are compared without mean and contrast, so that copies with another exposure count.
    """
    grey, known = (F.adaptive_avg_pool2d(images, COARSE) for images in (samples, crops))
    turned = (_standardised(symmetric(grey, number)) for number in range(SYMMETRIES))
    patterns = _standardised(known)
    return torch.stack([torch.cdist(own, patterns).min(1).values for own in turned]).amin(0)


def _standardised(grey: Tensor) -> Tensor:
    rows = grey.flatten(1)
    return F.normalize(rows - rows.mean(1, keepdim=True), eps=1e-6)
