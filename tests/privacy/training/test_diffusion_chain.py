# SPDX-License-Identifier: Apache-2.0
"""From phantoms to a private diffusion to crops, by command lines."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.statement.lineage import PHANTOMS
from tests.gan.diffusion.tiny import FIRST, NETS
from tests.privacy.statement.verify.chain import DP, PLAIN

PRIVATE = NETS | {"target_epsilon": 8.0, "delta": 1e-3, "pairs": 2}


def configured(base: dict[str, Any], name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model = {"class_path": f"mammo_dp.{name}", "init_args": settings}
    data = base["data"] | {"init_args": base["data"]["init_args"] | {"image_size": 16}}
    return base | {"model": model, "data": data}


CONFIGS = {
    "first": configured(PLAIN, "CropAutoencoder", FIRST),
    "start": configured(PLAIN, "LatentDiffusion", NETS),
    "private": configured(DP, "DPLatentDiffusion", PRIVATE),
}
LAST = "checkpoints/last.ckpt"
LINES = (
    "prepare phantoms --per_class 8 --size 16 --out phantoms",
    "fit --config first.yaml --data.init_args.crops phantoms --run_dir first",
    f"fit --config start.yaml --data.init_args.crops phantoms --run_dir start "
    f"--model.init_args.weights first/{LAST}",
    f"fit --config private.yaml --data.init_args.crops {{real}} --run_dir private "
    f"--model.init_args.weights start/{LAST}",
    f"generate --checkpoint private/{LAST} --per_class 2 --out generated",
    f"generate --checkpoint start/{LAST} --per_class 2 --out free",
)


def stored(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "privacy.json").read_text())
    (found["statement"],) = found["statements"]
    return found


@pytest.mark.slow
def test_a_private_diffusion_hands_its_epsilon_on_to_its_crops(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, config in CONFIGS.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    for line in LINES:
        run(line.format(real=cohort.folder).split())

    for folder in ("private", "generated"):
        found = stored(folder)
        assert found["statement"]["unit"] == "patient"
        (access,) = found["accesses"]
        spent = Mechanism(**access["mechanism"])
        assert spent.steps == 4
        epsilon = compose([spent]).epsilon(found["delta"])
        assert 0.98 * 8 < compose([spent]).epsilon(PRIVATE["delta"]) <= 8
        assert found["statement"]["epsilon"] == pytest.approx(epsilon)
        assert PHANTOMS in found["exclusions"]
    free = json.loads(Path("free", "privacy.json").read_text())
    assert free["accesses"] == []  # phantoms are no patients

    assert all(main(["privacy", "verify", folder]) == 0 for folder in ("private", "generated"))
    assert main(["attack", "audit", "--run", "private", "--canaries", "40"]) == 0
    assert "The claim is not refuted" in capsys.readouterr().out
    words = ["--crops", str(cohort.folder), "--run", "private"]
    assert main(["attack", "membership", *words]) == 1
    assert "is no crop classifier; it holds codec, net." in capsys.readouterr().err
    words = ["--checkpoint", f"private/{LAST}", "--out", "exported", "--name", "MASSES"]
    assert main(["export", "medigan", *words]) == 1
    assert "a diffusion needs MONAI" in capsys.readouterr().err
    Path("private", LAST).write_bytes(b"another")
    assert main(["privacy", "verify", "generated"]) == 1
