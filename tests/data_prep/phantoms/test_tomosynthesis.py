import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.phantoms.crops import phantom_cases
from data_prep.phantoms.masses import place_outlines, relative_distance
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.phantoms.texture import Details, Layer, Texture
from data_prep.phantoms.tomosynthesis import (
    EDGE_MM,
    SLICE_MM,
    VolumePhantom,
    add_mass,
    draw_volume,
    power_law_volume,
    project,
    shift_and_add,
    sweep,
    tissue_volume,
)
from tests.data_prep.phantoms.sources import CASE
from tests.data_prep.phantoms.spectra import spectral_slope

CLEAN = PhantomParameters(
    skin_probability=0.0, muscle_probability=0.0, calcification_probability=(0.0, 0.0)
)
DEPTH, SIZE = 10, 64


@pytest.fixture(scope="module")
def phantoms() -> list[VolumePhantom]:
    cases = phantom_cases(0, 12, seed=5, parameters=CLEAN)
    return [draw_volume(case, size=SIZE, depth=DEPTH) for case in cases]


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_volumes_have_the_stated_shapes_and_ranges(phantoms: list[VolumePhantom]) -> None:
    for one in phantoms:
        assert one.slices.shape == one.mask.shape == (DEPTH, SIZE, SIZE)
        assert one.mammogram.shape == (SIZE, SIZE)
        assert one.slices.dtype == one.mammogram.dtype == np.float32
        assert 0 <= one.slices.min() < one.slices.max() <= 1


def test_the_projection_is_the_sum_of_moved_slices() -> None:
    rng = np.random.default_rng(0)
    volume = rng.random((4, 24, 5)).astype(np.float32)
    shifts = rng.integers(-6, 7, (4, 3)).astype(np.float64)
    views = project(volume, shifts)
    for view, moves in zip(views, shifts.T.astype(int), strict=True):
        moved = [np.roll(one, move, axis=0) for one, move in zip(volume, moves, strict=True)]
        np.testing.assert_allclose(view, np.sum(moved, axis=0), atol=1e-5)


def test_parts_of_a_row_move_too() -> None:
    rows = np.arange(32)
    wave = np.cos(2 * np.pi * 3 * rows / 32)[None, :, None].astype(np.float32)
    (view,) = project(wave, np.array([[2.3]]))
    expected = np.cos(2 * np.pi * 3 * (rows - 2.3) / 32)
    np.testing.assert_allclose(view[:, 0], expected, atol=1e-5)


def test_a_point_is_sharp_in_its_slice_and_a_ghost_of_each_projection_elsewhere() -> None:
    volume = np.zeros((9, 40, 1), np.float32)
    volume[2, 20, 0] = 1
    shifts = (np.arange(9.0)[:, None] - 4) * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    slices = shift_and_add(project(volume, shifts), shifts, edge=40, boost=0)
    assert slices[2, 20, 0] == pytest.approx(1, abs=1e-5)
    for height in (1, 3, 6):
        ghosts = np.flatnonzero(slices[height, :, 0] > 0.1)
        assert sorted(ghosts) == sorted(20 + (2 - height) * np.arange(-2, 3))
        np.testing.assert_allclose(slices[height, ghosts, 0], 1 / 5, atol=1e-5)


def test_a_sweep_is_even_in_angle() -> None:
    angles = np.degrees(np.arctan(sweep(25, 9)))
    np.testing.assert_allclose(angles, np.linspace(-25, 25, 9))


def test_the_mean_of_the_slices_is_like_the_mammogram(phantoms: list[VolumePhantom]) -> None:
    own = [correlation(one.slices.mean(axis=0), one.mammogram) for one in phantoms]
    other = [
        correlation(one.slices.mean(axis=0), two.mammogram)
        for one, two in itertools.pairwise(phantoms)
    ]
    assert min(own) > 0.7
    assert np.mean(own) > 0.85
    assert np.mean(other) < 0.7


def test_the_middle_projection_is_the_mammogram_before_noise_and_display() -> None:
    volume = tissue_volume(CASE.tissue, Details(CASE.texture), (12, 48, 32), edge=32)
    heights = np.arange(12)[:, None] - 5.5
    views = project(volume, heights * sweep(12.5, 9))
    np.testing.assert_allclose(views[4], volume.sum(axis=0), atol=1e-5)
    assert np.abs(views[0] - volume.sum(axis=0)).max() > 1e-3  # the others are not


@pytest.mark.parametrize("beta", [2.5, 3.4])
def test_projected_fields_have_the_spectrum_of_mammograms(beta: float) -> None:
    fields = [
        power_law_volume(
            Details(Texture((seed,))),
            Layer.BACKGROUND,
            (16, 64, 64),
            edge=64,
            beta=beta,
            finest=64,
            outer_scale=100.0,
        )
        for seed in range(8)
    ]
    slope = spectral_slope(field.sum(axis=0) for field in fields)
    assert slope == pytest.approx(beta, abs=0.25)


def test_fields_are_alike_along_the_depth_and_in_the_plane() -> None:
    edge = 64
    step = round(edge / EDGE_MM * SLICE_MM)  # pixels of one slice
    along_depth, along_row = [], []
    for seed in range(6):
        field = power_law_volume(
            Details(Texture((seed,))), Layer.MASS, (24, 64, 64), edge=edge, beta=3.6, finest=32
        )
        along_depth.append(correlation(field[:-2], field[2:]))
        along_row.append(correlation(field[:, :, : -2 * step], field[:, :, 2 * step :]))
    assert np.mean(along_depth) == pytest.approx(np.mean(along_row), abs=0.06)
    assert np.mean(along_depth) < 0.97


def test_a_mass_has_the_profile_of_a_mass_in_the_plane() -> None:
    mass = replace(
        CASE.mass, raggedness=0.0, grain=0.0, spicules=0, obscured=0.0, exponent=1.0, size=0.6
    )
    case, source = replace(CASE, mass=mass, calcifications=0), Details(CASE.texture)
    volume = np.zeros((20, 64, 64), np.float32)
    mask = add_mass(volume, case, source, edge=64, middle=9.5)
    outlines, origin = place_outlines([mass], [source], edge=64)
    rho = np.empty((64, 64), np.float32)
    x, y = ((np.arange(64) + 0.5 - at).astype(np.float32) for at in origin[0])
    relative_distance(outlines[0], x, y, out=rho)
    expected = mass.contrast * np.clip(1 - rho**2, 0, None) ** 1.0
    error = np.abs(volume.sum(axis=0) - expected)
    assert error.max() < 0.06 * mass.contrast
    assert not volume[~grown(mask)].any()


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbours: one slice above and below, two pixels in the plane."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    square = np.ones((5, 5), np.uint8)
    return np.stack([cv2.dilate(one.astype(np.uint8), square) > 0 for one in tall])


def test_size_and_centre_are_those_of_the_mask(phantoms: list[VolumePhantom]) -> None:
    for one in phantoms:
        rows, columns = (np.flatnonzero(one.mask.any(axis=(0, axis))) for axis in (2, 1))
        edge = max(np.ptp(rows), np.ptp(columns)) + 1
        size = float(one.attributes["size_mm"])
        assert edge * EDGE_MM / SIZE == pytest.approx(size, abs=0.6)
        if one.mask[0].any() or one.mask[-1].any():
            continue  # cut off at an end
        area = one.mask.sum(axis=(1, 2))
        centre = float((area * np.arange(DEPTH)).sum() / area.sum())
        assert float(one.attributes["centre_slice"]) == pytest.approx(centre, abs=0.3)


def test_a_mass_is_sharpest_in_its_slices_and_reaches_beyond_them_as_a_ghost() -> None:
    mass = replace(CASE.mass, size=0.35, spicules=0, contrast=0.3)
    with_mass = replace(CASE, mass=mass, calcifications=0)
    without = replace(with_mass, mass=replace(mass, contrast=0.0))
    one, none = (draw_volume(case, size=SIZE, depth=20) for case in (with_mass, without))
    seen = np.abs(one.slices - none.slices)
    strength = np.array([float(np.sqrt((s**2).mean())) for s in seen])
    middle = round(one.centre_slice)
    assert strength[middle] == pytest.approx(strength.max(), rel=0.1)
    far = [i for i in range(20) if not one.mask[i].any()]
    assert far
    assert strength[far].max() < 0.9 * strength[middle]
    assert strength[far].min() > 0.02 * strength[middle]


def test_spicules_leave_the_mass_in_several_slices() -> None:
    mass = replace(CASE.mass, spicules=30, spicule_level=0.5, spicule_reach=1.0, size=0.4)
    bare = replace(mass, spicules=0)
    volumes = []
    for one in (mass, bare):
        volume = np.zeros((16, 64, 64), np.float32)
        source = Details(CASE.texture)
        mask = add_mass(volume, replace(CASE, mass=one), source, edge=64, middle=8)
        volumes.append(volume)
    outside = (volumes[0] - volumes[1]) * ~mask
    assert (outside.max(axis=(1, 2)) > 0.02 * mass.contrast).sum() >= 5


def test_equal_cases_are_equal_volumes_and_alike_at_each_size() -> None:
    one, again = (draw_volume(CASE, size=64, depth=8) for _ in range(2))
    np.testing.assert_array_equal(one.slices, again.slices)
    small = draw_volume(CASE, size=32, depth=8)
    shrunk = np.stack([cv2.resize(s, (32, 32), interpolation=cv2.INTER_AREA) for s in one.slices])
    assert correlation(shrunk, small.slices) > 0.85
