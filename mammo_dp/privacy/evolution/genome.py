# SPDX-License-Identifier: Apache-2.0
"""Candidates before they are rendered, and what Private Evolution asks of a simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import CropRule
from mammo_dp.privacy.errors import PrivacyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """One candidate as its family tree: all that a simulator needs to draw it again.

    Attributes:
        malignant: Class.
        steps: Seed and degree of the first ancestor, which is a fresh draw (degree 1), and of each
            variation since.
    """

    malignant: bool
    steps: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Refuses what is no family tree.

        Raises:
            PrivacyError: For no ancestor, one that is not fresh, or a degree outside ``(0, 1]``.
        """
        degrees = [degree for _, degree in self.steps]
        if degrees[:1] != [1.0] or not all(0 < degree <= 1 for degree in degrees):
            raise PrivacyError(f"genome: degrees {degrees}. Begin with 1; go on above 0, to 1.")

    @classmethod
    def fresh(cls, rng: np.random.Generator, *, malignant: bool) -> Self:
        """Without relatives."""
        return cls(malignant=malignant, steps=((_seed(rng), 1.0),))

    def varied(self, rng: np.random.Generator, *, degree: float) -> "Genome":
        """A relative of the same class.

        Args:
            rng: Source of randomness.
            degree: In ``(0, 1]``: near 0 changes next to nothing, 1 is a fresh draw.
        """
        return Genome(malignant=self.malignant, steps=(*self.steps, (_seed(rng), degree)))


class Simulator(Protocol):
    """Draws crops from genomes: equal genomes give equal crops, relatives similar ones.

    Its randomness is public. Whether patients stand behind it is the ledger's matter.
    """

    @property
    def crop_rule(self) -> CropRule:
        """How the crops are cut."""

    def render(self, genomes: Sequence[Genome]) -> NDArray[np.float32]:
        """The crops: shape ``(len(genomes), size, size)``, values in ``[0, 1]``."""

    def attributes(self, genome: Genome) -> Mapping[str, str]:
        """Descriptors among :data:`data_prep.manifest.ATTRIBUTES`, as far as they are known."""


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
