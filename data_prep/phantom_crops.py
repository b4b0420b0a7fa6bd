# SPDX-License-Identifier: Apache-2.0
"""A folder of phantom crops, drawn and written in parallel."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.crop_set import watched
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest
from data_prep.phantom_parameters import PhantomError, PhantomParameters
from data_prep.phantom_texture import FloatImage
from data_prep.phantoms import CHUNK, phantom_cases, render


def write_phantom_crops(
    out: Path,
    *,
    per_class: int,
    size: int = 128,
    seed: int = 0,
    parameters: PhantomParameters | None = None,
    workers: int | None = None,
) -> CropsManifest:
    """Writes a folder of phantom crops; every tenth pair is for validation.

    Args:
        out: Folder for ``crops.csv`` and ``images/``.
        per_class: Crops of each class, ``>= 1``.
        size: Edge of a crop, in pixels, ``>= 16``.
        seed: Seed of the stream.
        parameters: Population; the default one if not given.
        workers: Threads, as many as processors if not given; they change the time, not the crops.

    Raises:
        PhantomError: For a number of crops or a size below the stated ones.
    """
    for name, value, least in (("per_class", per_class, 1), ("size", size, 16)):
        if value < least:
            raise PhantomError(name, value, f"Give at least {least}.")
    known = parameters or PhantomParameters()
    total = 2 * per_class

    def write(start: int) -> list[Crop]:
        cases = phantom_cases(start, min(start + CHUNK, total), seed=seed, parameters=known)
        pictures = to_16_bit(render(cases, size=size))
        crops = []
        for index, (case, pixels) in enumerate(zip(cases, pictures, strict=True), start=start):
            file = f"images/phantom_{index:06d}.png"
            crops.append(
                Crop(
                    file=file,
                    patient_id="",
                    lesion_id="1",
                    image_id=f"{index:06d}",
                    view=case.view,
                    malignant=case.malignant,
                    split="val" if index // 2 % 10 == 9 else "train",
                    origin="phantom",
                    label_source="phantom",
                    crop_rule="centred",
                    sha256=save_crop_image(out / file, pixels),
                    fingerprint=fingerprint(pixels),
                    attributes=case.attributes,
                )
            )
        return crops

    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        chunks = [pool.submit(write, start) for start in range(0, total, CHUNK)]
        rows = [crop for chunk in watched(chunks, "Phantom crops") for crop in chunk.result()]
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, nothing more is begun
    return CropsManifest.write(out, rows)


def to_16_bit(pictures: FloatImage) -> NDArray[np.uint16]:
    """Rounds pictures with values in ``[0, 1]`` to ``[0, 65535]``."""
    return np.asarray(np.round(pictures * 65535), np.uint16)
