# SPDX-License-Identifier: Apache-2.0
"""Released classifiers in run folders with statements, without their training."""

from pathlib import Path
from typing import Any

import torch

from classifier.module import CropClassifier
from data_prep.cutting import Cutting
from data_prep.manifest import CropsManifest
from mammo_dp.crop_rule import TrainedCrops
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.training.fit_statement import randomness
from mammo_dp.runs import close_run, file_sha256, open_run

BODY: dict[str, Any] = {
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 16,
}
STEPS = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=4)
CUT = TrainedCrops(rule="centred", size=16, cutting=Cutting(size=16, spacing_mm=0.1))


def run_of_classifier(
    folder: Path,
    cohort: CropsManifest,
    *,
    calibration: tuple[float, float] | None = None,
    crops: TrainedCrops | None = CUT,
    mechanism: Mechanism | None = STEPS,
    **model: Any,
) -> Path:
    record = open_run(
        folder,
        command="fit",
        config={"trainer": {"max_steps": STEPS.steps}},
        inputs={"data": cohort.folder},
    )
    torch.manual_seed(0)
    net = CropClassifier(**{**BODY, **model})
    state = {
        key: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in net.state_dict().items()
    }
    if calibration is not None:
        slope, intercept = calibration
        state["net.calibration.weight"] = torch.tensor([[slope]])
        state["net.calibration.bias"] = torch.tensor([intercept])
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    account = [(STEPS.noise_multiplier, STEPS.sampling_rate, STEPS.steps)]
    torch.save(
        {
            "state_dict": state,
            "hyper_parameters": dict(net.hparams),
            "accountant": {"history": account},
            "pytorch-lightning_version": "2.6",
        },
        path,
    )
    access = Access.of_training(
        f"DPCropClassifier ({folder.name})",
        cohort,
        "train",
        mechanism=mechanism,
        released=file_sha256(path),
    )
    write_statement(
        folder,
        PrivacyLedger().plus(access),
        delta=1e-3,
        artefact=path,
        randomness=randomness("patient", seeded=False),
        run=record,
    )
    if crops is not None:
        crops.write(folder)
    close_run(record)
    return folder
