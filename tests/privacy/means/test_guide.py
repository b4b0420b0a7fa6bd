# SPDX-License-Identifier: Apache-2.0
"""From released means to crops of a diffusion that is guided towards them, by command lines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from classifier.unit_features import features_of
from data_prep.manifest import CropsManifest
from gan.module import MCGAN
from mammo_dp.main import main
from mammo_dp.privacy.means import guide, release
from mammo_dp.privacy.means.release import ReleasedMeans
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from tests.gan.checkpoints import save
from tests.gan.diffusion.tiny import NETS, SHAPES, diffusion
from tests.gan.diffusion.tiny import save as save_diffusion
from tests.privacy.means.conftest import DATA, EPSILON, RELEASE
from tests.privacy.statement.verify.chain import PLAIN
from tests.privacy.training.fits import quiet

pytestmark = quiet
LAST = "checkpoints/last.ckpt"
WHITENED = NETS | {"encoder_channels": None, "block": 2, "sample_steps": 4}
START = PLAIN | {
    "model": {"class_path": "mammo_dp.LatentDiffusion", "init_args": WHITENED},
    "data": DATA,
}
GUIDE = f"guide-means --checkpoint start/{LAST} --means means/means.pt --per_class 5 --out guided"


@pytest.fixture(scope="module")
def drawn(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide") / "chain"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("start.yaml").write_text(yaml.safe_dump(START))
        for line in (
            "fit --config start.yaml --data.init_args.crops phantoms --run_dir start",
            GUIDE,
        ):
            assert main(line.split()) == 0, line
    return folder


@pytest.fixture
def chain(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(drawn, tmp_path / "chain")
    monkeypatch.chdir(tmp_path / "chain")
    return tmp_path / "chain"


def distances(folder: str) -> list[float]:
    """Of the means of a folder of crops from the exact ones."""
    released, found = ReleasedMeans.read("exact/means.pt"), CropsManifest.read(folder)
    targets, _ = released.released.means()
    features = features_of(released.model, found, found.rows())
    own = np.array([crop.malignant for crop in found.crops])
    return [float(np.linalg.norm(features[own == c].mean(axis=0) - targets[c])) for c in (0, 1)]


def test_crops_have_the_epsilon_of_the_means_and_name_their_diffusion(chain: Path) -> None:
    (access,) = json.loads(Path("guided/privacy.json").read_text())["accesses"]
    (statement,) = json.loads(Path("guided/privacy.json").read_text())["statements"]
    assert 0.98 * EPSILON < statement["epsilon"] <= EPSILON
    assert statement["unit"] == "patient"
    assert access["stage"] == f"class means of features ({access['released'][:12]})"
    assert main(["privacy", "verify", "guided"]) == 0
    found = CropsManifest.read("guided")
    assert [crop.malignant for crop in found.crops] == [False, True] * 5
    inputs = json.loads(Path("guided/run.json").read_text())["inputs"]
    origin = f"gan:{inputs['checkpoint']['sha256']}"
    assert {(crop.origin, crop.label_source) for crop in found.crops} == {(origin, "means")}
    assert sorted(path.name for path in Path("guided").glob("*.csv")) == ["crops.csv"]


def test_the_larger_the_strength_the_nearer_the_means(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names the change by which it fails: classes or features that are mixed up.

    The means are exact here, since noise could lay them where crops without guidance are.
    """
    with monkeypatch.context() as patch:
        patch.setattr(release, "noisy", lambda sums, *_: sums)
        assert main(RELEASE.replace("--out means", "--out exact").split()) == 0
    exact = GUIDE.replace("--means means/", "--means exact/")
    for strength in (1e-6, 0.2, 1.0):
        line = exact.replace("--out guided", f"--out s{strength} --strength {strength}")
        assert main(line.split()) == 0
    plain = f"generate --checkpoint start/{LAST} --per_class 5 --out plain"
    assert main(plain.split()) == 0
    still, unguided = (CropsManifest.read(name) for name in ("s1e-06", "plain"))
    pixels = [one.images(one.rows()).astype(np.int64) for one in (still, unguided)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 8  # of 65535
    for none, some, much in zip(*map(distances, ("plain", "s0.2", "s1.0")), strict=True):
        assert much < some < none


def test_a_diffusion_that_saw_these_patients_counts_too(chain: Path) -> None:
    cohort = CropsManifest.read("patients")
    write_statement(
        Path("start"),
        PrivacyLedger().plus(Access.of_training("A diffusion", cohort, "train")),
        artefact=Path("start") / LAST,
    )
    assert main(GUIDE.replace("--out guided", "--out again").split()) == 0
    found = json.loads(Path("again/privacy.json").read_text())
    assert len(found["accesses"]) == 2
    assert found["statements"][0]["epsilon"] == "infinity"


def test_a_run_that_was_killed_leaves_whole_crops_and_makes_the_others_alike(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CropsManifest.read("guided")
    line = GUIDE.replace("--out guided", "--out again").split()

    def killed(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(guide, "rows_of", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(line)
    images = sorted(Path("again/images").iterdir())
    images[3].unlink()
    images[4].write_bytes(images[4].read_bytes()[:50])
    kept = images[5].stat().st_mtime_ns
    assert main(line) == 0
    assert [crop.sha256 for crop in CropsManifest.read("again").crops] == [
        crop.sha256 for crop in whole.crops
    ]
    assert images[5].stat().st_mtime_ns == kept
    with monkeypatch.context() as patch:
        patch.setattr(guide, "guided_crops", killed)  # nothing is drawn again
        assert main(line) == 0


ODD: dict[str, Callable[[Path], Path]] = {
    "mcgan.ckpt": lambda path: save(path, MCGAN(image_size=16, channels=2, latent=8)),
    "large.ckpt": lambda path: save_diffusion(path, diffusion(**WHITENED | {"image_size": 24})),
    "single.ckpt": lambda path: save_diffusion(path, diffusion(**WHITENED | {"sample_steps": 1})),
    "volumes.ckpt": lambda path: save_diffusion(path, diffusion(**SHAPES[3])),
}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"strength": "0"}, "--strength 0.0, --batch_size 64: give a strength above 0"),
        ({"strength": "-1"}, "--strength -1.0, --batch_size 64: give a strength above 0"),
        ({"batch_size": "0"}, "give a strength above 0, such as 1, and a batch of 1 or more"),
        ({"per_class": "0"}, "per_class=0"),
        ({"checkpoint": "mcgan.ckpt"}, "mcgan.ckpt: is no diffusion, and only the drawing"),
        ({"checkpoint": f"encoder/{LAST}"}, "last.ckpt: holds no MCGAN"),
        ({"means": f"encoder/{LAST}"}, "last.ckpt: holds no released means"),
        ({"checkpoint": "large.ckpt"}, "means.pt: has means of crops of 16 px, and the diffusion"),
        ({"checkpoint": "single.ckpt"}, "single.ckpt: draws crops in 1 step, which leaves nothing"),
        ({"checkpoint": "volumes.ckpt"}, "volumes.ckpt: draws volumes of 4 slices"),
    ],
)
def test_what_cannot_be_guided_is_refused_in_a_sentence(
    chain: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str], said: str
) -> None:
    if (odd := flags.get("checkpoint", "")) in ODD:
        ODD[odd](Path(odd))
    words = GUIDE.replace("--out guided", "--out refused").split()
    for name, value in flags.items():
        words += [f"--{name}", value]
    assert main(words) == 1
    assert said in capsys.readouterr().err
    assert not Path("refused/crops.csv").exists()
