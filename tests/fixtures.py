"""Shared fixtures: a tiny cohort of generated crops; no patient data anywhere."""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported

# isort: split
import torch

from data_prep.crop_image import save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest, Split
from data_prep.phantoms.crops import write_phantom_crops
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.lineage import PHANTOMS

KEY = "00" * 32

SPLITS: tuple[Split, ...] = ("train", "train", "train", "train", "val", "val")


def write_cohort(
    folder: Path,
    *,
    patients: int = 6,
    crops: int = 24,
    size: int = 32,
    origin: str = "phantom-archive",
    seed: int = 0,
) -> CropsManifest:
    """Bright discs (malignant) and dim ones (benign), grainy enough for crops to be told apart.

    Patients have unequal numbers of crops, patient 0 most; two of three patients are in train; both
    classes are in each split. Data sets of different origins have different crops.
    """
    rng = np.random.default_rng([seed, *origin.encode()])
    yy, xx = np.mgrid[:size, :size] / size - 0.5
    synthetic = origin == "phantom" or origin.startswith(("gan:", "evolved:", "synthetic:"))
    rows = []
    for i in range(crops):
        patient = i % patients if i < 2 * patients else (i * i) % 4  # unequal numbers
        malignant = bool((patient + patient // 2) % 2) if not synthetic else bool(i % 2)
        level = 0.45 + 0.25 * malignant
        disc = level * (np.hypot(yy, xx) < 0.25) + 0.2 + 0.2 * rng.standard_normal((size, size))
        pixels = (65535 * disc.clip(0, 1)).astype(np.uint16)
        file = f"images/{i:04d}.png"
        rows.append(
            Crop(
                file=file,
                patient_id="" if synthetic else f"P{patient:03d}",
                lesion_id="1",
                image_id=f"I{i:04d}",
                malignant=malignant,
                split=SPLITS[patient % 6] if not synthetic else "train",
                origin=origin,
                label_source="phantom",
                crop_rule="as-is",
                sha256=save_crop_image(folder / file, pixels),
                fingerprint=fingerprint(pixels),
            )
        )
    manifest = CropsManifest.write(folder, rows)
    # As `prepare` does: without a statement, phantoms and how patients were prepared are unknown.
    if origin == "phantom":
        write_statement(
            folder, PrivacyLedger(exclusions=(PHANTOMS,)), artefact=folder / "crops.csv"
        )
    if not synthetic:
        write_statement(folder, PrivacyLedger(), about=manifest.sha256)
    return manifest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are faster on one thread, here and in processes that tests start.

    A fixed key stands in for the user's own from the first fixture on.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MAMMO_DP_COHORT_KEY", KEY)
        yield


@pytest.fixture(scope="session", autouse=True)
def _plugins_once() -> Iterator[None]:
    """Lightning looks through all installed packages for plug-ins whenever a trainer is made."""
    with pytest.MonkeyPatch.context() as patch:
        found = cache(entry_points)
        patch.setattr("lightning.fabric.utilities.registry.entry_points", found, raising=False)
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    """Six patients, 24 crops of 32 px, origin ``phantom-archive`` (accounted as patients)."""
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    """20 phantom volumes of 4 slices of 16 px; two of them are for validation."""
    folder = tmp_path_factory.mktemp("volumes")
    manifest = write_phantom_crops(folder, per_class=10, size=16, depth=4, workers=1)
    write_statement(folder, PrivacyLedger(exclusions=(PHANTOMS,)), artefact=folder / "crops.csv")
    return manifest


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., CropsManifest]:
    """Makes a further cohort below ``tmp_path``; keywords as :func:`write_cohort`."""

    def make(name: str = "cohort", **keywords: object) -> CropsManifest:
        return write_cohort(tmp_path / name, **keywords)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _private_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed key for keyed patient hashes; never the user's own key file."""
    monkeypatch.setenv("MAMMO_DP_COHORT_KEY", KEY)


CLEAN = "0" * 40


@pytest.fixture(scope="session", autouse=True)
def _clean_source() -> Iterator[None]:
    """Runs of tests name a commit, whether or not the tree that is tested has changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_dp.runs.source_commit", lambda: CLEAN)
        yield
