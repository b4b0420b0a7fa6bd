# SPDX-License-Identifier: Apache-2.0
"""The eight symmetries of the square: all ways in which a copy of a crop can be turned.

Augmentation draws from them (``D4`` in :mod:`data_prep.transforms`), so whoever looks for copies
must look in all of them.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SYMMETRIES = 8
Square = TypeVar("Square", NDArray[np.float32], NDArray[np.float64], NDArray[np.uint16], Tensor)


def symmetric(images: Square, number: int) -> Square:
    """Images under one symmetry, pixel by pixel.

    Args:
        images: Shape ``(..., size, size)``, an array or a tensor.
        number: In ``[0, SYMMETRIES)``; 0 changes nothing, 1 mirrors left and right, 2 upper and
            lower side, 3 both, and 4 to 7 do the same after an exchange of rows and columns.

    Raises:
        ValueError: For another number or images that are not square.

    >>> symmetric(np.array([[1.0, 2.0], [3.0, 4.0]]), 5)
    array([[3., 1.],
           [4., 2.]])
    """
    if not 0 <= number < SYMMETRIES or images.shape[-1] != images.shape[-2]:
        raise ValueError(
            f"symmetric: {number=}, shape {tuple(images.shape)}. Give a number from 0 to "
            f"{SYMMETRIES - 1} and square images."
        )
    backwards: Any = list(range(images.shape[-1]))[::-1]  # tensors have no negative steps
    if number & 4:
        images = images.swapaxes(-1, -2)
    if number & 2:
        images = images[..., backwards, :]
    return images[..., backwards] if number & 1 else images


def inverse(number: int) -> int:
    """The symmetry that undoes another one.

    Args:
        number: In ``[0, SYMMETRIES)``; only the quarter turns, 5 and 6, do not undo themselves.
    """
    return {5: 6, 6: 5}.get(number, number)
