# SPDX-License-Identifier: Apache-2.0
"""Simulators that draw candidates, phantoms or an MCGAN, and the genomes that they draw from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.manifest import CropRule
from data_prep.phantoms.case import PhantomCase, draw_case, vary_case
from data_prep.phantoms.crops import render
from data_prep.phantoms.parameters import PhantomParameters
from gan.checkpoint import TrainedGenerator
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GanSimulator:
    """Draws from a trained generator.

    Attributes:
        generator: The averaged generator of a checkpoint; conditions beyond malignancy stay open.
    """

    generator: TrainedGenerator

    @classmethod
    def read(cls, checkpoint: str | Path) -> Self:
        """Loads a checkpoint of an MCGAN.

        Raises:
            CheckpointError: If the file is missing, is no checkpoint, or holds another model.
        """
        return cls(generator=TrainedGenerator.read(checkpoint))

    @property
    def crop_rule(self) -> CropRule:
        """How the generator's training crops were cut."""
        return self.generator.crop_rule

    def render(self, genomes: Sequence[Genome]) -> NDArray[np.float32]:
        """Runs the generator on latent vectors and noise that were mixed along the family tree."""
        net, conditions = self.generator.net, self.generator.conditions
        inputs = torch.from_numpy(np.stack([self._input(genome) for genome in genomes]))
        latent, noise = inputs[:, : net.latent], inputs[:, net.latent :]
        asked = [conditions.vector(malignant=one.malignant, attributes={}) for one in genomes]
        with torch.inference_mode():
            crops = net(
                latent, noise.view(-1, 1, net.image_size, net.image_size), torch.stack(asked)
            )
        images: NDArray[np.float32] = ((crops.squeeze(1) + 1) / 2).numpy()
        return images

    def attributes(self, genome: Genome) -> Mapping[str, str]:
        """None: a generator was asked for malignancy only."""
        return {}

    def _input(self, genome: Genome) -> NDArray[np.float32]:
        """Latent vector and noise, one after the other, standard normal whatever the degrees."""
        net = self.generator.net
        mixed = np.zeros(net.latent + net.image_size**2, np.float32)
        for seed, degree in genome.steps:
            fresh = np.random.default_rng(seed).standard_normal(mixed.shape, np.float32)
            mixed = math.sqrt(1 - degree**2) * mixed + degree * fresh
        return mixed
