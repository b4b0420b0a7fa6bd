import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from data_prep.manifest import CropsManifest
from data_prep.phantom_film import add_film_artefact, expose
from data_prep.phantom_masses import (
    ANGLES,
    draw_calcifications,
    draw_mass,
    draw_outline,
    draw_spicules,
    mass_model,
)
from data_prep.phantom_tissue import AIR, behind_skin, draw_strands, power_law_field, tissue
from data_prep.phantoms import (
    Phantom,
    PhantomParameters,
    draw_descriptors,
    draw_phantom,
    phantom_stream,
    write_phantom_crops,
)

CLEAN = replace(
    PhantomParameters(),
    skin_probability=0.0,
    calcification_probability=(0.0, 0.0),
    artefact_probability=0.0,
)


@pytest.fixture(scope="module")
def clean() -> list[Phantom]:
    return list(phantom_stream(per_class=60, size=96, seed=1, parameters=CLEAN))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spectral_slope(images: list[NDArray[np.float32]]) -> float:
    """Naive twin: a fit to the mean power of rings of a windowed periodogram."""
    size = images[0].shape[0]
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.mean([np.abs(np.fft.fft2((i - i.mean()) * window)) ** 2 for i in images], axis=0)
    rings: dict[int, list[float]] = {}
    for row in range(size):
        for column in range(size):
            fy, fx = (min(k, size - k) for k in (row, column))
            rings.setdefault(round(math.hypot(fy, fx)), []).append(power[row, column])
    orders = np.arange(3, size // 3)
    fit = np.polyfit(np.log(orders), np.log([np.mean(rings[k]) for k in orders]), 1)
    return float(-fit[0])


def grid_index(images: list[NDArray[np.float32]], fraction: int) -> float:
    """Largest power at multiples of 1/fraction cycles per pixel over that of the neighbours."""
    size = images[0].shape[0]
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.mean([np.abs(np.fft.fft2((i - i.mean()) * window)) ** 2 for i in images], axis=0)
    k = size // fraction
    ratios = []
    for row, column in ((k, k), (k, 0), (0, k)):
        around = power[np.arange(row - 4, row + 5) % size][:, np.arange(column - 4, column + 5)]
        peak = power[row, column]
        ratios.append(peak / np.median(around))
    return float(max(ratios))


def compactness(mask: NDArray[np.bool_]) -> float:
    (contour, *_), _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return 4 * math.pi * cv2.contourArea(contour) / cv2.arcLength(contour, True) ** 2


def test_power_law_field_has_the_requested_slope_and_no_other() -> None:
    rng = generator()
    fields = [power_law_field(rng, (64, 64), beta=3.0) for _ in range(24)]
    assert spectral_slope(fields) == pytest.approx(3.0, abs=0.2)
    assert abs(spectral_slope(fields) - 2.4) > 0.2
    assert fields[0].dtype == np.float32
    assert fields[0].mean() == pytest.approx(0, abs=1e-4)
    assert fields[0].std() == pytest.approx(1, abs=1e-3)


def test_a_stretched_field_is_smoother_along_its_angle() -> None:
    rng = generator()
    for angle, smooth, rough in ((0.0, 1, 0), (np.pi / 2, 0, 1)):
        field = power_law_field(rng, (96, 96), beta=3.0, stretch=6.0, angle=angle)
        steps = [np.abs(np.diff(field, axis=axis)).mean() for axis in (0, 1)]
        assert steps[smooth] < 0.7 * steps[rough]


def test_an_outer_scale_removes_slow_variation() -> None:
    fields = [
        np.mean(
            [
                abs(power_law_field(generator(i), (128, 128), beta=3.0, outer_scale=o)[:64].mean())
                for i in range(20)
            ]
        )
        for o in (math.inf, 24.0)
    ]
    assert fields[1] < 0.5 * fields[0]


def test_denser_breasts_have_more_glandular_tissue() -> None:
    def bright_share(density: int) -> float:
        shares = []
        for seed in range(12):
            image = tissue(
                generator(seed),
                (64, 64),
                density=density,
                beta=3.0,
                contrast=0.05,
                direction=0.4,
                grain_size=0.5,
            )
            low, high = np.percentile(image, (2, 98))
            shares.append(float((image > (low + high) / 2).mean()))
        return float(np.mean(shares))

    assert bright_share(4) > bright_share(1) + 0.1


def test_strands_follow_their_direction_and_none_means_none() -> None:
    image = draw_strands(generator(), (96, 96), count=40, direction=0.0, grain_size=1.0)
    assert np.abs(np.diff(image, axis=1)).sum() < np.abs(np.diff(image, axis=0)).sum()
    assert not draw_strands(generator(), (96, 96), count=0, direction=0.0, grain_size=1.0).any()


def test_air_outside_the_skin_line_is_black_on_film() -> None:
    inside = np.linspace(-40, 60, 101, dtype=np.float32)[None, :].repeat(16, axis=0)
    image = behind_skin(np.full_like(inside, 0.5), inside, rim=30)
    assert np.allclose(image[:, :20], AIR, atol=1e-3)
    assert image[:, -1] == pytest.approx(0.5, abs=1e-3)
    film = expose(generator(), image, blur=0.5, grain=0.0)
    assert film[:, :20].max() < 0.03
    assert film[:, -10:].min() > 0.45


@pytest.mark.parametrize("shape", ["ROUND", "OVAL", "LOBULATED", "IRREGULAR"])
@pytest.mark.parametrize(
    "margin", ["CIRCUMSCRIBED", "OBSCURED", "ILL_DEFINED", "MICROLOBULATED", "SPICULATED"]
)
def test_bounding_box_has_the_requested_edge_and_centre(shape: str, margin: str) -> None:
    rng = generator(3)
    model = mass_model(shape, margin)
    outline = draw_outline(rng, model)
    assert outline.shape == (ANGLES,)
    assert (outline > 0).all()
    mass, mask = draw_mass(
        rng,
        (128, 128),
        model=model,
        outline=outline,
        centre=(60.0, 70.0),
        longer_edge=60.0,
        obscured=margin == "OBSCURED",
    )
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(60, abs=2.5)
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(60, abs=1.5)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(70, abs=1.5)
    assert mass[mask].mean() > 4 * abs(mass[~mask].mean())
    assert mass.min() >= 0


def test_mass_agrees_with_a_plain_loop_over_pixels() -> None:
    model = mass_model("OVAL", "CIRCUMSCRIBED")
    outline = draw_outline(generator(5), model)
    _, mask = draw_mass(
        generator(5),
        (48, 48),
        model=model,
        outline=outline,
        centre=(24.0, 23.0),
        longer_edge=30.0,
        obscured=False,
    )
    slow = np.zeros_like(mask)
    for row in range(48):
        for column in range(48):
            angle = math.atan2(row - 24, column - 23) % (2 * math.pi)
            radius = 15 * np.interp(
                angle,
                np.linspace(0, 2 * math.pi, ANGLES, endpoint=False),
                outline,
                period=2 * np.pi,
            )
            slow[row, column] = math.hypot(row - 24, column - 23) < radius
    assert (slow != mask).sum() <= 4


def test_spicules_leave_the_mass_and_circumscribed_masses_have_none() -> None:
    outline = np.ones(ANGLES, np.float32)
    image = draw_spicules(
        generator(), (128, 128), outline=outline, centre=(64, 64), half=20, count=24
    )
    y, x = np.mgrid[:128, :128] - 64
    distance = np.hypot(y, x)
    assert image[(distance > 22) & (distance < 30)].mean() > 0.02
    assert image[distance > 22].max() > 0.15
    assert mass_model("OVAL", "CIRCUMSCRIBED").spicules == (0, 1)


def test_calcifications_lie_near_the_mass_and_are_few() -> None:
    for seed in range(8):
        specks = draw_calcifications(
            generator(seed), (96, 96), centre=(48, 48), half=20, grain_size=1.0
        )
        assert 0 < (specks > 0.1).sum() < 120
        assert specks.max() <= 1
        rows, columns = np.nonzero(specks > 0.1)
        assert np.hypot(rows.mean() - 48, columns.mean() - 48) < 25


def test_film_artefacts_stay_in_range_and_leave_most_of_the_film_alone() -> None:
    film = expose(generator(), np.full((96, 96), 0.5, np.float32), blur=0.6, grain=0.005)
    changed = []
    for seed in range(40):
        marked = add_film_artefact(generator(seed), film, 0.75)
        assert 0 <= marked.min() <= marked.max() <= 1
        changed.append(float((np.abs(marked - film) > 0.02).mean()))
    assert all(share < 0.15 for share in changed)
    assert np.mean(np.array(changed) > 0) > 0.9
    assert film.max() < 0.6  # the film given was not written to


def test_blur_and_grain_are_as_stated() -> None:
    flat = np.full((200, 200), 0.5, np.float32)
    film = expose(generator(), flat, blur=0.6, grain=0.01)
    assert film.std() == pytest.approx(0.01, rel=0.25)
    assert expose(generator(), flat, blur=0.6, grain=0.0).std() < 1e-6


def test_phantoms_have_the_promised_types_and_ranges(clean: list[Phantom]) -> None:
    for phantom in [*clean, *phantom_stream(per_class=30, size=48, seed=2)]:
        image, mask = phantom.image, phantom.mask
        assert image.dtype == np.float32
        assert image.shape == mask.shape
        assert mask.dtype == np.bool_
        assert np.isfinite(image).all()
        assert 0 <= image.min() < image.max() <= 1
        assert image.std() > 0.005


def test_descriptors_are_words_of_cbis_ddsm(clean: list[Phantom]) -> None:
    seen = [phantom.attributes for phantom in clean]
    assert {a["shape"] for a in seen} == {"ROUND", "OVAL", "LOBULATED", "IRREGULAR"}
    margins = {"CIRCUMSCRIBED", "OBSCURED", "ILL_DEFINED", "MICROLOBULATED", "SPICULATED"}
    assert {a["margin"] for a in seen} == margins
    assert {a["density"] for a in seen} == set("1234")
    assert {a["subtlety"] for a in seen} == set("12345")


def test_masses_lie_near_the_middle_and_fill_the_stated_share(clean: list[Phantom]) -> None:
    centres, edges = [], []
    for phantom in clean:
        rows, columns = (np.flatnonzero(phantom.mask.any(axis=axis)) for axis in (1, 0))
        centres.append(((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2))
        edges.append((max(np.ptp(rows), np.ptp(columns)) + 1) / 96)
    offset = np.array(centres) - 47.5
    assert np.abs(offset).max() <= 2 * 0.02 * 96 + 1.5
    assert np.abs(offset.mean(axis=0)).max() < 0.75  # no direction is preferred
    assert offset.std() > 0.5
    assert min(edges) > 0.30
    assert max(edges) < 0.68


def test_the_mask_covers_a_brighter_region(clean: list[Phantom]) -> None:
    inside = [p.image[p.mask].mean() - p.image[~p.mask].mean() for p in clean]
    assert np.mean(np.array(inside) > 0) > 0.85


def test_spectrum_of_crops_falls_like_that_of_mammograms(clean: list[Phantom]) -> None:
    assert 2.6 < spectral_slope([p.image for p in clean]) < 3.8


def test_no_grid_or_line_stands_out_of_the_spectrum(clean: list[Phantom]) -> None:
    images = [p.image for p in clean]
    for fraction in (2, 4, 8):
        assert grid_index(images, fraction) < 2
    grid = 0.004 * (np.indices((96, 96)).sum(axis=0) % 2).astype(np.float32)
    assert grid_index([image + grid for image in images], 2) > 2  # the index sees one


def test_classes_differ_in_compactness_and_overlap(clean: list[Phantom]) -> None:
    labels = [p.malignant for p in clean]
    area = roc_auc_score(labels, [-compactness(p.mask) for p in clean])
    assert 0.6 < area < 0.97


def test_classes_do_not_differ_in_size_brightness_or_position(clean: list[Phantom]) -> None:
    crops = list(phantom_stream(per_class=80, size=32, parameters=CLEAN))
    labels = [p.malignant for p in crops]
    edge = [max(p.mask.any(0).sum(), p.mask.any(1).sum()) for p in crops]
    level = [p.image.mean() for p in crops]
    row = [np.argwhere(p.mask)[:, 0].mean() for p in crops]
    for feature in (edge, level, row):
        assert 0.38 < roc_auc_score(labels, feature) < 0.62


def test_descriptors_alone_leave_some_masses_undecided() -> None:
    known = PhantomParameters()
    pairs = [
        (m[0] * s[0], m[1] * s[1]) for m in known.margins.values() for s in known.shapes.values()
    ]
    best = sum(
        b[0] * m[1] * ((m[1] / m[0] > b[1] / b[0]) + 0.5 * (m[1] / m[0] == b[1] / b[0]))
        for b in pairs
        for m in pairs
    )
    assert 0.90 < best < 0.96  # AUROC of the likelihood ratio


def test_shares_follow_the_tables() -> None:
    rng, known = generator(), PhantomParameters()
    for malignant, share in ((False, 0.03), (True, 0.42)):
        words = [draw_descriptors(rng, malignant=malignant, parameters=known) for _ in range(1500)]
        found = Counter(word["margin"] for word in words)
        assert found["SPICULATED"] / 1500 == pytest.approx(share, abs=0.04)


def test_equal_seeds_give_equal_phantoms_and_others_do_not() -> None:
    first, again, other = (
        draw_phantom(generator(seed), malignant=True, size=32) for seed in (4, 4, 5)
    )
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.attributes == again.attributes
    assert not np.array_equal(first.image, other.image)


def test_a_longer_stream_starts_like_a_shorter_one() -> None:
    short = [p.image for p in phantom_stream(per_class=2, size=32)]
    long = [p.image for p in phantom_stream(per_class=4, size=32)]
    assert len(short) == 4
    assert len(long) == 8
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("field", ["densities", "subtleties"])
def test_shares_that_do_not_sum_to_one_are_refused(field: str) -> None:
    shares = (0.5,) * len(getattr(PhantomParameters(), field))
    with pytest.raises(ValueError, match=f"{field}.*sum 1"):
        replace(PhantomParameters(), **{field: shares})  # type: ignore[arg-type]


def test_negative_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="margins, malignant"):
        replace(
            PhantomParameters(), margins={"CIRCUMSCRIBED": (0.5, 1.5), "SPICULATED": (0.5, -0.5)}
        )


def test_written_crops_form_a_manifest_that_a_second_run_repeats(tmp_path: Path) -> None:
    manifest = write_phantom_crops(tmp_path / "a", per_class=11, size=32)
    again = write_phantom_crops(tmp_path / "b", per_class=11, size=32)
    longer = write_phantom_crops(tmp_path / "c", per_class=13, size=32)
    assert manifest.sha256 == again.sha256
    assert longer.crops[:22] == manifest.crops
    assert CropsManifest.read(tmp_path / "a").crops == manifest.crops
    assert manifest.images([0, 21]).shape == (2, 32, 32)
    assert len(manifest.require_classes("val")) == 2
    assert len(manifest.require_classes("train")) == 20
    for crop in manifest.crops:
        assert crop.is_synthetic
        assert (crop.origin, crop.label_source, crop.crop_rule) == ("phantom", "phantom", "centred")
        assert set(crop.attributes) == {"density", "shape", "margin", "subtlety"}


@pytest.mark.parametrize(("per_class", "size"), [(0, 32), (4, 8)])
def test_too_few_or_too_small_crops_are_refused(tmp_path: Path, per_class: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"Give at least 1 crop a class and 16 pixels"):
        write_phantom_crops(tmp_path, per_class=per_class, size=size)
    assert not list(tmp_path.iterdir())
