"""No byte of what is shared depends on one patient, but through the weights (H2)."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.crop_image import save_crop_image
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from tests.fixtures import write_cohort
from tests.privacy.statement.verify.chain import DP

SHARED = ("privacy.json", "PRIVACY.md")
LAST = "P003"  # of the training split
Change = Callable[[Crop, Path], Crop | None]


def rewritten(crop: Crop, folder: Path, pixels: np.ndarray[Any, np.dtype[np.uint16]]) -> Crop:
    sha256 = save_crop_image(folder / crop.file, pixels)
    return replace(crop, sha256=sha256, fingerprint="")


def blanked(crop: Crop, folder: Path) -> Crop:
    return replace(rewritten(crop, folder, np.zeros((32, 32), np.uint16)), malignant=False)


def turned(crop: Crop, folder: Path) -> Crop:
    pixels = CropsManifest.read(folder).image(int(crop.image_id[1:]))
    return rewritten(crop, folder, np.ascontiguousarray(pixels.T))


def relabelled(crop: Crop, folder: Path) -> Crop:
    return replace(crop, malignant=not crop.malignant)


def fewer(crop: Crop, folder: Path) -> Crop | None:
    return crop if crop.image_id in ("I0003", "I0009") else None


def gone(crop: Crop, folder: Path) -> None:
    return None


def fitted(folder: Path, change: Change | None, **data: object) -> Path:
    """A private fit with fixed seeds on a cohort in which the last patient was changed."""
    manifest = write_cohort(folder / "real")
    if change is not None:
        found = [
            change(crop, manifest.folder) if crop.patient_id == LAST else crop
            for crop in manifest.crops
        ]
        written = CropsManifest.write(manifest.folder, [crop for crop in found if crop is not None])
        write_statement(written.folder, PrivacyLedger(), about=written.sha256)  # as `prepare` does
    config = json.loads(json.dumps(DP))
    config["data"]["init_args"] |= data
    config["seed_everything"] = 5
    (folder / "dp.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # no seed: that is infinite
        patch.setattr("secrets.randbits", lambda bits: (2**255 + 3) % 2**bits)
        run(["fit", "--config", "dp.yaml", "--data.init_args.crops", "real", "--run_dir", "dp"])
        run(["export", "classifier", "--run", "dp", "--out", "hf"])
    return folder


def shared_bytes(folder: Path, *, keyed: bool) -> dict[str, str]:
    """Every file that may be shared, weights by name only, and without what follows from them.

    Args:
        folder: Of :func:`fitted`.
        keyed: Whether keyed names of cohort and patients are replaced, too.
    """
    found = {f"dp/{name}": folder / "dp" / name for name in SHARED}
    exported = sorted((folder / "hf" / "classifier").rglob("*"))
    found |= {str(path.relative_to(folder)): path for path in exported if path.is_file()}
    texts = {}
    for name, path in found.items():
        if path.suffix == ".safetensors":
            texts[name] = ""
            continue
        text = re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "HASH", path.read_text())
        texts[name] = re.sub(r"\b[0-9a-f]{16}\b", "KEYED", text) if keyed else text
    return texts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("whole"), None)


@pytest.fixture(scope="module")
def reference(whole: Path) -> dict[str, str]:
    return shared_bytes(whole, keyed=False)


@pytest.mark.parametrize("change", [blanked, turned, relabelled, fewer])
def test_zero_out_neighbours_share_every_byte_but_the_weights(
    change: Change, reference: dict[str, str], tmp_path: Path
) -> None:
    neighbour = shared_bytes(fitted(tmp_path, change), keyed=False)
    assert neighbour == reference
    assert len(reference) == 2 + 7
    assert "zero-out" in reference["dp/PRIVACY.md"]


def test_with_a_declared_size_the_presence_of_a_patient_changes_keyed_values_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    one, other = (
        shared_bytes(fitted(tmp_path / name, change, public_size=50), keyed=True)
        for name, change in (("with", None), ("without", gone))
    )
    assert one == other
    assert '"patients": null' in one["dp/privacy.json"]
    assert "add-or-remove" in one["dp/PRIVACY.md"]


def test_what_is_shared_holds_no_count_and_no_plain_hash_of_private_data(whole: Path) -> None:
    folder = whole
    manifest = CropsManifest.read(folder / "real")
    train = [manifest.crops[row] for row in manifest.rows("train")]
    hashes = {manifest.sha256, *(crop.sha256 for crop in manifest.crops)}
    stored = json.loads((folder / "dp" / "privacy.json").read_text())
    plain = json.dumps(stored) + (folder / "dp" / "PRIVACY.md").read_text()
    assert not any(sha256 in plain for sha256 in hashes)
    assert not any(crop.patient_id in plain for crop in train)
    assert f"{len(train)} crops" not in plain

    def numbers(value: object) -> set[object]:
        if isinstance(value, dict):
            return set().union(*map(numbers, value.values()), set())
        if isinstance(value, list):
            return set().union(*map(numbers, value), set())
        return {value} if isinstance(value, int) and not isinstance(value, bool) else set()

    assert len(train) not in numbers(stored)
    evidence = (folder / "dp" / "privacy_evidence.json").read_text()
    assert manifest.sha256 in evidence  # where verify finds it


def test_evidence_never_leaves_the_run_folder(whole: Path) -> None:
    assert not [path for path in (whole / "hf").rglob("*") if "evidence" in path.name]


def test_an_export_is_verified_by_itself_and_names_what_was_altered(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = shutil.copytree(whole / "hf" / "classifier", tmp_path / "received")  # alone

    def status() -> tuple[int, str]:
        capsys.readouterr()
        return main(["privacy", "verify", str(export)]), capsys.readouterr().err

    assert status()[0] == 0
    for name in ("model.safetensors", "config.json", "README.md", "privacy.json", "PRIVACY.md"):
        path = export / name
        before = path.read_bytes()
        path.write_bytes(before.replace(b"a", b"b", 1))
        code, words = status()
        assert code == 1
        assert name in words
        path.write_bytes(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "22" * 32)
        code, words = status()
    assert code == 1
    assert "privacy_files.json: is sealed under key" in words
