# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from data_prep.datamodule import CropsDataModule, CropsDataset, model_input
from data_prep.distortions import DISTORTIONS, distorted
from data_prep.manifest import CropsManifest
from data_prep.transforms import pipeline

EDGE = 64
Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def smooth() -> Image:
    """A smooth crop, brighter to the right than to the left and below than above."""
    yy, xx = np.mgrid[:EDGE, :EDGE] / (EDGE - 1)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((EDGE, EDGE)), 3)
    image: Image = (0.2 + 0.3 * xx + 0.2 * yy + 0.5 * noise).clip(0.02, 0.98).astype(np.float32)
    return image


def apply(name: str, image: Image, size: int = EDGE) -> Image:
    found: Image = distorted(name, size)(image=image[..., None])["image"][..., 0]
    return found


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_distortion_changes_every_crop_in_one_way(name: str, smooth: Image) -> None:
    once = apply(name, smooth)
    assert once.shape == smooth.shape
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, apply(name, smooth))
    assert np.abs(once.clip(0, 1) - smooth).max() > 0.01


@pytest.mark.parametrize("gamma", [0.7, 1.4])
def test_grey_curves_are_powers(gamma: float, smooth: Image) -> None:
    np.testing.assert_allclose(apply(f"grey curve x^{gamma}", smooth), smooth**gamma, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (-0.125, 1.125), (-0.1, 0.9), (0.1, 1.1)])
def test_windows_map_their_ends_to_black_and_white(low: float, high: float, smooth: Image) -> None:
    expected = ((smooth - low) / (high - low)).clip(0, 1)
    found = apply(f"window {low:g} to {high:g}", smooth).clip(0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_blur_is_gaussian_and_scales_with_the_crop() -> None:
    grain = np.random.default_rng(0).random((EDGE, EDGE), dtype=np.float32)
    right, other = (
        gaussian_filter(grain, times * 1.5 * EDGE / 128, mode="mirror", truncate=4)
        for times in (1, 1.2)
    )
    inside = slice(8, -8)
    found = apply("blur of 1.5 px in 128", grain)
    np.testing.assert_allclose(found[inside, inside], right[inside, inside], atol=1e-3)
    assert np.abs(found - other)[inside, inside].max() > 0.02


def test_shifts_move_the_crop_by_a_share_of_its_edge(smooth: Image) -> None:
    moved = 10 * EDGE // 128
    right, down = (apply(f"shift {way} by 10 px in 128", smooth) for way in ("right", "down"))
    np.testing.assert_allclose(right[:, moved:], smooth[:, :-moved], atol=1e-5)
    np.testing.assert_allclose(down[moved:], smooth[:-moved], atol=1e-5)


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_scales_enlarge_around_the_centre(scale: float, smooth: Image) -> None:
    found = apply(f"scale {scale}", smooth)
    centre = (EDGE - 1) / 2
    place = ((np.arange(EDGE) - centre) / scale + centre).astype(np.float32)
    expected = cv2.remap(
        smooth, *np.meshgrid(place, place), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(("name", "block"), [("half", 2), ("a quarter of", 4)])
def test_resolution_is_lost_in_blocks_without_rounding(
    name: str, block: int, smooth: Image
) -> None:
    means = smooth.reshape(EDGE // block, block, EDGE // block, block).mean((1, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(means)[None, None], size=EDGE, mode="bilinear"
    )[0, 0].numpy()
    np.testing.assert_allclose(apply(f"{name} the resolution", smooth), expected, atol=1e-5)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        distorted("earthquake", 32)


def test_the_distorted_set_holds_the_same_crops_and_never_features(cohort: CropsManifest) -> None:
    crops = CropsDataset(cohort, cohort.rows("val"), image_size=32)
    crops.features = torch.zeros(len(crops), 1, 3)
    other = crops.distorted("grey curve x^0.7")
    assert other.pixels is crops.pixels
    assert other.rows == crops.rows
    whole = pipeline("none", 32)
    for index in range(len(crops)):
        plain = (model_input(crops.pixels[index], whole) + 1) / 2
        item = other[index]
        assert item[1:] == crops[index][1:]
        torch.testing.assert_close((item.image + 1) / 2, plain**0.7)
    assert crops[0].image.shape == (1, 3)


def test_the_data_module_gives_the_crops_once_more_for_each_distortion(
    cohort: CropsManifest,
) -> None:
    data = CropsDataModule(str(cohort.folder), image_size=32)
    plain = data.test_dataloader()
    assert not isinstance(plain, list)
    data.distortions = ("scale 0.8", "half the resolution")
    loaders = data.test_dataloader()
    assert isinstance(loaders, list)
    rows = [[row for batch in loader for row in batch.row.tolist()] for loader in loaders]
    assert rows[0] == rows[1] == rows[2] == [r for batch in plain for r in batch.row.tolist()]
    first = [next(iter(loader)).image for loader in loaders]
    assert torch.equal(first[0], next(iter(plain)).image)
    assert not torch.equal(first[0], first[1])
