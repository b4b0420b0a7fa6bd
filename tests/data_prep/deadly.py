# SPDX-License-Identifier: Apache-2.0
"""Preloaded by workers of tests: images of some names hang or end the process that reads them."""

import os
import time
from pathlib import Path
from typing import Any

from data_prep import cut_image
from data_prep.dicom import Mammogram
from data_prep.images import read_image


def _deadly(path: Path, **settings: Any) -> Mammogram:
    if "hang" in path.name:
        time.sleep(1000)
    if "die" in path.name:
        os._exit(3)
    if "slow" in path.name:
        time.sleep(0.1)
    return read_image(path, **settings)


def dask_setup(worker: object) -> None:
    """Called by dask in each worker."""
    setattr(cut_image, "read_image", _deadly)  # noqa: B010 - it is imported there
