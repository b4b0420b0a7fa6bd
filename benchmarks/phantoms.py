# SPDX-License-Identifier: Apache-2.0
"""Phantom crops per second: into a folder by several processes, and the parts of one process.

    python benchmarks/phantoms.py --workers 2        # about a minute

The last lines compare the folder with two bounds. The first is the number of workers times the
rate of one process that draws, renders and saves; what is missing is the start of the workers and
the time that they wait for one another. The second counts only Fourier transforms.
Wall-clock rates need an idle machine; processor times, which include those of the workers, are
fair on a busy one. The parts take turns, and the best round of each counts.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy import fft

from data_prep.crop_image import save_crop_image
from data_prep.phantoms.crops import CHUNK, phantom_cases, render, to_16_bit, write_phantom_crops
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.phantoms.texture import PADDING
from data_prep.phantoms.tissue import FINE, SMOOTH

KNOWN = PhantomParameters()
PARTS = 20 * CHUNK  # crops that each part is measured with


def processor_time() -> float:
    """Seconds of this process and of its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def transforms(size: int) -> None:
    """Fourier transforms of one chunk: background, sheets, lobes and the texture of masses."""
    padded = fft.next_fast_len(round(PADDING * size), real=True)
    for finest in (FINE, SMOOTH, SMOOTH, SMOOTH):
        columns = min(padded // 2, finest) + 1
        waves = fft.ifft(np.ones((CHUNK, padded, columns), np.complex64), axis=1, overwrite_x=True)
        fft.irfft(waves[:, :size], padded, axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--crops", type=int, default=4000, help="crops in the folder")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    size, workers = chosen.size, chosen.workers
    cv2.setNumThreads(1)
    cases = phantom_cases(0, PARTS, parameters=KNOWN)
    images = to_16_bit(render(cases, size=size))

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def saved() -> None:
            for i, image in enumerate(images):
                save_crop_image(root / "alone" / f"{i}.png", image)

        def bare() -> None:
            for _ in range(0, PARTS, CHUNK):
                transforms(size)

        def written() -> None:
            write_phantom_crops(
                root / "whole", per_class=chosen.crops // 2, size=size, workers=workers
            )

        rows: dict[str, tuple[int, Callable[[], object]]] = {
            "cases drawn": (PARTS, lambda: phantom_cases(0, PARTS, parameters=KNOWN)),
            "rendered": (PARTS, lambda: render(cases, size=size)),
            "saved": (PARTS, saved),
            "transforms": (PARTS, bare),
            f"folder, {workers} workers": (chosen.crops, written),
        }
        walls: dict[str, float] = {}
        costs: dict[str, float] = {}
        for _ in range(chosen.rounds):
            for name, (crops, work) in rows.items():
                wall, processor = time.perf_counter(), processor_time()
                work()
                cost = (processor_time() - processor) / crops
                wall = (time.perf_counter() - wall) / crops
                walls[name] = min(wall, walls.get(name, wall))
                costs[name] = min(cost, costs.get(name, cost))

    print(f"{size} px, {chosen.crops} crops in the folder, best of {chosen.rounds}")
    print(f"{'':28}{'crops / s':>12}{'ms of processor / crop':>26}")
    for name in rows:
        print(f"{name:28}{1 / walls[name]:12.0f}{1e3 * costs[name]:26.2f}")
    drawn, rendered, stored, floor, whole = rows
    one = sum(costs[name] for name in (drawn, rendered, stored))
    print(
        f"folder's rate / {workers} times the rate of one process: "
        f"{one / workers / walls[whole]:.2f}; by processor time alone: {one / costs[whole]:.2f}"
    )
    print(
        f"folder's rate / {workers} times that of transforms: "
        f"{costs[floor] / workers / walls[whole]:.2f}"
    )


if __name__ == "__main__":
    main()
