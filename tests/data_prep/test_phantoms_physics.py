import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kurtosis

from data_prep.phantom_case import draw_case
from data_prep.phantom_film import AIR, add_surroundings, behind_skin, expose
from data_prep.phantom_lines import Lines, draw_lines
from data_prep.phantom_lumps import AXES, FALL, POWER, _blob, clustered_lumps
from data_prep.phantom_masses import ANGLES, MARGINS, SHAPES, draw_masses, draw_outlines
from data_prep.phantom_parameters import PhantomParameters
from data_prep.phantom_specks import add_film_artefact, draw_calcifications, draw_ellipses
from data_prep.phantom_spicules import draw_spicules
from data_prep.phantom_texture import Details, Layer, Texture, power_law_fields
from data_prep.phantom_tissue import logistic, tissue
from tests.data_prep.spectra import spectral_slope

CASE = draw_case(np.random.default_rng(0), malignant=True, parameters=PhantomParameters())
THIN = Lines(turn=0.2, bend=0.1, wander=0.02, length=(0.8, 1.2), width=(0.01, 0.02))


def sources(count: int) -> list[Details]:
    return [Details(Texture((seed,))) for seed in range(count)]


def fields(count: int, size: int, **values: float) -> NDArray[np.float32]:
    beta = values.pop("beta", 3.0)
    return power_law_fields(
        sources(count),
        Layer.BACKGROUND,
        (size, size),
        beta=beta,
        **values,  # type: ignore[arg-type]
    )


def test_power_law_fields_have_the_requested_slope_and_no_other() -> None:
    made = fields(24, 64)
    assert spectral_slope(made) == pytest.approx(3.0, abs=0.2)
    assert abs(spectral_slope(made) - 2.4) > 0.2
    assert made.dtype == np.float32
    assert np.allclose(made.mean(axis=(1, 2)), 0, atol=1e-4)
    assert np.allclose(made.std(axis=(1, 2)), 1, atol=1e-3)


def test_values_of_a_field_are_normal_although_its_noise_is_not() -> None:
    flat = fields(60, 32, beta=1.0)[:, ::4, ::4].ravel()
    assert abs(kurtosis(flat)) < 0.2
    assert abs(kurtosis(Details(Texture((3,))).noise(Layer.GRAIN, 4000))) > 0.4


def test_power_is_the_same_in_all_directions() -> None:
    power = np.mean(np.abs(np.fft.fft2(fields(200, 32, beta=0.0))) ** 2, axis=0)
    rows, columns = power[1:12, 0].mean(), power[0, 1:12].mean()
    assert rows == pytest.approx(columns, rel=0.12)
    assert rows == pytest.approx(power[3:9, 3:9].mean(), rel=0.12)


def test_a_field_agrees_with_a_plain_sum_of_waves() -> None:
    (field,) = power_law_fields(
        sources(1), Layer.MASS, (16, 16), beta=3.0, outer_scale=8.0, finest=2
    )
    y, x = np.mgrid[:16, :16]
    noise = iter(sources(1)[0].noise(Layer.MASS, 1000).view(np.complex64))
    waves = [(ky, kx) for kx in range(3) for ky in range(-2, 3) if (ky, kx) != (0, 0)]
    ring = sorted(waves, key=lambda k: (max(abs(k[0]), k[1]), k[1], k[0]))
    slow = np.zeros((16, 16))
    for ky, kx in ring:
        wave = next(noise) * np.exp(2j * np.pi * (ky * y + kx * x) / 16)
        slow += (
            ((ky**2 + kx**2) / 16**2 + 1 / 8**2) ** -0.75 * wave.real * (2 if kx else math.sqrt(2))
        )
    assert np.allclose(field, (slow - slow.mean()) / slow.std(), atol=1e-4)


def test_a_stretched_field_is_smoother_along_its_angle() -> None:
    for angle, smooth, rough in ((0.0, 2, 1), (np.pi / 2, 1, 2)):
        made = fields(6, 64, stretch=6.0, angle=angle)
        steps = {axis: np.abs(np.diff(made, axis=axis)).mean() for axis in (1, 2)}
        assert steps[smooth] < 0.7 * steps[rough]


def test_an_outer_scale_removes_slow_variation() -> None:
    halves = [
        np.abs(fields(20, 64, outer_scale=scale)[:, :32].mean(axis=(1, 2))).mean()
        for scale in (math.inf, 12.0)
    ]
    assert halves[1] < 0.5 * halves[0]


def test_a_blob_is_the_formula_of_the_source() -> None:
    made = np.fft.irfft2(_blob(16, 16, 64.0, 2), (16, 16))
    for row, column in ((0, 0), (1, 2), (-3, 1), (5, -5)):
        r, turn = math.hypot(row, column) / 64, math.atan2(row, column) - np.pi * 2 / 8
        reach = 1 / math.hypot(math.cos(turn) / AXES[0], math.sin(turn) / AXES[1])
        assert made[row, column] == pytest.approx(
            math.exp(-FALL * (128 * r) ** POWER / (128 * reach)), abs=1e-4
        )


def test_lumps_follow_their_direction() -> None:
    for angle, smooth, rough in ((0.0, 2, 1), (np.pi / 2, 1, 2)):
        made = clustered_lumps(sources(6), (48, 48), edge=48, direction=[angle] * 6)
        steps = {axis: np.abs(np.diff(made, axis=axis)).mean() for axis in (1, 2)}
        assert steps[smooth] < 0.95 * steps[rough]
        assert np.allclose(made.std(axis=(1, 2)), 1, atol=1e-3)


def test_denser_breasts_have_more_glandular_tissue() -> None:
    def bright_share(covered: float) -> float:
        ground = replace(CASE.tissue, covered=covered, lumpy=False, sharpness=4.0, slant=0.0)
        images = tissue([ground] * 12, sources(12), (32, 32), edge=32)
        low, high = np.percentile(images, (2, 98), axis=(1, 2), keepdims=True)
        return float((images > (low + high) / 2).mean())

    assert bright_share(0.9) > bright_share(-0.9) + 0.1


def test_lines_follow_their_direction_and_none_means_none() -> None:
    image = draw_lines(
        sources(2),
        Layer.STRANDS,
        (64, 64),
        edge=64,
        look=THIN,
        per_area=[30, 0],
        direction=[0.0, 0.0],
    )
    assert np.abs(np.diff(image[0], axis=1)).sum() < np.abs(np.diff(image[0], axis=0)).sum()
    assert 0.3 < image[0].max() <= 2.01
    assert not image[1].any()


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


def test_a_logistic_step_is_exact_and_never_overflows() -> None:
    value = np.array([-1e4, -3, 0, 3, 1e4], np.float32)
    assert logistic(value) == pytest.approx(
        [0, 1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-3)), 1]
    )
    assert value[0] == -1e4  # the argument was not written to
