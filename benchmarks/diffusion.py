# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a private step of a latent diffusion, as ratios to an ordinary one.

    python benchmarks/diffusion.py                   # about half an hour on a busy CPU core

A step is forward pass, gradients, clip, noise and Adam on the codes of 8 crops or volumes with 4
pairs of time and noise each; two crops are one patient. An ordinary step sees the same pairs and
trains the same part, without clip and noise. Times are processor time, interleaved in one process,
and the best of some rounds counts; memory is the growth of a fresh process.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_prep  # noqa: F401  declares what torchvision lacks before timm is imported

# isort: split
import torch
from torch.optim import Adam

from data_prep.datamodule import CropBatch
from mammo_dp import DPLatentDiffusion
from mammo_dp.privacy.training.gradients.methods import build
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import new_key

CROPS, PAIRS = 8, 4
SIZES: dict[int, dict[str, Any]] = {
    2: {"image_size": 64},
    3: {"spatial_dims": 3, "depth": 32, "image_size": 32, "channels": (32, 64, 64)},
}
COLUMNS = ("ordinary", "book_keeping", "loop", "opacus")
PARTS = ("attention", "lora", "norm_bias", "all")
Step = Callable[[], None]


class Outside(DPLatentDiffusion):
    """Outside of a fit."""

    @property
    def _datamodule(self) -> Any:  # noqa: ANN401
        return SimpleNamespace(key=1)


def step_of(dims: int, part: str, column: str) -> Step:
    torch.manual_seed(0)
    model = Outside(
        target_epsilon=1.0,
        trainable=part,  # type: ignore[arg-type]
        pairs=PAIRS,
        encoder_channels=(8, 16, 32, 32),
        latent_channels=8,
        **SIZES[dims],
    )
    model.choose_trainable()
    row = torch.arange(CROPS)
    width = model.settings.latent_size + model.conditions.width
    batch = CropBatch(torch.randn(CROPS, PAIRS, 1, 1, width), row % 2, row, row // 2)
    trained = [p for p in model.net.parameters() if p.requires_grad]
    optimizer = Adam(trained, lr=1e-4)
    if column == "ordinary":

        def ordinary() -> None:
            optimizer.zero_grad()
            model.losses(batch).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return ordinary
    sums_of = build(model.net, column, CROPS * PAIRS)  # type: ignore[arg-type]
    steps = iter(range(10**9))
    noisy = PrivateOptimizer(
        optimizer,
        noise_multiplier=1.0,
        clipping_norm=1.0,
        expected_units=CROPS / 2,
        key=new_key(),
        account=lambda: next(steps),
    )

    def private() -> None:
        sums = [torch.zeros_like(p) for p in trained]
        sums_of.accumulate(model.losses, batch, sums, Clip(norm=1.0))
        noisy.take(dict(zip(trained, sums, strict=True)))
        noisy.step()
        noisy.zero_grad(set_to_none=True)

    return private


def grown(dims: int, part: str, column: str) -> float:
    """Growth of a fresh process by two steps, in megabytes."""
    words = ["--dims", str(dims), "--parts", part, "--memory_of", column]
    found = subprocess.run(
        [sys.executable, __file__, *words], check=True, capture_output=True, encoding="utf-8"
    )
    return float(found.stdout)


def resident(kind: str) -> float:
    """Memory of this process, now (VmRSS) or at most (VmHWM), in megabytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(float(line.split()[1]) for line in status.splitlines() if kind in line) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory_of", choices=COLUMNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory_of:
        step = step_of(given.dims[0], given.parts[0], given.memory_of)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts here
        before = resident("VmRSS")
        for _ in range(2):
            step()
        print(resident("VmHWM") - before)
        return
    for dims in given.dims:
        for part in given.parts:
            steps = {column: step_of(dims, part, column) for column in COLUMNS}
            best = dict.fromkeys(COLUMNS, float("inf"))
            for _ in range(given.rounds):
                for column, step in steps.items():
                    started = time.process_time()
                    step()
                    best[column] = min(best[column], time.process_time() - started)
            memory = {column: grown(dims, part, column) for column in COLUMNS}
            first, space = best["ordinary"], memory["ordinary"]
            ratios = [f"{best[c] / first:.2f} | {memory[c] / space:.2f}" for c in COLUMNS[1:]]
            plain = f"{1000 * first:.0f} ms | {space:.0f} MB"
            print(f"| {dims}-D, {part} | {plain} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
