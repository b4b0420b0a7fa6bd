import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from data_prep.crop_image import save_crop_image
from data_prep.manifest import Crop, CropsManifest
from data_prep.phantoms import crops as crops_module
from data_prep.phantoms.case import draw_case
from data_prep.phantoms.crops import (
    Phantom,
    draw_phantom,
    phantom_cases,
    phantom_stream,
    render,
    write_phantom_crops,
)
from data_prep.phantoms.parameters import PhantomError, PhantomParameters, class_shares
from tests.data_prep.phantoms.spectra import grid_index, spectral_slope

KNOWN = PhantomParameters()
CLEAN = replace(
    KNOWN,
    skin_probability=0.0,
    muscle_probability=0.0,
    calcification_probability=(0.0, 0.0),
    artefact_probability=0.0,
)


@pytest.fixture(scope="module")
def clean() -> list[Phantom]:
    return list(phantom_stream(per_class=60, size=64, seed=1, parameters=CLEAN))


def compactness(mask: NDArray[np.bool_]) -> float:
    (contour, *_), _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return 4 * math.pi * cv2.contourArea(contour) / cv2.arcLength(contour, True) ** 2


def test_phantoms_have_the_stated_types_and_ranges(clean: list[Phantom]) -> None:
    for phantom in [*clean, *phantom_stream(per_class=40, size=32, seed=2)]:
        image, mask = phantom.image, phantom.mask
        assert image.dtype == np.float32
        assert image.shape == mask.shape
        assert mask.dtype == np.bool_
        assert np.isfinite(image).all()
        assert 0 <= image.min() < image.max() <= 1
        assert image.std() > 0.005


def test_volumes_are_written_as_rows_of_the_same_cases(tmp_path: Path) -> None:
    flat = write_phantom_crops(tmp_path / "flat", per_class=3, size=32, workers=1)
    deep = write_phantom_crops(tmp_path / "deep", per_class=3, size=32, depth=5, workers=1)
    for one, two in zip(flat.crops, deep.crops, strict=True):
        assert (one.malignant, one.split, one.image_id) == (two.malignant, two.split, two.image_id)
        assert dict(one.attributes).items() <= dict(two.attributes).items()
        assert (two.depth, two.slice_spacing_mm, two.pixel_spacing_mm) == (5, 1.0, 0.4)
        assert 0 <= float(two.attributes["centre_slice"]) <= 4
    assert deep.stacked(deep.rows()).shape == (6, 5, 32, 32)
    again = write_phantom_crops(tmp_path / "again", per_class=3, size=32, depth=5, workers=2)
    assert again.sha256 == deep.sha256


@pytest.mark.parametrize("depth", [1, 65])
def test_other_depths_are_refused(tmp_path: Path, depth: int) -> None:
    with pytest.raises(PhantomError, match="depth"):
        write_phantom_crops(tmp_path, per_class=1, depth=depth)


def test_descriptors_are_words_of_cbis_ddsm() -> None:
    seen = [case.attributes for case in phantom_cases(0, 200, parameters=KNOWN)]
    assert {a["shape"] for a in seen} == {"ROUND", "OVAL", "LOBULATED", "IRREGULAR"}
    margins = {"CIRCUMSCRIBED", "OBSCURED", "ILL_DEFINED", "MICROLOBULATED", "SPICULATED"}
    assert {a["margin"] for a in seen} == margins
    assert {a["density"] for a in seen} == set("1234")
    assert {a["subtlety"] for a in seen} == set("12345")


def test_masses_lie_about_the_middle_and_fill_the_stated_share(clean: list[Phantom]) -> None:
    centres, edges = [], []
    for phantom in clean:
        rows, columns = (np.flatnonzero(phantom.mask.any(axis=axis)) for axis in (1, 0))
        centres.append(((rows[0] + rows[-1] + 1) / 128, (columns[0] + columns[-1] + 1) / 128))
        edges.append((max(np.ptp(rows), np.ptp(columns)) + 1) / 64)
    offset = np.array(centres) - 0.5
    assert np.abs(offset).max() <= 2 * KNOWN.offset + 0.02
    assert np.abs(offset.mean(axis=0)).max() < 0.02  # no direction is preferred
    assert offset.std() > 0.5 * KNOWN.offset
    assert KNOWN.size_range[0] - 0.03 < min(edges)
    assert max(edges) < KNOWN.size_range[1] + 0.03


def test_the_mask_covers_a_brighter_region(clean: list[Phantom]) -> None:
    inside = [p.image[p.mask].mean() - p.image[~p.mask].mean() for p in clean]
    assert np.mean(np.array(inside) > 0) > 0.85


def test_spectrum_of_crops_falls_like_that_of_mammograms(clean: list[Phantom]) -> None:
    assert 2.6 < spectral_slope(p.image for p in clean) < 3.8


@pytest.mark.parametrize(
    "parameters",
    [
        KNOWN,
        replace(CLEAN, lumpy_probability=0.0, grain_range=(0.0, 0.0)),
        replace(CLEAN, lumpy_probability=1.0, grain_range=(0.0, 0.0)),
    ],
    ids=["default", "lobes without grain", "lumps without grain"],
)
def test_no_grid_or_line_stands_out_of_the_spectrum(parameters: PhantomParameters) -> None:
    images = render(phantom_cases(0, 100, seed=1, parameters=parameters), size=64)
    for fraction in (2, 4):
        assert grid_index(images, fraction) < 2
    grid = 0.004 * (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)
    assert grid_index(images + grid, 2) > 2  # the index sees one


def test_no_border_differs_from_the_rows_beside_it() -> None:
    images = render(phantom_cases(0, 80, seed=1, parameters=KNOWN), size=32)
    for turned in (images, images[:, ::-1], images.swapaxes(1, 2), images.swapaxes(1, 2)[:, ::-1]):
        steps = np.abs(np.diff(turned.mean(axis=2), axis=1))
        assert steps[:, 0].max() < 0.2
        assert steps[:, 0].mean() < 2 * steps.mean()


def test_classes_differ_in_compactness_and_overlap(clean: list[Phantom]) -> None:
    labels = [p.malignant for p in clean]
    area = roc_auc_score(labels, [-compactness(p.mask) for p in clean])
    assert 0.6 < area < 0.95


def test_classes_do_not_differ_in_size_brightness_or_position() -> None:
    crops = list(phantom_stream(per_class=100, size=32, parameters=CLEAN))
    labels = [p.malignant for p in crops]
    edge = [max(p.mask.any(0).sum(), p.mask.any(1).sum()) for p in crops]
    level = [p.image.mean() for p in crops]
    row = [np.argwhere(p.mask)[:, 0].mean() for p in crops]
    for feature in (edge, level, row):
        assert 0.38 < roc_auc_score(labels, feature) < 0.62


def test_descriptors_alone_leave_some_masses_undecided() -> None:
    shares = [
        [class_shares(table, malignant=m) for m in (False, True)]
        for table in (KNOWN.margins, KNOWN.shapes)
    ]
    pairs = [
        tuple(shares[0][m][margin] * shares[1][m][shape] for m in (False, True))
        for margin in shares[0][0]
        for shape in shares[1][0]
    ]
    best = sum(
        b[0] * m[1] * ((m[1] / m[0] > b[1] / b[0]) + 0.5 * (m[1] / m[0] == b[1] / b[0]))
        for b in pairs
        for m in pairs
    )
    assert 0.84 < best < 0.90  # AUROC of the likelihood ratio


@pytest.mark.parametrize(
    ("table", "word", "published"),
    [(KNOWN.margins, "SPICULATED", 0.81), (KNOWN.shapes, "IRREGULAR", 0.73)],
)
def test_predictive_values_are_those_of_liberman_1998(
    table: object, word: str, published: float
) -> None:
    benign, malignant = (class_shares(table, malignant=m)[word] for m in (False, True))
    prevalence = 225 / 492
    found = prevalence * malignant / (prevalence * malignant + (1 - prevalence) * benign)
    assert found == pytest.approx(published, abs=0.01)


def test_shares_follow_the_tables() -> None:
    rng = np.random.default_rng(0)
    for malignant, share in ((False, 0.08), (True, 0.40)):
        found = Counter(
            draw_case(rng, malignant=malignant, parameters=KNOWN).margin for _ in range(1000)
        )
        assert found["SPICULATED"] / 1000 == pytest.approx(share, abs=0.05)


def test_a_longer_stream_starts_like_a_shorter_one() -> None:
    short = [p.image for p in phantom_stream(per_class=2, size=32)]
    long = [p.image for p in phantom_stream(per_class=12, size=32)]
    assert len(short) == 4
    assert len(long) == 24
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=False))
    single = draw_phantom(
        np.random.default_rng(np.random.SeedSequence(0, spawn_key=(1,))), malignant=True, size=32
    )
    assert np.array_equal(single.image, short[1])


def test_written_crops_form_a_manifest_that_a_second_run_repeats(tmp_path: Path) -> None:
    manifest = write_phantom_crops(tmp_path / "a", per_class=11, size=32)
    longer = write_phantom_crops(tmp_path / "c", per_class=13, size=32)
    assert longer.crops[:22] == manifest.crops
    assert CropsManifest.read(tmp_path / "a").crops == manifest.crops
    drawn = render(phantom_cases(0, 22, parameters=KNOWN), size=32)
    assert np.array_equal(manifest.images(range(22)), np.round(drawn * 65535).astype(np.uint16))
    assert len(manifest.require_classes("val")) == 2
    assert len(manifest.require_classes("train")) == 20
    assert {crop.view for crop in manifest.crops} == {"CC", "MLO"}
    for crop in manifest.crops:
        assert crop.is_synthetic
        assert (crop.origin, crop.label_source, crop.crop_rule) == ("phantom", "phantom", "centred")
        assert set(crop.attributes) == {"density", "shape", "margin", "subtlety", "size_share"}


def test_the_number_of_workers_leaves_the_folder_alone(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_phantom_crops(tmp_path / str(workers), per_class=40, size=16, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_pinned_or_daemonic_process_starts_no_more_workers_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert crops_module._processors() == 3
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert crops_module._processors() == 1


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(
        "import multiprocessing, pathlib, threading, time\n"
        "from data_prep.phantoms.crops import write_phantom_crops\n"
        "def names():\n"
        "    while len(started := multiprocessing.active_children()) < 2: time.sleep(0.01)\n"
        "    print(*(child.pid for child in started), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=names).start()\n"
        f"    write_phantom_crops(pathlib.Path({str(tmp_path)!r}), per_class=10**5, workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    until = time.monotonic() + 60
    while not list(tmp_path.glob("images/*.png")) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(running(pid) for pid in workers)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while any(map(running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(map(running, workers))


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_the_system_stops_is_named_in_one_sentence() -> None:
    with pytest.raises(PhantomError, match=r"workers: 2\. The system stopped one"):
        crops_module._in_processes(stop, range(4), 2)


def stop(start: int) -> list[Crop]:
    os._exit(start + 1)


def test_an_interrupted_run_stops_and_a_second_one_completes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_crop_image

    def fail(path: Path, pixels: NDArray[np.uint16]) -> str:
        if path.stem.endswith("000020"):
            raise OSError(28, os.strerror(28), str(path))
        return save(path, pixels)

    monkeypatch.setattr(crops_module, "save_crop_image", fail)
    with pytest.raises(OSError, match="phantom_000020"):
        write_phantom_crops(tmp_path / "a", per_class=60, size=16, workers=1)
    assert not (tmp_path / "a" / "crops.csv").exists()
    assert len(contents(tmp_path / "a")) < 120
    monkeypatch.undo()
    for name in ("a", "b"):
        write_phantom_crops(tmp_path / name, per_class=60, size=16)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("per_class", "size", "message"),
    [(0, 32, "per_class: 0.*at least 1"), (4, 8, "size: 8.*at least 16")],
)
def test_too_few_or_too_small_crops_are_refused(
    tmp_path: Path, per_class: int, size: int, message: str
) -> None:
    with pytest.raises(PhantomError, match=message):
        write_phantom_crops(tmp_path, per_class=per_class, size=size)
    with pytest.raises(PhantomError, match=r"seed: -1.*at least 0"):
        write_phantom_crops(tmp_path, per_class=4, size=32, seed=-1)
    assert not list(tmp_path.iterdir())
