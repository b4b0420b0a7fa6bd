# SPDX-License-Identifier: Apache-2.0
"""Guidance of a set: while crops are drawn, the class means of their features are pulled.

Usual guidance pulls each sample. Here the means over all crops of a class are pulled, so crops may
differ from one another as they do without.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gan.diffusion.networks import Sampler
from gan.diffusion.schedule import denoise

TINY = 1e-12  # of a squared length that divides


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanGuidance:
    """Moves codes so that class means of what is measured on them come nearer to targets.

    Attributes:
        features: Maps what is moved, shape ``(B, ...)``, to features ``(B, d)``, row by row; can be
            differentiated.
        classes: Numbers of rows of ``targets``, shape ``(N,)``, each at least once.
        targets: Wanted means, shape ``(C, d)``.
        strength: Length of a move, ``> 0``; 1 goes to the nearest means along it.
        batch_size: Codes measured at once; a matter of speed and memory.
    """

    features: Callable[[Tensor], Tensor]
    classes: Tensor
    targets: Tensor
    strength: float = 1.0
    batch_size: int = 64

    def moved(self, codes: Tensor) -> Tensor:
        """Codes one step nearer.

        Each code follows the gradient of the product of its features and the gap between mean and
        target: together they follow the gradient of half the squared gap. How far, one trial says:
        the move that would close the gap if features were linear is made, and the share of it is
        taken that brings the mean nearest, between none and all.

        Args:
            codes: Shape ``(N, ...)``.
        """
        before = self.means(codes)
        gaps = before - self.targets
        pairs = zip(
            torch.split(codes, self.batch_size),
            torch.split(self.classes, self.batch_size),
            strict=True,
        )
        move = torch.cat([self._gradient(part, gaps[classes]) for part, classes in pairs])
        promised = self._over_classes(move.flatten(1).square().sum(1))
        move = move * self._by_class(gaps.square().sum(1) / promised.clamp(min=TINY), codes)
        change = self.means(codes - move) - before
        share = -(gaps * change).sum(1) / change.square().sum(1).clamp(min=TINY)
        return codes - self.strength * self._by_class(share.clamp(0, 1), codes) * move

    def means(self, codes: Tensor) -> Tensor:
        """Means of the features of each class, shape ``(C, d)``."""
        with torch.no_grad():
            found = [self.features(part) for part in torch.split(codes, self.batch_size)]
        return self._over_classes(torch.cat(found))

    def _gradient(self, codes: Tensor, gaps: Tensor) -> Tensor:
        with torch.enable_grad():
            seen = codes.detach().requires_grad_()
            (found,) = torch.autograd.grad((self.features(seen) * gaps).sum(), seen)
        # A crop without contrast has no slope of its deviation; it stays, and the others move.
        whole = found.flatten(1).isfinite().all(1).view(-1, *[1] * (found.ndim - 1))
        return torch.where(whole, found, 0.0)

    def _over_classes(self, rows: Tensor) -> Tensor:
        return torch.stack([rows[self.classes == c].mean(0) for c in range(len(self.targets))])

    def _by_class(self, values: Tensor, codes: Tensor) -> Tensor:
        return values[self.classes].view(-1, *[1] * (codes.ndim - 1))


@torch.no_grad()
def guided_crops(
    sampler: Sampler, latent: Tensor, condition: Tensor, guidance: MeanGuidance
) -> Tensor:
    """Draws a whole set of crops under guidance, with progress.

    Args:
        sampler: Draws them.
        latent: Standard normal, shape ``(N, latent)``.
        condition: Shape ``(N, columns)``.
        guidance: Whose features are of crops ``(B, 1, ...)`` in ``[-1, 1]``.

    Returns:
        Shape ``(N, 1, ...)``, values in ``[-1, 1]``.
    """
    size, measure = guidance.batch_size, guidance.features

    def predict(noised: Tensor, time: Tensor) -> Tensor:
        parts = zip(*(torch.split(rows, size) for rows in (noised, time, condition)), strict=True)
        return torch.cat([sampler.net(*part) for part in parts])

    of_codes = replace(guidance, features=lambda codes: measure(sampler.codec.decode(codes)))
    codes = denoise(
        predict,
        latent.view(-1, *sampler.settings.latent_shape),
        sampler.steps,
        moved=of_codes.moved,
        progress="Drawing guided crops",
    )
    return torch.cat([sampler.codec.decode(part) for part in torch.split(codes, size)])
