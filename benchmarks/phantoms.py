# SPDX-License-Identifier: Apache-2.0
"""Phantom crops per second: drawing and rendering alone, and with their files.

    python benchmarks/phantoms.py --workers 2        # about half a minute

Wall-clock rates need an idle machine. Processor time per crop is measured beside them: on an idle
machine with c cores, c workers reach at most c / time crops per second. The best of some rounds
counts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.crop_image import save_crop_image
from data_prep.phantoms.crops import CHUNK, phantom_cases, render, to_16_bit, write_phantom_crops
from data_prep.phantoms.parameters import PhantomParameters

KNOWN = PhantomParameters()


def best(work: Callable[[], None], crops: int, rounds: int) -> tuple[float, float]:
    rates, costs = [], []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        rates.append(crops / (time.perf_counter() - wall))
        costs.append((time.process_time() - processor) / crops)
    return max(rates), 1e3 * min(costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--crops", type=int, default=20 * CHUNK)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    size, count = chosen.size, chosen.crops
    starts = range(0, count, CHUNK)
    images = to_16_bit(render(phantom_cases(0, count, parameters=KNOWN), size=size))

    def drawn() -> None:
        phantom_cases(0, count, parameters=KNOWN)

    def chunk(start: int) -> None:
        render(phantom_cases(start, start + CHUNK, parameters=KNOWN), size=size)

    def rendered(workers: int) -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(chunk, starts))

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def saved() -> None:
            for i, image in enumerate(images):
                save_crop_image(root / "alone" / f"{i}.png", image)

        def written() -> None:
            write_phantom_crops(
                root / "whole", per_class=count // 2, size=size, workers=chosen.workers
            )

        rows: tuple[tuple[str, Callable[[], None]], ...] = (
            ("cases drawn, 1 worker", drawn),
            ("rendered, 1 worker", lambda: rendered(1)),
            (f"rendered, {chosen.workers} workers", lambda: rendered(chosen.workers)),
            ("PNG saved, 1 worker", saved),
            (f"folder written, {chosen.workers} workers", written),
        )
        print(f"{size} px, {count} crops, best of {chosen.rounds}")
        print(f"{'':28}{'crops / s':>12}{'ms of processor / crop':>26}")
        for name, work in rows:
            rate, cost = best(work, count, chosen.rounds)
            print(f"{name:28}{rate:12.0f}{cost:26.2f}")


if __name__ == "__main__":
    main()
