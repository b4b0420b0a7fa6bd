# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from data_prep.descriptors.independent import describe
from data_prep.errors import DataError
from mammo_dp.fidelity.agreement import STUDENTS, Student, descent_scores


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_each_student_learns_what_differs_and_nothing_from_labels_at_random(
    student: Student,
) -> None:
    rng = np.random.default_rng(3)
    malignant = np.arange(160) % 2
    y, x = np.mgrid[:32, :32] / 32 - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    lobes = 0.04 * np.cos(8 * angle + rng.uniform(0, 6, (160, 1, 1)))
    edge = rng.uniform(0.22, 0.3, (160, 1, 1)) + malignant[:, None, None] * lobes
    images = 0.3 + 0.3 * (radius < edge) + 0.05 * rng.standard_normal((160, 32, 32))
    described = student.describe(images.astype(np.float32))
    found = student.scores((described[:100], malignant[:100]), described[100:])
    assert roc_auc_score(malignant[100:], found) > 0.8
    blind = [
        student.scores((described[:100], rng.permutation(malignant[:100])), described[100:])
        for _ in range(20)
    ]
    areas = [roc_auc_score(malignant[100:], found) for found in blind]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.15)  # single ones range from .2 to .8


def test_a_description_has_as_many_numbers_at_any_size_and_is_finite() -> None:
    rng = np.random.default_rng(4)
    for size in (16, 32):
        images = rng.random((3, size, size), np.float32)
        images[0] = 0.5  # a blank crop
        for student, length in (("machine", 425), ("descent", 48)):
            found = STUDENTS[student].describe(images)
            assert found.shape == (3, length)
            assert np.isfinite(found).all()
    with pytest.raises(DataError, match="multiple of 4"):
        describe(rng.random((1, 30, 30), np.float32))


def test_descent_is_that_of_the_default_classifier_without_privacy() -> None:
    rng = np.random.default_rng(5)
    features, malignant = rng.standard_normal((30, 4)), rng.integers(0, 2, 30)
    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.625)  # of configs/classifier/baseline.yaml
    inputs, labels = (torch.from_numpy(x).float() for x in (features, malignant))
    for _ in range(32):
        optimizer.zero_grad()
        logits = layer(inputs).squeeze(1)
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    expected = layer(inputs).squeeze(1).detach().numpy()
    np.testing.assert_allclose(descent_scores((features, malignant), features), expected, rtol=1e-4)
