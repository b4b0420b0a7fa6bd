import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def windowed_power(images: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean power spectrum of images of one size, each cut out smoothly."""
    shown = np.stack(list(images)).astype(np.float64)
    window = np.hanning(shown.shape[1])
    shown = (shown - shown.mean(axis=(1, 2), keepdims=True)) * np.outer(window, window)
    return np.asarray(np.mean(np.abs(np.fft.fft2(shown)) ** 2, axis=0))


def spectral_slope(images: Iterable[NDArray[np.float32]]) -> float:
    """Naive exponent: a fit to the mean power of rings."""
    power = windowed_power(images)
    size = len(power)
    rings: dict[int, list[float]] = {}
    for row in range(size):
        for column in range(size):
            fy, fx = (min(k, size - k) for k in (row, column))
            rings.setdefault(round(math.hypot(fy, fx)), []).append(power[row, column])
    orders = np.arange(3, size // 3)
    fit = np.polyfit(np.log(orders), np.log([np.mean(rings[k]) for k in orders.tolist()]), 1)
    return float(-fit[0])


def grid_index(images: Iterable[NDArray[np.float32]], fraction: int) -> float:
    """Largest power at multiples of 1/fraction cycles per pixel over that of the neighbours."""
    power = windowed_power(images)
    size = len(power)
    k = size // fraction
    ratios = []
    for row, column in ((k, k), (k, 0), (0, k)):
        near = (np.arange(at - 4, at + 5) % size for at in (row, column))
        ratios.append(power[row, column] / np.median(power[np.ix_(*near)]))
    return float(max(ratios))
