# SPDX-License-Identifier: Apache-2.0
"""Grids and lines in the spectrum of crops, and its slope.

Upsampling by transposed convolution leaves power at 1/2 and 1/4 cycles per pixel (Odena 2016, doi
10.23915/distill.00003); the spectrum of breast tissue falls smoothly, as ``1 / f ** beta``
(Burgess 2001, Medical Physics 28:419).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammo_dp.fidelity.samples import FidelityError, Images

Floats = NDArray[np.float64]
# (vertical, horizontal) in quarter cycles per pixel; (1, 1) stands for both diagonals.
GRID = {
    "(1/2, 1/2)": (2, 2),
    "(1/2, 0)": (2, 0),
    "(0, 1/2)": (0, 2),
    "(1/2, 1/4)": (2, 1),
    "(1/4, 1/2)": (1, 2),
    "(1/4, 1/4)": (1, 1),
    "(1/4, 0)": (1, 0),
    "(0, 1/4)": (0, 1),
}
SLOPE_BAND = (3 / 128, 39 / 128)  # cycles per pixel
_SMALLEST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectra:
    """What is kept of the power spectrum of each crop.

    Attributes:
        peak: Power at each frequency of ``GRID``, shape ``(N, 8)``.
        around: Mean power at 3 and 4 bins from it, shape ``(N, 8)``.
        slope: Exponent beta of the power law over ``SLOPE_BAND``, shape ``(N,)``.
    """

    peak: Floats
    around: Floats
    slope: Floats

    def grid_index(self, rows: NDArray[np.int64]) -> Floats:
        """Mean power of some crops on the grid over that around it, shape ``(8,)``.

        1 for a smooth spectrum; a grid or lines of that period stand out.
        """
        index: Floats = self.peak[rows].mean(0) / self.around[rows].mean(0)
        return index


def spectra(images: Images) -> Spectra:
    """Power spectra of crops, their mean removed, under a Hann window.

    Without the window the jump between opposite edges puts power on both axes, which looks like
    lines.

    Args:
        images: Shape ``(N, size, size)``, ``size`` a multiple of 4, at least 32.

    Raises:
        FidelityError: For another size, at which a frequency lies between bins.
    """
    size = images.shape[-1]
    if size % 4 or size < _SMALLEST:
        raise FidelityError(
            f"Crops of {size} px have no bins at a quarter cycle per pixel with room around them. "
            f"Prepare them at a multiple of 4, at least {_SMALLEST}."
        )
    window = np.hanning(size + 1)[:-1]
    offset = np.arange(-4, 5)
    distance = np.maximum(np.abs(offset)[:, None], np.abs(offset))
    ring = distance >= 3
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    shell = np.round(radius * size).astype(int).ravel()
    frequency = np.arange(shell.max() + 1) / size
    band = (frequency >= SLOPE_BAND[0]) & (frequency <= SLOPE_BAND[1])
    members = np.bincount(shell)
    peak, around, slope = [], [], []
    for image in images:
        grey = image - image.mean(dtype=float)
        power = np.abs(np.fft.fft2(grey * window[:, None] * window)) ** 2
        at_peak, beside = [], []
        for vertical, horizontal in GRID.values():
            y = vertical * size // 4
            # the diagonals of a quarter cycle differ, (1/4, 1/4) and (1/4, -1/4)
            places = {horizontal * size // 4, -horizontal * size // 4 % size}
            patches = [power[np.ix_((y + offset) % size, (x + offset) % size)] for x in places]
            at_peak.append(np.mean([patch[4, 4] for patch in patches]))
            beside.append(np.mean([patch[ring].mean() for patch in patches]))
        peak.append(at_peak)
        around.append(beside)
        radial = np.bincount(shell, power.ravel()) / members
        fit = np.polyfit(np.log(frequency[band]), np.log(radial[band] + 1e-12), 1)
        slope.append(-fit[0])
    return Spectra(peak=np.array(peak), around=np.array(around), slope=np.array(slope))
