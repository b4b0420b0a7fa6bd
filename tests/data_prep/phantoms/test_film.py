import math
from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantoms.film import (
    AIR,
    LATITUDE,
    add_film_artefact,
    add_surroundings,
    behind_skin,
    expose,
)
from data_prep.phantoms.texture import Layer, noise
from tests.data_prep.phantoms.sources import CASE, sources


def test_air_outside_the_skin_line_is_black_on_film() -> None:
    inside = np.linspace(-40, 60, 101, dtype=np.float32)[None, :].repeat(16, axis=0)
    image = behind_skin(np.full_like(inside, 0.5), inside, rim=30)
    assert np.allclose(image[:, :20], AIR, atol=1e-3)
    assert image[:, -1] == pytest.approx(0.5, abs=1e-3)
    film = replace(CASE.film, blur=0.004, grain=0.0, slope=1.0)
    (shown,) = expose(image[None], [film], sources(1), edge=128)
    assert shown[:, :20].max() < 0.03
    assert shown[:, -10:].min() > 0.45


def test_muscle_lies_in_an_upper_corner() -> None:
    muscle = replace(CASE.film, skin=math.inf, muscle=0.2, muscle_reach=0.3, muscle_slope=0.6)
    for mirrored, bright, dark in ((False, 0, -1), (True, -1, 0)):
        image = np.zeros((32, 32), np.float32)
        add_surroundings(image, replace(muscle, muscle_mirrored=mirrored), edge=32)
        assert image[0, bright] == pytest.approx(0.2, abs=1e-3)
        assert max(image[0, dark], image[-1, 0], image[-1, -1]) < 0.01


def test_blur_and_grain_are_as_stated() -> None:
    flat = np.full((1, 160, 160), 0.5, np.float32)
    known = replace(CASE.film, grain=0.01, slope=1.0)
    for pixels in (0.3, 0.9):
        film = replace(known, blur=pixels / 160)
        (shown,) = expose(flat, [film], sources(1), edge=160)
        assert shown.std() == pytest.approx(0.01, rel=0.05)
        steep = expose(flat, [replace(film, slope=1.2)], sources(1), edge=160)
        assert steep.std() == pytest.approx(0.012, rel=0.05)
    (clear,) = expose(flat, [replace(known, grain=0.0)], sources(1), edge=160)
    assert clear.std() < 1e-6
    spot = np.zeros((1, 33, 33), np.float32)
    spot[0, 16, 16] = 1e-2
    (spread,) = expose(spot + 0.5, [replace(known, grain=0.0, blur=1.5 / 33)], sources(1), edge=33)
    y = np.arange(33) - 16
    profile = (spread - 0.5).sum(axis=1)
    assert (profile * y**2).sum() / profile.sum() == pytest.approx(1.5**2, rel=0.05)


def test_thick_tissue_is_noisier() -> None:
    steps = np.full((1, 64, 64), 0.4, np.float32)
    steps[:, 32:] = 0.6
    film = replace(CASE.film, grain=0.01, slope=1.0, blur=0.01)
    (shown,) = expose(steps, [film], sources(1), edge=64)
    assert shown[36:].std() > 1.15 * shown[:28].std()


@pytest.mark.parametrize("artefact", ["dust", "marker"])
def test_film_artefacts_stay_in_range_and_leave_most_of_the_film_alone(artefact: str) -> None:
    film = np.full((64, 64), 0.5, np.float32)
    changed = []
    for source in sources(30):
        marked = add_film_artefact(film, artefact, source, edge=64)
        assert 0.5 <= marked.min() <= marked.max() <= 1
        changed.append(float((np.abs(marked - film) > 0.02).mean()))
    assert max(changed) < 0.03
    assert np.mean(np.array(changed) > 0) > 0.9
    assert film.max() == 0.5  # the film given was not written to


def test_a_film_is_the_formula_of_grain_blur_and_curve() -> None:
    film = replace(CASE.film, blur=0.02, grain=0.05, slope=1.1)
    attenuation = np.linspace(0.2, 1.4, 24 * 32, dtype=np.float32).reshape(1, 24, 32)
    (made,) = expose(attenuation, [film], sources(1), edge=32)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / (32 * 0.02)) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    grain = noise(sources(1), Layer.GRAIN, 24 * 32).reshape(24, 32).astype(float)
    photons = np.exp(LATITUDE * np.minimum(attenuation[0] - 0.5, 0.6))
    seen = attenuation[0] + film.grain / np.sqrt(np.square(kernel).sum()) * grain * photons
    padded = np.pad(seen, 2, mode="reflect")
    blurred = sum(kernel[i, j] * padded[i : i + 24, j : j + 32] for i in range(5) for j in range(5))
    assert np.allclose(made, 1 / (1 + np.exp(-4 * film.slope * (blurred - 0.5))), atol=1e-5)


def test_the_skin_is_the_formula_in_double_precision() -> None:
    film = replace(CASE.film, muscle=0.0, skin=0.3, skin_side=0.7, skin_bow=2.0, rim=0.5)
    image = np.full((32, 32), 0.4, np.float32)
    add_surroundings(image, film, edge=32)
    y, x = np.mgrid[:32, :32]
    middle = 16 + 32 * (0.3 - 2.0) * np.array([math.sin(0.7), math.cos(0.7)])
    inside = 32 * 2.0 - np.hypot(y - middle[0], x - middle[1])
    depth = np.clip(inside / 16, 0, 1)
    skin = 0.08 * np.exp(-(((inside - 0.04 * 16) / (0.03 * 16)) ** 2))
    expected = AIR + (0.4 - AIR) * np.sqrt(depth * (2 - depth)) + skin
    assert np.allclose(image, expected, atol=2e-3)  # a root is steep where the skin begins
    assert np.median(np.abs(image - expected)) < 1e-6
