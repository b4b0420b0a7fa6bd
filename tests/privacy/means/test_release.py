"""From one release of patients to crops that match it, by command lines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.unit_features import features_of
from data_prep.manifest import CropsManifest
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.means import release
from mammo_dp.privacy.means.query import exact_sums
from mammo_dp.privacy.means.release import ReleasedMeans
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import RunRecord
from tests.privacy.means.conftest import EPSILON, RELEASE
from tests.privacy.training.fits import quiet

pytestmark = quiet


def stored(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "privacy.json").read_text())
    return found


def kill_before_statement(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a release that dies between its answer and its statement."""

    def killed(record: RunRecord) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(release, "write_means_statement", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(line)


def test_all_that_follows_has_the_epsilon_of_the_one_release(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    spent = compose([ReleasedMeans.read("means/means.pt").mechanism]).epsilon(1e-4)
    assert 0.98 * EPSILON < spent <= EPSILON
    for folder in ("means", "matched"):
        statement = stored(folder)["statements"][0]
        assert statement["epsilon"] == pytest.approx(spent), folder
        assert statement["unit"] == "patient"
        assert len(stored(folder)["accesses"]) == 1
        assert main(["privacy", "verify", folder]) == 0


def test_what_is_released_is_the_exact_sum_and_noise_of_the_stated_size(made: Path) -> None:
    found = ReleasedMeans.read(made / "means/means.pt")
    manifest = CropsManifest.read(made / "patients")
    by_patient: dict[str, list[int]] = {}
    for row in manifest.rows("train"):
        by_patient.setdefault(manifest.crops[row].patient_id, []).append(row)
    exact = exact_sums(
        (
            features_of(found.model, manifest, rows),
            torch.tensor([manifest.crops[row].malignant for row in rows]).numpy(),
        )
        for rows in by_patient.values()
    )
    noise = (found.released.sums - exact) / found.released.noise
    assert found.released.noise == found.mechanism.noise_multiplier
    # 26 standard normal numbers: their root mean square is within .6 of 1 but once in 100,000
    assert 0.4 < float((noise**2).mean()) ** 0.5 < 1.6


def test_matched_crops_are_those_of_the_pool_with_the_class_of_a_mean(made: Path) -> None:
    pool, found = CropsManifest.read(made / "phantoms"), CropsManifest.read(made / "matched")
    assert {crop.sha256 for crop in found.crops} <= {crop.sha256 for crop in pool.crops}
    assert len({crop.file for crop in found.crops}) == 8
    assert sum(crop.malignant for crop in found.crops) == 4
    assert {(crop.origin, crop.label_source) for crop in found.crops} == {("phantom", "means")}
    released = ReleasedMeans.read(made / "means/means.pt")
    targets, _ = released.released.means()
    features = features_of(released.model, found, found.rows())
    own = np.array([crop.malignant for crop in found.crops])
    everything = features_of(released.model, pool, pool.rows()).mean(axis=0)
    for label in (0, 1):
        away = np.linalg.norm(features[own == label].mean(axis=0) - targets[label])
        assert away < np.linalg.norm(everything - targets[label])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--crops patients --per_class 4", "crops belong to patients. Give a folder of phantoms"),
        ("--crops phantoms --per_class 9", "per_class 9: phantoms/crops.csv has 16 crops. Give 1"),
    ],
)
def test_pools_that_cannot_be_chosen_from_are_refused(
    chain: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    line = f"match-means --means means/means.pt --out others {more}"
    assert main(line.split()) == 1
    assert said in capsys.readouterr().err
    assert not Path("others/crops.csv").exists()


def test_a_release_is_made_once(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("means/means.pt").read_bytes()
    assert main(RELEASE.split()) == 0  # finished
    assert Path("means/means.pt").read_bytes() == before

    line = RELEASE.replace("--out means", "--out again").split()
    kill_before_statement(line, monkeypatch)
    before = Path("again/means.pt").read_bytes()
    monkeypatch.setattr(release, "features_of", None)  # no second query
    assert main(line) == 0
    assert Path("again/means.pt").read_bytes() == before
    assert stored("again")["statements"][0]["epsilon"] <= EPSILON


def test_an_answer_that_was_being_written_is_the_answer(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before its file had its name: no account would know of a second draw of noise."""
    line = RELEASE.replace("--out means", "--out again").split()
    kill_before_statement(line, monkeypatch)
    means, part = Path("again/means.pt"), Path("again/means.pt.part")
    means.unlink()
    part.touch()  # killed before a byte of it was written
    assert main(line) == 0
    assert not part.exists()
    shutil.rmtree("again")
    kill_before_statement(line, monkeypatch)
    drawn = means.read_bytes()
    means.unlink()
    part.write_bytes(drawn[:-200])  # cut off
    monkeypatch.setattr(release, "features_of", None)  # no second query
    assert main(line) == 1
    said = capsys.readouterr().err
    assert "again/means.pt.part: " in said
    assert "choose a new folder, whose answer comes on top" in said
    part.write_bytes(drawn)
    assert main(line) == 0
    assert means.read_bytes() == drawn
    assert not part.exists()
    assert main(["privacy", "verify", "again"]) == 0


def test_altered_means_are_found(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load("means/means.pt", weights_only=True)
    content["mechanism"]["noise_multiplier"] *= 2
    torch.save(content, "means/means.pt")
    assert main(["privacy", "verify", "matched"]) == 1
    said = capsys.readouterr().err
    assert "means/means.pt: was altered" in said
    assert "its account holds" in said


def test_features_of_these_patients_are_refused_unless_infinity_is_accepted(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = CropsManifest.read("patients")
    write_statement(
        Path("encoder"),
        PrivacyLedger().plus(Access.of_training("A classifier", cohort, "train")),
        artefact=Path("encoder/checkpoints/last.ckpt"),
    )
    line = RELEASE.replace("--out means", "--out others").split()
    assert main(line) == 1
    assert "No noise can restore" in capsys.readouterr().err
    assert not Path("others/means.pt").exists()
    assert main([*line, "--allow_unbounded", "true"]) == 0
    assert stored("others")["statements"][0]["epsilon"] == "infinity"


def test_damaged_and_foreign_files_are_named(chain: Path) -> None:
    with pytest.raises(PrivacyError, match=r"nothing: is no file\. Give the means.pt"):
        ReleasedMeans.read("nothing")
    Path("means/means.pt").write_bytes(b"means")
    with pytest.raises(PrivacyError, match="holds no released means"):
        ReleasedMeans.read("means/means.pt")
    with pytest.raises(PrivacyError, match="holds no released means"):
        ReleasedMeans.read("encoder/checkpoints/last.ckpt")


def test_an_interrupted_release_takes_up_no_other_answer(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means with less noise, or of other patients, would get the statement of this question."""
    line = RELEASE.replace("--out means", "--out swapped").split()
    line[line.index("--target_epsilon") + 1] = str(EPSILON / 4)
    kill_before_statement(line, monkeypatch)
    Path("swapped/means.pt").write_bytes(Path("means/means.pt").read_bytes())
    assert main(line) == 1
    assert "swapped/means.pt: does not fit its seal" in capsys.readouterr().err
    assert not Path("swapped/privacy.json").exists()
    Path("swapped/means.pt").unlink()
    assert main(line) == 0
