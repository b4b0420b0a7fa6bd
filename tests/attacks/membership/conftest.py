# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from classifier.module import CropClassifier
from data_prep.crop_image import save_crop_image
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import Crop, CropsManifest
from tests.attacks.membership.targets import model


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    """Pure noise with labels that no pixel knows: whoever predicts a label has memorised it."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(72):  # patients 0..23 train, 24..47 val; every other patient has two crops
        patient = i if i < 48 else 2 * (i - 48)
        file = f"images/{i}.png"
        rows.append(
            Crop(
                file=file,
                patient_id=f"P{patient}",
                lesion_id="1",
                image_id=str(i),
                malignant=i % 3 == 0,
                split="train" if patient < 24 else "val",
                origin="phantom-archive",
                label_source="phantom",
                crop_rule="as-is",
                sha256=save_crop_image(
                    folder / file, rng.integers(0, 65536, (32, 32)).astype(np.uint16)
                ),
            )
        )
    return CropsManifest.write(folder, rows)


@pytest.fixture(scope="module")
def overfitted(noise: CropsManifest) -> CropClassifier:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more cost more than they bring at this size
    net = model()
    rows = noise.rows("train")
    dataset = CropsDataset(noise, rows)
    batch = collate_crops([dataset[i] for i in range(len(rows))])
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(net(batch.image), batch.malignant.float())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.set_num_threads(threads)
    return net.eval()
