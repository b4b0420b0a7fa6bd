from pathlib import Path

import numpy as np
import pytest

from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.attacks.synthetic.methods import SPACES, Points, Space, distances
from tests.attacks.synthetic.sets import drawn, write


def points(folder: Path, count: int, seed: int, turned: int = 0) -> Points:
    images, labels = drawn(count, seed)
    manifest = write(folder, symmetric(images, turned), labels)
    return Points.of_rows(manifest, manifest.rows())


def test_pixel_distances_match_a_loop_over_pairs_and_symmetries(tmp_path: Path) -> None:
    images, labels = drawn(5, 0)
    manifest = write(tmp_path / "few", images, labels)
    found = distances("pixels", *[Points.of_rows(manifest, manifest.rows())] * 2)
    for i, j in np.ndindex(5, 5):
        best = max(
            np.corrcoef(images[i].ravel(), symmetric(images[j], number).ravel())[0, 1]
            for number in range(SYMMETRIES)
        )
        assert found[i, j] ** 2 == pytest.approx(2 - 2 * best, abs=1e-5)


def test_feature_distances_match_a_loop_over_pairs(tmp_path: Path) -> None:
    known = points(tmp_path / "known", 6, 0)
    one, other = known.standardised(known), points(tmp_path / "other", 4, 1).standardised(known)
    found = distances("features", one, other)
    for i, j in np.ndindex(6, 4):
        expected = np.linalg.norm(one.features[i].astype(float) - other.features[j])
        assert found[i, j] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_a_crop_lies_at_its_own_place_however_it_is_turned(space: Space, tmp_path: Path) -> None:
    known = points(tmp_path / "as is", 6, 0)
    own = known.standardised(known)
    for number in (3, 5):
        turned = points(tmp_path / str(number), 6, 0, number).standardised(known)
        found = distances(space, own, turned)
        assert found.diagonal().max() < 0.05 * found[~np.eye(6, dtype=bool)].min()


def test_standardised_features_have_unit_spread_and_no_outlier(tmp_path: Path) -> None:
    known = points(tmp_path / "known", 8, 0)
    features = known.standardised(known).features
    assert features.mean(0) == pytest.approx(0, abs=1e-3)
    odd = Points(
        pixels=known.pixels, features=1e6 * known.features, malignant=known.malignant
    ).standardised(known)
    assert np.abs(odd.features).max() == 5
