# SPDX-License-Identifier: Apache-2.0
"""Crops of a class should measure like real ones of that class, on average.

A discriminator that saw few patients lets statistics drift that any reader would notice, such as
the strength of edges at a scale. Fixed measurements are the same for every cohort; matching their
means and mean squares, class by class, holds the generator to them without a second network.

What tells malignant from benign masses lies in directions that vary little, where a plain distance
hardly looks. The difference of the two classes is therefore matched a second time, in the metric of
a linear discriminant, whose ridge keeps out directions that so few crops cannot tell from noise.

Source: matching of feature statistics with running means, dos Santos et al. 2019, arXiv 1904.02762;
the ridge after Friedman 1989 (regularized discriminant analysis).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.descriptors.measurements import COUNT, Measurements
from gan.generator import decay_of

SIZE = 64  # pixels; finer detail is left to the discriminator, and would cost four times as much
LONGEST = 0.98  # decay of the running means: about 50 batches
RIDGE = 0.3  # of a measurement's variance; best of seven for the classes of CBIS-DDSM train crops
CLASSES = 10.0  # weight of the difference of classes beside the means; it is small in its metric
SQUARES = 0.5  # weight of mean squares beside that of means
_LIMIT = 5.0  # standard deviations; an odd crop must not rule a mean


class Matching(nn.Module):
    """Compares running statistics of generated crops with those of real ones.

    The running statistics are part of a checkpoint, so that a resumed run continues as if it had
    not stopped; those of the real crops are taken again.

    Args:
        image_size: Edge of the crops, in pixels, a power of two from 16 on.
    """

    running: Tensor
    updates: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.measurements = Measurements(min(SIZE, image_size))
        self.register_buffer("running", torch.zeros(2, 2 * COUNT))
        self.register_buffer("updates", torch.zeros(2, dtype=torch.int64))

    def take_real(self, crops: Tensor, malignant: Tensor) -> None:
        """Takes the statistics to be matched.

        Args:
            crops: Shape ``(R, 1, H, H)``, values in ``[-1, 1]``, both classes among them.
            malignant: Shape ``(R,)``, 1 or 0.
        """
        with torch.no_grad():
            measured = torch.cat([self._measure(part) for part in torch.split(crops, 64)])
        self._mean, self._spread = measured.mean(0), measured.std(0) + 1e-6
        moments = self._moments(measured)
        self._real = torch.stack([moments[malignant == label].mean(0) for label in (0, 1)])
        apart = (moments - self._real[malignant.long()])[:, :COUNT]
        within = apart.T @ apart / len(apart)
        within.diagonal().add_(RIDGE)
        self._metric = torch.linalg.inv(within)

    def forward(self, fakes: Tensor, malignant: Tensor) -> Tensor:
        """Penalty whose gradient is that of the squared distance of statistics.

        Its value means nothing: running statistics carry no gradient, so each batch is pushed along
        the distance that the last batches have shown. :meth:`distance` says how far they are.

        Args:
            fakes: Shape ``(B, 1, H, H)``, values in ``[-1, 1]``.
            malignant: Classes they were asked for, shape ``(B,)``, 1 or 0.
        """
        moments = self._moments(self._measure(fakes))
        for label in (0, 1):
            own = moments[malignant == label]
            if len(own):
                self._update(label, own.detach().mean(0))
        return (self._slope()[malignant.long()] * moments).mean()

    def distance(self) -> Tensor:
        """Squared distance of the running statistics to the real ones, per number, a scalar."""
        return (self._slope() * (self.running - self._real)).mean()

    def _slope(self) -> Tensor:
        """What a crop of each class is pushed along, shape ``(2, 2 * COUNT)``."""
        away = self.running - self._real
        slope = away * self._weights()
        # a product that mixed precision does not round, as it would that of a matrix
        apart = (self._metric * (away[1, :COUNT] - away[0, :COUNT])).sum(1)
        slope[:, :COUNT] += CLASSES / 2 * torch.stack([-apart, apart])
        return slope

    def _update(self, label: int, mean: Tensor) -> None:
        decay = decay_of(int(self.updates[label]), LONGEST)
        self.running[label].lerp_(mean, 1 - decay if self.updates[label] else 1.0)
        self.updates[label] += 1

    def _measure(self, crops: Tensor) -> Tensor:
        """Measurements of crops, made coarser first where they are finer than ``SIZE``."""
        with torch.autocast(crops.device.type, enabled=False):
            measured: Tensor = self.measurements(
                F.adaptive_avg_pool2d(crops.float(), self.measurements.size)
            )
        return measured

    def _moments(self, measured: Tensor) -> Tensor:
        """Scaled measurements and their squares, shape ``(N, 2 * COUNT)``."""
        scaled = ((measured - self._mean) / self._spread).clamp(-_LIMIT, _LIMIT)
        return torch.cat([scaled, scaled.square()], dim=1)

    def _weights(self) -> Tensor:
        return torch.cat([torch.ones(COUNT), torch.full((COUNT,), SQUARES)]).to(self.running)
