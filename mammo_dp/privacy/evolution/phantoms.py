# SPDX-License-Identifier: Apache-2.0
"""Procedural phantoms as simulator: no patient stands behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import CropRule
from data_prep.phantoms.case import PhantomCase, draw_case, vary_case
from data_prep.phantoms.crops import render
from data_prep.phantoms.parameters import PhantomParameters
from mammo_dp.privacy.evolution.genome import Genome


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSimulator:
    """Draws phantoms.

    Attributes:
        size: Edge of the crops, in pixels, >= 16.
        parameters: The population that fresh draws come from.
        crop_rule: Phantoms have their mass in the middle.
    """

    size: int
    parameters: PhantomParameters = field(default_factory=PhantomParameters)
    crop_rule: CropRule = "centred"

    def render(self, genomes: Sequence[Genome]) -> NDArray[np.float32]:
        """Draws the cases that the family trees end in."""
        return render([self._case(genome) for genome in genomes], size=self.size)

    def attributes(self, genome: Genome) -> Mapping[str, str]:
        """Density, shape, margin and subtlety of the case."""
        return self._case(genome).attributes

    def _case(self, genome: Genome) -> PhantomCase:
        (first, _), *variations = genome.steps
        case = draw_case(
            np.random.default_rng(first), malignant=genome.malignant, parameters=self.parameters
        )
        for seed, degree in variations:
            case = vary_case(
                np.random.default_rng(seed), case, degree=degree, parameters=self.parameters
            )
        return case
