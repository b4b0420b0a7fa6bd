# SPDX-License-Identifier: Apache-2.0
"""What a private generator refuses."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from data_prep.datamodule import CropsDataModule
from data_prep.errors import TrainingError
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError
from mammo_dp.privacy.errors import PrivacyError
from tests.privacy.training.fits import quiet, trainer
from tests.privacy.training.generators import crops, gan

pytestmark = quiet


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"conditions": ["density"]}, PrivacyError, r"conditions=\['density'\]: .*costs budget"),
        ({"target_epsilon": 0.0}, PrivacyError, "epsilon"),
        ({"clipping_norm": 0.0}, PrivacyError, "clipping_norm"),
        ({"stages": [9]}, ValueError, "Choose other stages"),
        ({"fakes": 0}, ValueError, "fakes=0"),
        ({"average_decay": 1.0}, ValueError, "average_decay=1.0"),
        ({"diversity": -1.0}, ValueError, "diversity=-1.0"),
        ({"augmentations": "blur"}, ValueError, "blur"),
        ({"weights": "nowhere.ckpt"}, CheckpointError, "nowhere.ckpt: is no file"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(
    settings: dict[str, Any], error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        gan(**settings)


def test_batch_norm_is_refused_by_layer_name(cohort: CropsManifest, tmp_path: Path) -> None:
    net = gan()
    net.discriminator.mixing[0] = nn.BatchNorm2d(16)
    with pytest.raises(PrivacyError, match=r"mixing.0 \(BatchNorm2d\)"):
        trainer(tmp_path).fit(net, crops(cohort))


def test_crops_of_another_size_and_several_views_are_refused(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"crops of shape \(1, 32, 32\), but image_size=16"):
        trainer(tmp_path).fit(gan(), crops(cohort, image_size=None))
    net = gan()
    net.views = 2
    with pytest.raises(TrainingError, match=r"crops of shape \(2, 1, 16, 16\).*take one view"):
        trainer(tmp_path).fit(net, crops(cohort))


def test_data_without_units_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="CropsDataModule does not sample units"):
        trainer(tmp_path).fit(gan(), CropsDataModule(str(cohort.folder), image_size=16))


def test_several_devices_are_refused(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # Lightning then starts no further process
    run = trainer(tmp_path, devices=2, strategy="dp_ddp", use_distributed_sampler=False)
    with pytest.raises(TrainingError, match=r"2 devices\. .*--trainer\.devices 1"):
        run.fit(gan(), crops(cohort))
