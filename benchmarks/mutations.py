# SPDX-License-Identifier: Apache-2.0
"""Faults put into a scratch copy of the source, and whether the command line finds them.

    python benchmarks/mutations.py                   # about 10 minutes on one CPU core
    python benchmarks/mutations.py --only "noise"    # names that contain a word

Each fault is one patch. The copy then runs `mammo-dp fit` on phantom patients; a fit that is
refused was caught by a check at run time, any other is audited by `mammo-dp attack audit`, which
exits with status 1 if it refutes the statement. The source itself, first, must pass both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "gan", "classifier", "mammo_dp")
CANARIES = 300
MAIN = "import sys; from mammo_dp.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Fault:
    """One mutation.

    Attributes:
        name: For people.
        file: Below the root of the source.
        old: What stands there, exactly once.
        new: What takes its place.
        settings: Flags of the fit.
    """

    name: str
    file: str
    old: str
    new: str
    settings: tuple[str, ...] = ()


PRIVACY = "mammo_dp/privacy"
FAULTS = (
    Fault(
        "noise x .5",
        f"{PRIVACY}/noise.py",
        "scale = self.noise_multiplier * self.max_grad_norm",
        "scale = 0.5 * self.noise_multiplier * self.max_grad_norm",
    ),
    Fault(
        "noise x .9",
        f"{PRIVACY}/noise.py",
        "scale = self.noise_multiplier * self.max_grad_norm",
        "scale = 0.9 * self.noise_multiplier * self.max_grad_norm",
    ),
    Fault(
        "clip per crop",
        f"{PRIVACY}/training.py",
        "accumulate(self.losses, batch, ",
        "accumulate(self.losses, batch._replace(unit=batch.row), ",
    ),
    Fault(
        "clip per crop, in every gradient method",
        f"{PRIVACY}/gradients/units.py",
        "return [int(count) for count in counts.tolist()]",
        "return [1] * int(counts.sum())",
    ),
    Fault(
        "clip at twice the norm",
        f"{PRIVACY}/gradients/units.py",
        "return self.norm / norms.clamp(min=self.norm)",
        "return 2 * self.norm / norms.clamp(min=self.norm)",
    ),
    Fault(
        "units numbered by crop, features",
        f"{PRIVACY}/datamodule.py",
        'unit if crops.unit == "patient" else rows)',
        "rows)",
    ),
    Fault(
        "units numbered by crop, images",
        f"{PRIVACY}/datamodule.py",
        'return batch if self.unit == "patient" else batch._replace(unit=batch.row)',
        "return batch._replace(unit=batch.row)",
        ("--model.init_args.cache_features=false",),
    ),
    Fault(
        "all crops numbered as one unit",
        f"{PRIVACY}/datamodule.py",
        'unit if crops.unit == "patient" else rows)',
        "rows * 0)",
    ),
    Fault(
        "crops drawn in place of patients",
        f"{PRIVACY}/sampling.py",
        "units = manifest.units(manifest.rows(split), unit)",
        'units = manifest.units(manifest.rows(split), "crop")',
    ),
    Fault(
        "everyone drawn",
        f"{PRIVACY}/sampling.py",
        "random(self.units) < self.rate",
        "random(self.units) < 1.0",
    ),
    Fault(
        "everyone drawn, by the batch sampler",
        f"{PRIVACY}/sampling.py",
        "for unit in drawn.tolist() for row in rows_of[unit]]",
        "for rows in rows_of for row in rows]",
    ),
    Fault(
        "rows returned that were not drawn",
        f"{PRIVACY}/datamodule.py",
        "for row in rows], dtype=torch.int64)",
        "for row in {*rows, *self.crops.rows[:4]}], dtype=torch.int64)",
    ),
    Fault(
        "one epoch more than accounted",
        f"{PRIVACY}/training.py",
        "        self.accountant.step(noise_multiplier",
        "        if self.global_step < 1 / self.sampling.rate:\n            return before\n"
        "        self.accountant.step(noise_multiplier",
    ),
    Fault(
        "one epoch more than accounted, full batches",
        f"{PRIVACY}/training.py",
        "        self.accountant.step(noise_multiplier",
        "        if self.global_step < 1 / self.sampling.rate:\n            return before\n"
        "        self.accountant.step(noise_multiplier",
        ("--data.init_args.rate=1.0",),
    ),
    Fault(
        "fixed noise on resume, one key for all starts",
        f"{PRIVACY}/sampling.py",
        "return secrets.randbits(_KEY_BITS)",
        "return 7",
    ),
    Fault(
        "fixed noise on resume, key of the optimizer",
        f"{PRIVACY}/noise.py",
        "draw(self.key, step, NOISE",
        "draw(7, step, NOISE",
    ),
    Fault(
        "the same noise in each step",
        f"{PRIVACY}/noise.py",
        "draw(self.key, step, NOISE",
        "draw(self.key, 0, NOISE",
    ),
)


def settings(folder: Path) -> Path:
    """Configuration of a private fit of a head on measurements of crops."""
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "mammo_dp.DPCropClassifier",
            "init_args": {
                "backbone": "crop_measurements",
                "backbone_args": {"components": 8},
                "image_size": 64,
                "trainable": "head",
                "target_epsilon": 6.0,
                "delta": 1e-3,
                "views": 1,
                "optimizer": "descent",
                "ema_decay": None,
            },
        },
        "data": {
            "class_path": "mammo_dp.DPCropsDataModule",
            "init_args": {"image_size": 64, "augment": "none", "rate": 0.25},
        },
        "trainer": {
            "max_steps": 12,
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
        },
    }
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def copied(folder: Path, fault: Fault | None) -> Path:
    """A copy of the packages, with the fault in it."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        path = folder / fault.file
        text = path.read_text()
        if (found := text.count(fault.old)) != 1:
            raise SystemExit(f"{fault.name}: {fault.old!r} stands {found} times in {fault.file}.")
        path.write_text(text.replace(fault.old, fault.new))
    return folder


def command(source: Path, *words: str) -> tuple[int, str]:
    """Exit status and output of `mammo-dp`, from a copy of the source."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        env=os.environ | {"PYTHONPATH": str(source), "MAMMO_DP_COHORT_KEY": "00" * 32},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def outcome(source: Path, config: Path, crops: Path, flags: Sequence[str]) -> str:
    """What finds the fault of a copy, and its words."""
    run = source / "run"
    data = f"--data.init_args.crops={crops}"
    fit = ("fit", "--config", str(config), "--run_dir", str(run), data, *flags)
    status, said = command(source, *fit)
    if status:
        return f"caught at run time: {reason(said)}"
    status, said = command(source, "attack", "audit", "--run", str(run), f"--canaries={CANARIES}")
    if status:
        return f"caught by the audit: {reason(said)}"
    return "not caught"


def reason(said: str) -> str:
    """The first line that names a finding, or the refusal."""
    lines = [line for line in said.splitlines() if line.strip()]
    found = [line for line in lines if line.startswith(("FINDING", "mammo-dp"))]
    return (found or lines or ["no words"])[0][:160]


def main() -> None:
    """Prints one line per fault; exits with status 1 if one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run faults whose name contains this word")
    chosen = [fault for fault in FAULTS if parser.parse_args().only in fault.name]
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, clean = settings(folder), copied(folder / "clean", None)
        archive, crops = folder / "archive", folder / "crops"
        for words in (
            ("prepare", "phantom_archive", "--patients", "60", "--out", str(archive)),
            ("prepare", "cbis_ddsm", "--root", str(archive), "--out", str(crops), "--size", "64"),
        ):
            status, said = command(clean, *words)
            if status:
                raise SystemExit(said)
        found = outcome(clean, config, crops, ())
        print(f"{'the source as it is':46} {found}", flush=True)
        if found != "not caught":
            raise SystemExit(1)
        for number, fault in enumerate(chosen):
            source = copied(folder / f"fault{number}", fault)
            found = outcome(source, config, crops, fault.settings)
            print(f"{fault.name:46} {found}", flush=True)
            missed += [fault.name] if found == "not caught" else []
            shutil.rmtree(source)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
