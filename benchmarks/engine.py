# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a private step, as ratios to an ordinary one, beside Opacus' PrivacyEngine.

    python benchmarks/engine.py                      # about 40 minutes on one CPU core
    python benchmarks/engine.py --device cuda        # the same on a GPU
    python benchmarks/engine.py --only "ViT-Ti, all" --measure time

A step is forward pass, gradients, clip, noise and SGD on one batch at 224 px; one crop is one unit,
since Opacus knows no other, and two crops are one patient in the column `patients`. Times of a row
are interleaved in one process and the best of some rounds counts; memory is the growth of a fresh
process that does nothing else (on a GPU, of allocated memory). `noise` is the time of the noise per
value, beside one float32 draw from SFC64, which is no cipher, and its share of private steps of as
many crops as `--crops` says. The last line times whole fits.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import data_prep  # noqa: F401  declares what torchvision lacks before timm is imported

# isort: split
import lightning
import numpy as np
import opacus
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from classifier.backbones import Trainable, build, select_trainable
from data_prep.datamodule import CropBatch
from data_prep.prepare import phantoms
from mammo_dp import DPCropClassifier, DPCropsDataModule
from mammo_dp.privacy.training.gradients.methods import Method
from mammo_dp.privacy.training.gradients.methods import build as build_sums
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import new_key

SIZE, NOISE, CLIP = 224, 1.0, 1.0
MEASURES = ("time", "memory", "noise", "cache")
Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    name: str
    backbone: str
    trainable: Trainable
    batch: int


VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
CASES = (
    Case("ViT-Ti, head", VIT, "head", 8),
    Case("ViT-Ti, last block", VIT, "last_blocks", 8),
    Case("ViT-Ti, bias + norm", VIT, "norm_bias", 8),
    Case("ViT-Ti, LoRA", VIT, "lora", 8),
    Case("ViT-Ti, all", VIT, "all", 8),
    Case("Swin-T, head", SWIN, "head", 4),
    Case("Swin-T, last block", SWIN, "last_blocks", 4),
    Case("Swin-T, bias + norm", SWIN, "norm_bias", 4),
    Case("Swin-T, LoRA", SWIN, "lora", 4),
    Case("Swin-T, all", SWIN, "all", 4),
)
COLUMNS = ("ordinary", "book_keeping", "patients", "loop", "opacus hooks", "opacus ghost")


def net_of(case: Case, device: str) -> nn.Module:
    torch.manual_seed(0)
    net = build(case.backbone, image_size=SIZE, backbone_args={"drop_path_rate": 0.0})
    select_trainable(net, case.trainable)
    return net.train().to(device)


def batch_of(case: Case, device: str, crops_per_unit: int = 1) -> CropBatch:
    row = torch.arange(case.batch, device=device)
    image = torch.randn(case.batch, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return CropBatch(image.to(device), row % 2, row, row // crops_per_unit)


def step_of(case: Case, column: str, device: str) -> Step:
    """One training step by one method; raises what Opacus raises where it refuses."""
    net = net_of(case, device)
    batch = batch_of(case, device, 2 if column == "patients" else 1)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)

    def losses(piece: CropBatch) -> Tensor:
        logits = net(piece.image).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits, piece.malignant.float(), reduction="none")

    if column == "ordinary":

        def ordinary() -> None:
            losses(batch).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        return ordinary
    if column.startswith("opacus"):
        return opacus_step(net, optimizer, batch, column.removeprefix("opacus "))
    method: Method = "book_keeping" if column == "patients" else column  # type: ignore[assignment]
    sums_of = build_sums(net, method, case.batch)
    steps = iter(range(10**9))
    private = PrivateOptimizer(
        optimizer,
        noise_multiplier=NOISE,
        clipping_norm=CLIP,
        expected_units=float(case.batch),
        key=new_key(),
        account=lambda: next(steps),
    )

    def ours() -> None:
        sums = {p: torch.zeros_like(p) for p in trained}
        sums_of.accumulate(losses, batch, list(sums.values()), Clip(norm=CLIP))
        private.take(sums)
        private.step()
        private.zero_grad(set_to_none=True)

    return ours


def opacus_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: CropBatch, mode: str
) -> Step:
    """The step of Opacus' own engine on the same batch, as its users write it."""
    target = batch.malignant.float()[:, None]
    loader = DataLoader(TensorDataset(batch.image.cpu(), target.cpu()), batch_size=len(target))
    criterion = nn.BCEWithLogitsLoss(reduction="mean")
    made = opacus.PrivacyEngine().make_private(
        module=net,
        optimizer=optimizer,
        data_loader=loader,
        criterion=criterion,
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    model, private = made[0], made[1]
    loss_of = made[2] if mode == "ghost" else criterion

    def step() -> None:
        private.zero_grad()
        loss_of(model(batch.image), target).backward()
        private.step()

    return step


def timed(step: Step, device: str) -> float:
    """Seconds of a step: of the processor on a CPU, so that other processes do not count."""
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def times_of(case: Case, device: str, rounds: int) -> dict[str, str]:
    """Milliseconds of an ordinary step, and the ratios of the others to it."""
    steps: dict[str, Step] = {}
    cells: dict[str, str] = {}
    for column in COLUMNS:
        try:
            step = step_of(case, column, device)
            step()  # compiles, allocates, and finds out late refusals
            steps[column] = step
        except Exception as error:  # Opacus refuses with errors of many types
            cells[column] = f"refused ({type(error).__name__})"
    times: dict[str, list[float]] = {column: [] for column in steps}
    for _ in range(rounds):
        for column, step in steps.items():
            times[column].append(timed(step, device))
    best = {column: min(found) for column, found in times.items()}
    for column in steps:
        ratio = best[column] / best["ordinary"]
        cells[column] = f"{1000 * best[column]:.0f} ms" if column == "ordinary" else f"{ratio:.2f}"
    return cells


def memory_of(case: Case, device: str) -> dict[str, str]:
    """Megabytes by which an ordinary step grows a process, and the ratios of the others to it."""
    grown = {column: peak_of(case, column, device) for column in COLUMNS}
    ordinary = grown["ordinary"]
    assert ordinary is not None
    return {
        column: "refused"
        if peak is None
        else f"{peak:,.0f} MB"
        if column == "ordinary"
        else f"{peak / ordinary:.2f}"
        for column, peak in grown.items()
    }


def peak_of(case: Case, column: str, device: str) -> float | None:
    """Growth of memory in a process of its own, in MB; none where Opacus refuses."""
    found = subprocess.run(
        [sys.executable, __file__, "--cell", case.name, column, "--device", device],
        capture_output=True,
        text=True,
        check=not column.startswith("opacus"),
        encoding="utf-8",
    )
    return float(found.stdout.strip().splitlines()[-1]) if found.returncode == 0 else None


def print_peak(case: Case, column: str, device: str) -> None:
    step = step_of(case, column, device)
    with torch.no_grad():  # libraries allocate at first use
        net_of(case, device)(batch_of(case, device).image[:1])
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:  # not `ru_maxrss`, which a process inherits from the one that started it
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts here
        before = status("VmRSS")
    for _ in range(2):
        step()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")
    print((peak - before) / 1e6)


def status(name: str) -> int:
    """Bytes of memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def noise_of(case: Case, device: str, rounds: int, crops: list[int]) -> dict[str, str]:
    """Nanoseconds per value of noise, and its share of private steps."""
    trained = [p for p in net_of(case, device).parameters() if p.requires_grad]
    sums = {p: torch.zeros_like(p) for p in trained}
    steps = iter(range(10**9))
    private = PrivateOptimizer(
        torch.optim.SGD(trained, lr=0.0),
        noise_multiplier=NOISE,
        clipping_norm=CLIP,
        expected_units=float(case.batch),
        key=new_key(),
        account=lambda: next(steps),
    )

    def noise() -> None:
        private.take(sums)
        private.add_noise()

    def one_draw() -> None:
        generator = np.random.Generator(np.random.SFC64(0))
        for p in trained:
            z = torch.from_numpy(generator.standard_normal(p.shape, np.float32))
            p.grad = torch.add(sums[p], z.to(p.device), alpha=NOISE * CLIP)

    seconds, one = (
        min(timed(each, device) for _ in range(rounds + 1)) for each in (noise, one_draw)
    )
    values = sum(p.numel() for p in trained)
    cells = {
        "values": f"{values:,}",
        "noise": f"{1e9 * seconds / values:.0f} ns",
        "one draw": f"{1e9 * one / values:.0f} ns",
    }
    for count in crops:
        step = step_of(replace(case, batch=count), "book_keeping", device)
        step()
        whole = min(timed(step, device) for _ in range(rounds))
        cells[f"{count} crops"] = f"{seconds / whole:.1%} of {whole:.2f} s"
    return cells


class Clock(lightning.Callback):
    """Seconds from the start of the first step to the end of the last."""

    start = stop = 0.0

    def on_train_start(self, *_: object) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        self.stop = time.perf_counter()


def cached_fits(device: str) -> str:
    """Seconds per step of whole fits of a ViT-Ti head, with and without cached features."""
    with tempfile.TemporaryDirectory() as folder:
        phantoms(out=f"{folder}/phantoms", per_class=64, size=64)
        seconds = {}
        for cached, steps in ((True, 200), (False, 2)):
            torch.manual_seed(0)
            model = DPCropClassifier(
                backbone=VIT,
                image_size=SIZE,
                trainable="head",
                target_epsilon=6.0,
                delta=1e-3,
                views=4,
                cache_features=cached,
            )
            clock = Clock()
            lightning.Trainer(
                default_root_dir=f"{folder}/{cached}",
                max_steps=steps,
                accelerator="gpu" if device == "cuda" else "cpu",
                devices=1,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[clock],
            ).fit(
                model,
                DPCropsDataModule(f"{folder}/phantoms", image_size=SIZE, unit="crop", rate=0.5),
            )
            seconds[cached] = (clock.stop - clock.start) / steps
    ratio = seconds[False] / seconds[True]
    return (
        f"Head of ViT-Ti at 224 px, 4 views, about 64 crops a step, whole fits: "
        f"{1000 * seconds[False]:,.0f} ms a step without cached features, "
        f"{1000 * seconds[True]:.1f} ms with: {ratio:,.0f} times faster."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=4, help="the best counts")
    parser.add_argument("--only", help="name of one row")
    parser.add_argument("--measure", nargs="*", default=MEASURES, choices=MEASURES)
    parser.add_argument("--crops", type=int, nargs="*", default=[8, 64], help="of `noise`")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    by_name = {case.name: case for case in CASES}
    if chosen.cell:
        print_peak(by_name[chosen.cell[0]], chosen.cell[1], chosen.device)
        return
    where = torch.cuda.get_device_name() if chosen.device == "cuda" else cpu_name()
    print(
        f"{where}, {chosen.threads} thread(s), torch {torch.__version__}, timm {timm.__version__}, "
        f"opacus {opacus.__version__}, 224 px, float32; batch 8 (ViT), 4 (Swin)\n"
    )
    cases = [case for case in CASES if chosen.only in (None, case.name)]
    for measure in chosen.measure:
        if measure == "cache":
            print(cached_fits(chosen.device))
            continue
        columns: tuple[str, ...] = COLUMNS
        if measure == "noise":
            columns = ("values", "noise", "one draw", *(f"{n} crops" for n in chosen.crops))
        print(f"{measure}\n\n| trained part | " + " | ".join(columns) + " |")
        print("| --- |" + " --- |" * len(columns), flush=True)
        for case in cases:
            if measure == "time":
                cells = times_of(case, chosen.device, chosen.rounds)
            elif measure == "noise":
                cells = noise_of(case, chosen.device, chosen.rounds, chosen.crops)
            else:
                cells = memory_of(case, chosen.device)
            row = " | ".join(cells[column] for column in columns)
            print(f"| {case.name} | {row} |", flush=True)
        print()


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
