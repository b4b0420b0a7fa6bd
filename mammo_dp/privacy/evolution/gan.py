# SPDX-License-Identifier: Apache-2.0
"""An MCGAN as simulator, best one of a disjoint cohort: the ledger adds the patients it saw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.manifest import CropRule
from gan.checkpoint import TrainedGenerator
from mammo_dp.privacy.evolution.genome import Genome


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
