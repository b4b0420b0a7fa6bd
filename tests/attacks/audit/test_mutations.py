"""Faults in the training loop or in the data, each found through the command line.

The same faults as patches of the source are in ``benchmarks/mutations.py``.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest, Unit
from mammo_dp import DPCropsDataModule
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.training import sampling
from mammo_dp.privacy.training.gradients.units import Clip, Losses
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import PoissonSampling
from tests.attacks.audit.mutants import CropsAsUnits, Undrawn, config, private_run
from tests.privacy.training.fits import quiet

pytestmark = quiet
OPTIMIZER = "mammo_dp.privacy.training.optimizer"
Fault = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def run(cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private fit of the code as it is."""
    return private_run(tmp_path_factory.mktemp("stated"), cohort)


def audit(run: Path, out: Path) -> tuple[int, list[str]]:
    """Exit status and findings of an audit."""
    words = ["attack", "audit", "--run", str(run), "--out", str(out), "--canaries", "320"]
    status = main(words)
    return status, json.loads((out / "audit.json").read_text())["findings"]


def half_the_noise(patch: pytest.MonkeyPatch) -> None:
    as_stated = PrivateOptimizer.add_noise

    def add_noise(self: PrivateOptimizer) -> None:
        self.noise_multiplier /= 2
        as_stated(self)
        self.noise_multiplier *= 2

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def clip_per_crop(patch: pytest.MonkeyPatch) -> None:
    """Past the self-check of gradients, and past the check of the draw."""
    as_stated = DPTraining._choose_method

    def choose(self: DPTraining) -> None:
        as_stated(self)
        assert self.clipped_sums is not None
        accumulate = self.clipped_sums.accumulate

        def alone(losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip) -> None:
            accumulate(losses, batch._replace(unit=batch.row), sums, clip)

        self.clipped_sums.accumulate = alone  # type: ignore[method-assign]

    patch.setattr(DPTraining, "_choose_method", choose)


def twice_the_clip(patch: pytest.MonkeyPatch) -> None:
    as_stated = Clip.factors
    patch.setattr(Clip, "factors", lambda self, norms: 2 * as_stated(self, norms))


def crops_drawn_as_if_they_were_patients(patch: pytest.MonkeyPatch) -> None:
    """Sampler and batches agree, and both are wrong."""
    as_stated = CropsManifest.units

    def units(self: CropsManifest, rows: Sequence[int], unit: Unit) -> tuple[tuple[int, ...], ...]:
        return as_stated(self, rows, "crop")

    patch.setattr(CropsManifest, "units", units)


def everyone_drawn(patch: pytest.MonkeyPatch) -> None:
    def sample(self: PoissonSampling, key: int, step: int) -> NDArray[np.int64]:
        return np.arange(self.units)

    patch.setattr(PoissonSampling, "sample", sample)


def noise_of_one_key(patch: pytest.MonkeyPatch) -> None:
    """Draws have fresh keys, noise has not."""
    as_stated = sampling.draw
    patch.setattr(
        "mammo_dp.privacy.training.optimizer.draw", lambda key, *stream: as_stated(7, *stream)
    )


def noise_of_the_first_step(patch: pytest.MonkeyPatch) -> None:
    as_stated = sampling.draw
    patch.setattr(
        "mammo_dp.privacy.training.optimizer.draw",
        lambda key, step, *stream: as_stated(key, 0, *stream),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (half_the_noise, "the noise multiplier is"),
        (clip_per_crop, "a unit moves the noisy sum by"),
        (twice_the_clip, "a unit moves the noisy sum by"),
        (crops_drawn_as_if_they_were_patients, "a unit moves the noisy sum by"),
        (everyone_drawn, "a unit moves the noisy sum by"),
        (noise_of_one_key, "of the pairs of updates have the same noise"),
        (noise_of_the_first_step, "of the pairs of updates have the same noise"),
    ],
)
def test_audit_exits_1_and_names_the_fault(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, message: str
) -> None:
    with monkeypatch.context() as patch:
        fault(patch)
        status, findings = audit(run, tmp_path / "audit")
    assert status == 1
    assert any(message in finding for finding in findings)


@pytest.mark.slow
def test_audit_resumes_and_so_meets_the_refusal_of_a_used_key(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: (2**255 + 7) % 2**bits)
    assert main(["attack", "audit", "--run", str(run), "--out", str(tmp_path / "audit")]) == 1
    assert "resumes with the key of an earlier start" in capsys.readouterr().err


def first_epoch_not_accounted(patch: pytest.MonkeyPatch) -> None:
    as_stated = DPTraining._account_step

    def account(self: DPTraining) -> int:
        if self.global_step < round(1 / self.sampling.rate):
            return self.global_step
        return as_stated(self)

    patch.setattr(DPTraining, "_account_step", account)


@pytest.mark.slow
def test_an_epoch_that_is_not_accounted_is_found(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first_epoch_not_accounted(monkeypatch)
    run = private_run(tmp_path / "full", cohort, rate=1.0)
    stated = json.loads((run / "privacy.json").read_text())
    assert "in 6 steps, of which its account holds 5" in stated["summary"]
    assert main(["attack", "audit", "--run", str(run), "--out", str(tmp_path / "audit")]) == 1
    assert "no claim to audit" in capsys.readouterr().err
    path = config(tmp_path / "sampled", rate=0.5)
    crops = f"--data.init_args.crops={cohort.folder}"
    out = str(tmp_path / "sampled" / "run")
    assert main(["fit", "--config", str(path), "--run_dir", out, crops]) == 1
    assert "is not what was drawn" in capsys.readouterr().err


@pytest.mark.parametrize("module", [CropsAsUnits, Undrawn])
def test_a_fit_stops_at_a_data_module_that_returns_something_else(
    cohort: CropsManifest,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    module: type[DPCropsDataModule],
) -> None:
    path = config(tmp_path, data=module)
    crops = f"--data.init_args.crops={cohort.folder}"
    words = ["fit", "--config", str(path), "--run_dir", str(tmp_path / "run"), crops]
    assert main(words) == 1
    assert "is not what was drawn" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mechanism_as_stated_is_what_the_audit_repeats(run: Path, tmp_path: Path) -> None:
    status, findings = audit(run, tmp_path / "audit")
    assert (status, findings) == (0, [])
    stored = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert Mechanism(**stored["stage"]["mechanism"]).steps == stored["conduct"]["updates"]
