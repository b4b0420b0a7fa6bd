"""From one release of patients to a generator and its crops, by command lines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from classifier.unit_features import features_of
from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from gan.checkpoint import Checkpoint
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.means import release
from mammo_dp.privacy.means.generator import MatchedMCGAN, MeanMatching
from mammo_dp.privacy.means.query import exact_sums
from mammo_dp.privacy.means.release import ReleasedMeans
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import RunRecord
from tests.conftest import write_cohort
from tests.privacy.statement.verify.chain import PLAIN
from tests.privacy.training.fits import quiet

pytestmark = quiet
EPSILON = 8.0
SIZE = {"image_size": 16}
DATA = PLAIN["data"] | {"init_args": PLAIN["data"]["init_args"] | SIZE}
ENCODER = PLAIN | {
    "model": PLAIN["model"] | {"init_args": PLAIN["model"]["init_args"] | SIZE},
    "data": DATA,
}
GENERATOR: dict[str, Any] = {
    "model": {
        "class_path": "mammo_dp.MatchedMCGAN",
        "init_args": SIZE | {"channels": 4, "latent": 4, "class_weight": 0.0},
    },
    "data": DATA,
    "trainer": PLAIN["trainer"] | {"max_epochs": 2},
}
RELEASE = (
    f"release-means --crops patients --out means --target_epsilon {EPSILON} "
    "--checkpoint encoder/checkpoints/last.ckpt"
)
FIT = "fit --config gan.yaml --data.init_args.crops phantoms --run_dir gan "
FIT += "--model.init_args.means means/means.pt"
LINES = (
    "fit --config encoder.yaml --data.init_args.crops phantoms --run_dir encoder",
    RELEASE,
    FIT,
    "generate --checkpoint gan/checkpoints/last.ckpt --per_class 3 --out generated",
    "match-means --crops phantoms --means means/means.pt --per_class 4 --out matched",
)


def stored(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "privacy.json").read_text())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    write_cohort(folder / "patients", patients=60, crops=130, size=16)
    write_cohort(folder / "phantoms", origin="phantom", crops=16, size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("encoder.yaml").write_text(yaml.safe_dump(ENCODER))
        Path("gan.yaml").write_text(yaml.safe_dump(GENERATOR))
        for line in LINES:
            assert main(line.split()) == 0, line
    return folder


@pytest.fixture
def chain(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "chain")
    monkeypatch.chdir(tmp_path / "chain")
    return tmp_path / "chain"


def test_all_that_follows_has_the_epsilon_of_the_one_release(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    spent = compose([ReleasedMeans.read("means/means.pt").mechanism]).epsilon(1e-4)
    assert 0.98 * EPSILON < spent <= EPSILON
    for folder in ("means", "gan", "generated", "matched"):
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

    def killed(record: RunRecord) -> None:
        raise RuntimeError("killed")

    line = RELEASE.replace("--out means", "--out again").split()
    with monkeypatch.context() as patch:
        patch.setattr(release, "write_means_statement", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(line)
    before = Path("again/means.pt").read_bytes()
    monkeypatch.setattr(release, "features_of", None)  # no second query
    assert main(line) == 0
    assert Path("again/means.pt").read_bytes() == before
    assert stored("again")["statements"][0]["epsilon"] <= EPSILON


def test_a_killed_fit_resumes(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = MatchedMCGAN.training_step

    def killed(self: MatchedMCGAN, batch: CropBatch, batch_idx: int) -> None:
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        step(self, batch, batch_idx)

    line = FIT.replace("--run_dir gan", "--run_dir other").split()
    with monkeypatch.context() as patch:
        patch.setattr(MatchedMCGAN, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(line)
    assert main(line) == 0
    whole, resumed = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("gan", "other")
    )
    assert resumed["global_step"] == whole["global_step"]
    updates = "matched.updates"  # running means go on where they were
    assert resumed["state_dict"][updates].tolist() == whole["state_dict"][updates].tolist()
    assert Checkpoint.read("other/checkpoints/last.ckpt").crop_rule == "as-is"
    assert stored("other")["statements"][0]["epsilon"] <= EPSILON


def test_a_checkpoint_holds_neither_paths_nor_the_network_of_the_features(made: Path) -> None:
    content = torch.load(made / "gan/checkpoints/last.ckpt", weights_only=True)
    assert "means" not in content["hyper_parameters"]  # a path of this machine
    assert {"matched.running", "matched.updates"} == {
        name for name in content["state_dict"] if name.startswith("matched")
    }


def test_altered_means_are_found(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load("means/means.pt", weights_only=True)
    content["mechanism"]["noise_multiplier"] *= 2
    torch.save(content, "means/means.pt")
    assert main(["privacy", "verify", "generated"]) == 1
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


def test_another_size_of_crops_is_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="of 16 px, but image_size=32"):
        MatchedMCGAN(means=str(made / "means/means.pt"), image_size=32, channels=4, latent=4)


def test_crops_are_pushed_to_the_released_means(made: Path) -> None:
    matching = MeanMatching(ReleasedMeans.read(made / "means/means.pt"), difference=4.0, compared=8)
    crops = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    malignant = torch.arange(8) % 2
    distances = []
    for _ in range(30):
        (slope,) = torch.autograd.grad(matching(crops, malignant), crops)
        matching.updates.zero_()  # no memory: the distance is that of these crops
        distances.append(float(matching.distance()))
        crops = (crops - 0.5 * slope / slope.norm()).detach().requires_grad_()
    assert distances[-1] < 0.7 * distances[0]


def test_penalty_has_the_gradient_of_half_the_weighted_distance(made: Path) -> None:
    matching = MeanMatching(ReleasedMeans.read(made / "means/means.pt"), difference=3.0, compared=6)
    crops = torch.randn(9, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    malignant = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0])  # the last three are left out
    first = crops.clone().requires_grad_()
    matching(first, malignant).backward()
    second = crops.clone().requires_grad_()
    features = matching.describe(second)
    features, malignant = features[:6], malignant[:6]
    means = torch.stack([features[malignant == label].mean(0) for label in (0, 1)])
    away = means - matching.targets
    ((away.square().sum() + 3.0 / 2 * (away[1] - away[0]).square().sum()) / 4).backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-4)


def test_a_medigan_package_says_the_epsilon_of_the_release(chain: Path) -> None:
    line = "export medigan --checkpoint gan/checkpoints/last.ckpt --out package --name MEPF"
    assert main([*line.split(), "--licence_of_cohort", "CC BY 4.0"]) == 0
    (entry,) = json.loads(Path("package/MEPF/metadata.json").read_text()).values()
    said = entry["selection"]["privacy_preservation"]
    assert "epsilon = 8 at delta = 0.0001 for each patient" in said
    assert len(list(Path("package/MEPF/samples").glob("*.png"))) == 8
