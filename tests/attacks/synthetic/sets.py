from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.manifest import Crop, CropsManifest
from data_prep.phantoms.crops import phantom_stream

Pixels = NDArray[np.uint16]


def drawn(count: int, seed: int) -> tuple[Pixels, list[bool]]:
    """Phantoms, benign and malignant in turn."""
    phantoms = list(phantom_stream(per_class=(count + 1) // 2, size=32, seed=seed))[:count]
    images = np.stack([phantom.image for phantom in phantoms])
    return np.round(images * 65535).astype(np.uint16), [phantom.malignant for phantom in phantoms]


def write(
    folder: Path,
    pixels: Pixels,
    labels: Sequence[bool],
    *,
    patients: str = "",
    members: int = 0,
) -> CropsManifest:
    """A synthetic set; or, with a prefix of patients' names, a cohort with four crops each.

    Args:
        patients: Prefix of the names.
        members: Crops in split ``train``; the others are in ``val``.
    """
    rows = [
        Crop(
            file=f"images/{i}.png",
            patient_id=f"{patients}{i // 4}" if patients else "",
            lesion_id="1",
            image_id=str(i),
            malignant=labels[i],
            split="train" if not patients or i < members else "val",
            origin="phantom-archive" if patients else "phantom",
            label_source="phantom",
            crop_rule="as-is",
            sha256=save_crop_image(folder / f"images/{i}.png", image),
        )
        for i, image in enumerate(pixels)
    ]
    return CropsManifest.write(folder, rows)
