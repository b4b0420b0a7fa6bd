# SPDX-License-Identifier: Apache-2.0
"""Two ways to read one image out of a noisy layer: one row divided, or the mean of all rows.

Threat model: as :mod:`mammo_dp.attacks.reconstruction.isolated`, in one round. Traps in the
literature divide the gradient of one row by that of its bias; the clip has spread the image over
all ``M`` active rows, so the noise of one has variance ``M sigma^2 (||x||^2 + 1)`` per pixel. Their
mean leaves ``sigma^2 (||x||^2 + 1)``, whatever ``M``: a division that fails under noise is no
evidence that reconstruction does.

Source: division, Boenisch et al. 2021, arXiv 2112.02918; the variances are derived in this project.
"""

from typing import Literal

import numpy as np

from mammo_dp.attacks.reconstruction.engine import mean_update
from mammo_dp.attacks.reconstruction.isolated import one_crop_each, pooled
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.reconstruction.server import FirstLayer, IsolatingNet
from mammo_dp.privacy.training.sampling import draw

How = Literal["division", "mean_of_rows"]


def read_rows(
    images: Images, *, noise_multiplier: float, rows: int, resolution: int, key: int
) -> dict[How, Images]:
    """One noisy update for each image, read in both ways.

    Args:
        images: One image per patient, shape ``(targets, edge, edge)``, in ``[0, 1]``.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rows: Rows that an image fires, ``M``, > 0.
        resolution: Edge that the server averages images down to, in pixels.
        key: 256 bits of the clients' noise.

    Returns:
        By way, shape ``(targets, resolution, resolution)``, unbiased up to the error of a divisor.
    """
    shape = (resolution, resolution)
    small = pooled(images, resolution)
    net = IsolatingNet(FirstLayer(resolution), targets=1, rows=rows, bias=True)
    found: dict[How, list[Images]] = {"division": [], "mean_of_rows": []}
    for target, image in enumerate(images):
        stream = draw(key, target, rows)
        update = mean_update(
            net,
            net.losses,
            one_crop_each(image[None]),
            noise_multiplier=noise_multiplier,
            key=int.from_bytes(stream.bytes(32), "little"),
        )
        weight, bias = (update[f"rows.{name}"].double().numpy() for name in ("weight", "bias"))
        found["division"].append((weight[0] / bias[0]).reshape(shape))
        # The norm is granted, as everywhere: a divisor of one number would be as noisy as one row.
        norm = np.sqrt(rows * ((small[target] ** 2).sum() + 1))
        found["mean_of_rows"].append((weight.mean(axis=0) * max(1.0, norm)).reshape(shape))
    return {how: np.stack(seen) for how, seen in found.items()}
