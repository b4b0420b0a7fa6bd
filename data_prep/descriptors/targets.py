# SPDX-License-Identifier: Apache-2.0
"""88 numbers about a crop: targets that pre-training teaches to a body, and a space of attacks.

Brightness and its spread by distance from the centre, power by spatial frequency, and strength and
direction of edges relative to the centre, at several scales. None depends on data; all of them
stay as they are when a crop is turned or mirrored.

Sources: targets of fixed gradients instead of labels, Wei et al. 2021, arXiv 2112.09133; edges that
point to the centre, and spicules that do not, Karssemeijer and te Brake 1996, IEEE TMI 15:611.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BANDS = 8  # of spatial frequency
RINGS = 8  # of brightness
EDGE_RINGS = 4
EDGE_SIGMAS = (1, 2, 4, 8)  # of the blur before the gradient, in 1/128 of the edge of the crop
COUNT = BANDS + 2 * RINGS + 4 * EDGE_RINGS * len(EDGE_SIGMAS)


def describe(image: Tensor) -> Tensor:
    """Measures crops; gradients flow through.

    Args:
        image: Shape ``(B, 1, n, n)``, in ``[-1, 1]``, ``n >= 16``.

    Returns:
        Shape ``(B, COUNT)``: logarithms of the power in octaves of frequency, mean brightness of
        rings, its standard deviation in them, then per scale and ring the logarithm of the mean
        gradient, the share of it that points outward, in ``[-1, 1]``, how much of it is radial
        rather than tangential, in ``[-1, 1]``, and the logarithm of its relative spread.
    """
    grey = image[:, 0].float()
    with torch.autocast(grey.device.type, enabled=False):
        edges = [_edges(grey, sigma * grey.shape[-1] / 128) for sigma in EDGE_SIGMAS]
        return torch.cat([_power(grey), *_ring_moments(grey, _rings(grey, RINGS)), *edges], 1)


def _power(grey: Tensor) -> Tensor:
    size = grey.shape[-1]
    window = torch.hann_window(size, periodic=False, device=grey.device)
    centred = (grey - grey.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.rfft2(centred).abs().square().flatten(1)
    y, x = torch.fft.fftfreq(size, 1 / size), torch.fft.rfftfreq(size, 1 / size)
    octave = torch.hypot(y[:, None], x).clamp_min(1e-9).log2().flatten().to(grey.device)
    # From 1 cycle per crop to the finest; rounding must not decide about a frequency on an edge.
    band = (octave / math.log2(size / 2) * BANDS + 1e-4).floor()
    inside = torch.stack([band == index for index in range(BANDS)]).to(power)
    # Each inner column stands for its mirror image too, so that turned crops measure alike.
    inside *= torch.tensor([1.0, *[2.0] * (size // 2 - 1), 1.0]).to(power).repeat(size)
    mean: Tensor = power @ inside.T / inside.sum(1).clamp_min(1)
    return (mean + 1e-8).log()


def _rings(grey: Tensor, count: int) -> Tensor:
    """Weights of the mean over each of some rings of equal width, shape ``(count, n * n)``."""
    y, x = _offsets(grey)
    ring = (torch.hypot(y, x) / (grey.shape[-1] / 2) * count).floor().flatten()
    inside = torch.stack([ring == index for index in range(count)]).to(grey)
    return inside / inside.sum(1, keepdim=True)


def _offsets(grey: Tensor) -> tuple[Tensor, Tensor]:
    along = torch.arange(grey.shape[-1], device=grey.device) - (grey.shape[-1] - 1) / 2
    return along[:, None], along


def _ring_moments(values: Tensor, rings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of images in rings, each of shape ``(B, rings)``."""
    mean = values.flatten(1) @ rings.T
    square = values.square().flatten(1) @ rings.T
    return mean, (square - mean.square()).clamp_min(1e-8).sqrt()


def _edges(grey: Tensor, sigma: float) -> Tensor:
    """What the gradient at one scale looks like in rings, shape ``(B, 4 * EDGE_RINGS)``."""
    right, down = _gradient(grey, sigma)
    y, x = _offsets(grey)
    outward = (right * x + down * y) / torch.hypot(y, x).clamp_min(0.5)
    # Not hypot, whose gradient at 0 is not a number.
    strength = (right.square() + down.square() + 1e-12).sqrt()
    rings = _rings(grey, EDGE_RINGS)
    mean, spread = _ring_moments(strength, rings)
    out = outward.flatten(1) @ rings.T / mean
    radial = (2 * outward.square() / strength - strength).flatten(1) @ rings.T / mean
    return torch.cat([mean.log(), out, radial, (spread / mean + 1e-3).log()], 1)


def _gradient(grey: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivatives of the blurred image, which is mirrored at its edge."""
    size = grey.shape[-1]
    margin = size // 4
    wide = F.pad(grey[:, None], (margin,) * 4, mode="reflect")[:, 0]
    y = torch.fft.fftfreq(wide.shape[-1], device=grey.device)[:, None]
    x = torch.fft.rfftfreq(wide.shape[-1], device=grey.device)
    blurred = torch.fft.rfft2(wide) * torch.exp(-2 * (math.pi * sigma) ** 2 * (x**2 + y**2))
    inside = slice(margin, margin + size)
    right, down = (
        # The finest frequency has no derivative on the grid.
        torch.fft.irfft2(blurred * 2j * math.pi * axis * (axis.abs() < 0.5), s=wide.shape[1:])[
            :, inside, inside
        ]
        for axis in (x, y)
    )
    return right, down
