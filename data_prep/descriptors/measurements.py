# SPDX-License-Identifier: Apache-2.0
"""592 numbers about a crop: features for a linear head, and what a generator is matched to.

Oriented gradients in cells, rings, edges relative to the centre, grey and bands.

None depends on data, so none consumes budget. All stay as they are when a crop is
turned by a quarter or mirrored: what a head would otherwise learn from augmented views it has from
the start. Only convolutions, sums and sorting, so that the measurements can be exported.

Sources: histograms of oriented gradients, Dalal and Triggs 2005; edges that point to the centre and
spicules that do not, Karssemeijer and te Brake 1996, IEEE TMI 15:611.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 4  # along one edge
BINS = 8  # of the gradient's direction, over half a turn
RINGS = 16  # of grey and its slopes
EDGE_RINGS = 4
# Widths of blur in 1/128 of the edge of the crop: of bands, and of the gradients in the rest.
BANDS, CELL_WIDTHS, RING_WIDTHS, EDGE_WIDTHS = (1, 2, 4, 8, 16), (1, 2), (1, 2, 4), (1, 2, 4, 8)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COUNT = (
    len(CELL_WIDTHS) * BINS * CELLS**2
    + len(RING_WIDTHS) * 5 * RINGS
    + len(EDGE_WIDTHS) * 4 * EDGE_RINGS
    + 2
    + len(QUANTILES)
    + 5 * len(BANDS)
)


class Measurements(nn.Module):
    """Measures crops of one size; has no weights.

    Args:
        size: Edge of the crops in pixels, a multiple of ``CELLS`` from 16 on.

    Raises:
        ValueError: For another size.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 16 or size % CELLS:
            raise ValueError(f"img_size={size}. Measure crops of a multiple of {CELLS} from 16 on.")
        self.size = size
        along = torch.arange(size) - (size - 1) / 2
        distance = torch.hypot(along[:, None], along)
        self._constant("outward_x", along / distance.clamp_min(0.5))
        self._constant("outward_y", along[:, None] / distance.clamp_min(0.5))
        for name, rings in (("rings", RINGS), ("edge_rings", EDGE_RINGS)):
            ring = (distance / (size / 2) * rings).floor().flatten()
            inside = (ring[:, None] == torch.arange(rings)).float()
            self._constant(name, inside / inside.sum(0).clamp_min(1))
        for width in BANDS:
            self._constant(f"blur_{width}", _gaussian(width * size / 128))
        angle = 2 * math.pi * torch.arange(BINS) / BINS
        self._constant("directions", torch.stack([angle.cos(), angle.sin()], 1)[..., None, None])
        self._constant("orbit", _orbit())

    def forward(self, image: Tensor) -> Tensor:
        """Measures crops.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, COUNT)``: per width the histograms of cells, each of length 1; rings; edges;
            mean, deviation and quantiles of grey; strength and shape of bands.
        """
        grey = (image.float() + 1) / 2
        blurred = {width: self._blurred(grey, width) for width in BANDS}
        slopes = {width: _slopes(blurred[width]) for width in EDGE_WIDTHS}
        layers = [grey, *blurred.values()]
        return torch.cat(
            [
                *(self._cells(*slopes[width]) for width in CELL_WIDTHS),
                *(self._rings(blurred[width], *slopes[width]) for width in RING_WIDTHS),
                *(self._edges(*slopes[width]) for width in EDGE_WIDTHS),
                _grey(grey.flatten(1)),
                *(self._band(finer - coarser) for finer, coarser in pairwise(layers)),
            ],
            1,
        )

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _blurred(self, grey: Tensor, width: int) -> Tensor:
        kernel = self.get_buffer(f"blur_{width}")
        wide = F.pad(grey, (len(kernel) // 2,) * 4, mode="reflect")
        return F.conv2d(F.conv2d(wide, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))

    def _cells(self, right: Tensor, down: Tensor) -> Tensor:
        """Histograms of directions in cells, averaged over the eight symmetries of the square."""
        strength = torch.sqrt(right.square() + down.square() + 1e-10)
        # Twice the angle, so that opposite directions count as one.
        double = torch.cat([right.square() - down.square(), 2 * right * down], 1) / strength
        towards = (double[:, None] * self.get_buffer("directions")).sum(2).clamp_min(0)
        cells = F.avg_pool2d(towards.square() / strength, self.size // CELLS)
        cells = cells / torch.sqrt(cells.square().sum(1, keepdim=True) + 2e-6)
        return cells.flatten(1)[:, self.get_buffer("orbit")].mean(1)

    def _rings(self, blurred: Tensor, right: Tensor, down: Tensor) -> Tensor:
        """Grey, its slopes along and across the radius, and its spread, in rings."""
        rings = self.get_buffer("rings")
        outward, across = self._polar(right, down)
        grey = (blurred - blurred.mean((2, 3), keepdim=True)).flatten(1)
        mean = grey @ rings
        spread = (grey.square() @ rings - mean.square()).clamp_min(0).add(1e-8).sqrt()
        means = [values @ rings for values in (outward.abs(), across.abs(), outward)]
        return torch.cat([mean, *means, spread], 1)

    def _edges(self, right: Tensor, down: Tensor) -> Tensor:
        """Strength of edges in rings, its outward and radial share, and its relative spread."""
        rings = self.get_buffer("edge_rings")
        outward, _ = self._polar(right, down)
        strength = torch.sqrt(right.square() + down.square() + 1e-10).flatten(1)
        mean = strength @ rings
        spread = (strength.square() @ rings - mean.square()).clamp_min(1e-10).sqrt()
        radial = (2 * outward.square() / strength - strength) @ rings
        logarithms = ((mean + 1e-4).log(), (spread / mean + 1e-3).log())
        return torch.cat([logarithms[0], outward @ rings / mean, radial / mean, logarithms[1]], 1)

    def _polar(self, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes away from the centre and around it, each of shape ``(B, pixels)``."""
        x, y = self.get_buffer("outward_x"), self.get_buffer("outward_y")
        return (right * x + down * y).flatten(1), (right * y - down * x).flatten(1)

    def _band(self, band: Tensor) -> Tensor:
        """Strength, skewness, kurtosis of one band of detail, and its strength at the centre."""
        quarter = self.size // 4
        inner = slice(quarter, self.size - quarter)
        middle = band[:, 0, inner, inner].flatten(1).std(1)
        band = band.flatten(1)
        spread = band.std(1)
        shape = [(band**power).mean(1) / (spread**power + 1e-9) for power in (3, 4)]
        strength = (spread + 1e-4).log()
        numbers = [strength, band.abs().mean(1), *shape, (middle + 1e-4).log() - strength]
        return torch.stack(numbers, 1)


def _gaussian(width: float) -> Tensor:
    """Kernel of a blur, cut at three widths, with sum 1."""
    reach = max(1, math.ceil(3 * width))
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / width) ** 2) / 2)
    return kernel / kernel.sum()


def _slopes(blurred: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences to the right and down, each of the shape of the images."""
    wide = F.pad(blurred, (1, 1, 1, 1), mode="replicate")
    right = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    return right, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _grey(flat: Tensor) -> Tensor:
    """Mean, standard deviation and quantiles of pixels ``(B, n)``."""
    ordered = flat.sort(1).values
    places = [int(share * flat.shape[1]) for share in QUANTILES]
    return torch.cat([flat.mean(1, keepdim=True), flat.std(1, keepdim=True), ordered[:, places]], 1)


def _orbit() -> Tensor:
    """Where each cell and direction goes under the symmetries, shape ``(8, BINS * CELLS**2)``."""
    place = torch.arange(BINS * CELLS**2).view(BINS, CELLS, CELLS)
    mirrored = [-direction % BINS for direction in range(BINS)]
    turned = [place.rot90(k, (1, 2)).roll(k * BINS // 2, 0) for k in range(4)]
    return torch.stack([p.flatten() for t in turned for p in (t, t.flip(2)[mirrored])])
