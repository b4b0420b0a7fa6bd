# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from classifier.module import CropClassifier
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.calibration import (
    CalibrationError,
    DPCalibration,
    noise_of_intercept,
)
from tests.privacy.training.fits import BODY, data, quiet, trainer

pytestmark = quiet
STEPS = 20


def fitted(folder: Path, cohort: CropsManifest, **settings: Any) -> tuple[DPCalibration, Path]:
    """A calibration of a random body on the validation split, from a checkpoint on disk."""
    torch.manual_seed(0)
    body = CropClassifier(**BODY)
    with torch.no_grad():
        body.net.get_classifier().weight.normal_(std=2.0)  # type: ignore[operator]
    path = folder / "last.ckpt"
    torch.save({"state_dict": body.state_dict()}, path)
    chosen = {"target_epsilon": 1e5, "delta": 1e-3, **settings}
    net = DPCalibration(**BODY, weights=str(path), **chosen)
    module = data(cohort, rate=1.0, train_split="val")
    trainer(folder, max_steps=STEPS).fit(net, module)
    return net, path


def descent(
    logit: NDArray[np.float64], malignant: NDArray[np.float64], units: list[list[int]]
) -> NDArray[np.float64]:
    """The same without noise, one patient after the other."""
    found = np.array([1.0, 0.0])
    for step in range(STEPS):
        total = found - [1.0, 0.0]  # the prior
        for rows in units:
            seen = np.stack([logit[rows], np.ones(len(rows))], 1)
            error = 1 / (1 + np.exp(-seen @ found)) - malignant[rows]
            gradient = (error[:, None] * seen).mean(0)
            total += gradient * min(1.0, 1 / np.linalg.norm(gradient))
        found = found - 0.5 * (1 + np.cos(np.pi * step / STEPS)) * total / len(units)
    return found


def test_where_noise_is_small_it_is_gradient_descent_on_patients(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net, path = fitted(tmp_path, cohort)
    module = data(cohort, rate=1.0, train_split="val")
    rows = list(module.train_rows)
    crops = module.dataset(rows)
    images = torch.stack([crops[position].image for position in range(len(rows))])
    body = CropClassifier(**BODY, weights=str(path)).eval()
    with torch.no_grad():
        logit = body(images).double().numpy()
    malignant = np.array([float(cohort.crops[row].malignant) for row in rows])
    units = [[rows.index(row) for row in unit] for unit in cohort.units(rows, "patient")]
    expected = descent(logit, malignant, units)
    found = [p.item() for p in net.net.parameters() if p.requires_grad]
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert abs(expected - [1, 0]).max() > 0.1  # it did move
    with torch.no_grad():
        calibrated = net.eval()(images).double().numpy()
    np.testing.assert_allclose(calibrated, found[0] * logit + found[1], atol=1e-5)


def test_it_spends_what_was_promised_on_two_numbers_alone(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net, path = fitted(tmp_path, cohort, target_epsilon=30.0)
    assert net.accounted_steps == STEPS
    assert 29 < net.spent_epsilon <= 30
    assert net.sampling.units == 2
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 2
    before = torch.load(path, weights_only=True)["state_dict"]
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_prior_pulls_towards_no_change_as_one_patient_would(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net, _ = fitted(tmp_path, cohort)
    slope, intercept = (p for p in net.net.parameters() if p.requires_grad)
    with torch.no_grad():
        slope.fill_(3.0)
        intercept.fill_(-1.0)
    gradient = net.public_gradients()
    assert gradient[slope].item() == pytest.approx((3 - 1) / 2)  # two patients in val
    assert gradient[intercept].item() == pytest.approx(-1 / 2)


def test_what_would_be_noise_is_refused_before_it_is_spent(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=r"2 patients at epsilon=1\.0 .* by \d+\.\d logits"):
        fitted(tmp_path, cohort, target_epsilon=1.0)


def test_noise_of_the_intercept_is_what_a_simulation_shows() -> None:
    rng, fitted = np.random.default_rng(0), np.zeros(20_000)
    for step in range(STEPS):
        gradient = (0.2 + 1 / 50) * fitted + 8.0 * rng.standard_normal(len(fitted)) / 50
        fitted -= 0.5 * (1 + np.cos(np.pi * step / STEPS)) * gradient
    expected = noise_of_intercept(8.0, units=50, learning_rate=1.0, steps=STEPS)
    assert fitted.std() == pytest.approx(expected, rel=0.03)
    assert fitted.std() != pytest.approx(1.2 * expected, rel=0.03)
