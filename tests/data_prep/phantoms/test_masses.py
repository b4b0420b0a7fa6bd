import math
from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantoms.masses import (
    ANGLES,
    MARGINS,
    SHAPES,
    draw_calcifications,
    draw_ellipses,
    draw_masses,
    draw_outlines,
    draw_spicules,
    place_outlines,
)
from data_prep.phantoms.texture import Layer, power_law_fields
from data_prep.phantoms.tissue import SMOOTH
from tests.data_prep.phantoms.sources import CASE, sources


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("margin", MARGINS)
def test_bounding_box_has_the_requested_edge_and_centre(shape: str, margin: str) -> None:
    look, edge = SHAPES[shape], MARGINS[margin]
    mass = replace(
        CASE.mass,
        size=0.6,
        centre=(0.45, 0.55),
        contrast=0.2,
        elongation=look.elongation[1],
        orders=look.orders,
        waviness=look.waviness[1],
        ripple=edge.ripple[1],
        exponent=edge.exponent[1],
        raggedness=edge.raggedness[1],
        spicules=round(edge.spicules[1]),
        obscured=edge.obscured[1],
    )
    images, masks = draw_masses([mass], sources(1), (100, 100), edge=100)
    rows, columns = (np.flatnonzero(masks[0].any(axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(60, abs=2)
    assert (rows[0] + rows[-1] + 1) / 2 == pytest.approx(45, abs=1)
    assert (columns[0] + columns[-1] + 1) / 2 == pytest.approx(55, abs=1)
    assert images[0][masks[0]].mean() > 3 * images[0][~masks[0]].mean()
    assert images.min() >= -0.05


def test_masks_agree_with_a_plain_loop_over_pixels() -> None:
    mass = replace(CASE.mass, size=0.6, centre=(0.5, 0.48))
    _, masks = draw_masses([mass], sources(1), (40, 40), edge=40)
    (radii,), (middle,) = draw_outlines([mass], sources(1))
    x0, y0 = 0.48 * 40 - 12 * middle[0], 0.5 * 40 - 12 * middle[1]
    slow = np.zeros((40, 40), np.bool_)
    for row in range(40):
        for column in range(40):
            y, x = row + 0.5 - y0, column + 0.5 - x0
            angle = math.atan2(y, x) % (2 * math.pi)
            radius = 12 * radii[int(angle / (2 * math.pi) * ANGLES) % ANGLES]
            slow[row, column] = math.hypot(y, x) < radius
    assert (slow != masks[0]).sum() <= 2


def test_an_outline_has_the_stated_waviness_and_elongation() -> None:
    mass = replace(CASE.mass, orders=(2, 8), waviness=0.1, ripple=0.0, elongation=1.0)
    radii, _ = draw_outlines([mass] * 3, sources(3))
    assert np.allclose(np.log(radii).std(axis=1), 0.1, rtol=1e-6)
    smooth = replace(mass, waviness=0.0, elongation=1.7)
    (ellipse,), _ = draw_outlines([smooth], sources(1))
    assert ellipse.max() / ellipse.min() == pytest.approx(1.7, rel=1e-3)


def test_spicules_leave_the_mass_and_none_means_none() -> None:
    images = draw_spicules(
        sources(2),
        (128, 128),
        base=np.full((2, ANGLES), 20.0),
        origin=np.full((2, 2), 64.0),
        count=[24, 0],
        reach=[1.0, 1.0],
    )
    y, x = np.mgrid[:128, :128] - 64
    outside = np.hypot(y, x) > 22
    assert images[0][outside & (np.hypot(y, x) < 30)].mean() > 0.02
    assert images[0][outside].max() > 0.15
    assert not images[1].any()


def test_calcifications_lie_near_the_mass_and_are_few() -> None:
    for source in sources(8):
        specks = draw_calcifications(
            source, (96, 96), centre=(48, 48), half=20, count=6, radius=0.8
        )
        assert 0 < (specks > 0.1).sum() < 80
        assert specks.max() <= 1
        rows, columns = np.nonzero(specks > 0.1)
        assert np.hypot(rows.mean() - 48, columns.mean() - 48) < 25


def test_ellipses_cover_their_area() -> None:
    drawn = draw_ellipses(
        (40, 40), centres=np.array([[18.3, 21.0]]), axes=np.array([[4.0, 7.0]]), levels=np.ones(1)
    )
    assert drawn.sum() == pytest.approx(math.pi * 4 * 7, rel=0.03)
    rows, columns = (np.flatnonzero(drawn.max(axis) > 0.5) for axis in (1, 0))
    assert (len(rows), len(columns)) == (8, 14)
    assert (drawn.sum(axis=1) @ (np.arange(40) + 0.5)) / drawn.sum() == pytest.approx(18.3, abs=0.1)


def test_a_mass_is_the_profile_of_its_source() -> None:
    mass = replace(CASE.mass, spicules=0, obscured=0.0, exponent=1.4, raggedness=0.1, grain=0.2)
    (made,), (mask,) = draw_masses([mass], sources(1), (40, 40), edge=40)
    (outline,), (origin,) = place_outlines([mass], sources(1), edge=40)
    (inner,) = power_law_fields(
        sources(1), Layer.MASS, (40, 40), beta=3.6, outer_scale=20, finest=SMOOTH
    )
    y, x = np.mgrid[:40, :40] + 0.5 - origin[::-1].reshape(2, 1, 1)
    at = (np.arctan2(y, x) % (2 * np.pi) * ANGLES / (2 * np.pi)).astype(int) % ANGLES
    rho = np.hypot(y, x) / outline[at]
    profile = np.maximum(1 - (rho * (1 + mass.raggedness * inner)) ** 2, 1e-9) ** mass.exponent
    expected = mass.contrast * profile * (1 + mass.grain * inner)
    # The nearest sample of an outline may be the next one where an angle lies between two.
    assert np.mean(np.abs(made - expected) > 1e-4) < 0.02
    assert np.mean(mask != (rho < 1)) < 0.005
