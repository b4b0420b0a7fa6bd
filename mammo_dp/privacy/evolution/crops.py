# SPDX-License-Identifier: Apache-2.0
"""The released crops: variations of the winners of the last round, as a folder with manifest."""

import numpy as np

from data_prep.crop_image import save_crop_image
from data_prep.crop_set import watched
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.privacy.evolution.account import RoundsAccount, origin
from mammo_dp.privacy.evolution.genome import Simulator
from mammo_dp.privacy.evolution.population import Evolution
from mammo_dp.privacy.evolution.votes import CLASSES

_FULL_SCALE = 65535  # of 16-bit grey


def write_crops(
    evolution: Evolution,
    simulator: Simulator,
    account: RoundsAccount,
    *,
    per_class: int,
    batch_size: int,
) -> CropsManifest:
    """Writes as many benign as malignant crops, and last their manifest.

    Crop ``n`` depends on the last round, the seed and ``n``: a killed run writes the same again.

    Args:
        evolution: The course.
        simulator: Draws the crops.
        account: Of the run folder, all rounds spent.
        per_class: Crops of each class, ``>= 1``.
        batch_size: Crops rendered at once, ``>= 1``.

    Raises:
        PrivacyError: If no round has a result.
    """
    name, folder = origin(account.folder), account.folder
    _, result = account.last() or (0, None)
    assert result is not None  # origin has found it
    weights = evolution.weights(result.votes, account.planned.noise_multiplier)
    rows: list[Crop] = []
    for start in watched(range(0, CLASSES * per_class, batch_size), "Writing crops"):
        numbers = range(start, min(start + batch_size, CLASSES * per_class))
        genomes = [evolution.released(result.candidates, weights, number) for number in numbers]
        images = simulator.render(genomes)
        for number, genome, image in zip(numbers, genomes, images, strict=True):
            malignant = bool(number % CLASSES)
            file = f"images/{number:06d}_{'malignant' if malignant else 'benign'}.png"
            pixels = np.rint(image.astype(np.float64) * _FULL_SCALE).astype(np.uint16)
            rows.append(
                Crop(
                    file=file,
                    patient_id="",
                    lesion_id="1",
                    image_id=f"{number:06d}",
                    malignant=malignant,
                    split="train",
                    origin=name,
                    label_source="generator",
                    crop_rule=simulator.crop_rule,
                    sha256=save_crop_image(folder / file, pixels),
                    fingerprint=fingerprint(pixels),
                    attributes=simulator.attributes(genome),
                )
            )
    return CropsManifest.write(folder, rows)
