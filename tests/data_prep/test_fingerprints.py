# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.errors import ManifestError
from data_prep.fingerprints import NEAR, distance, fingerprint, near_copies
from data_prep.manifest import CropsManifest
from data_prep.phantoms.crops import phantom_stream, to_16_bit, write_phantom_crops
from tests.fixtures import write_cohort

Pixels = NDArray[np.uint16]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def phantoms() -> list[Pixels]:
    return [to_16_bit(phantom.image) for phantom in phantom_stream(per_class=20, size=128, seed=3)]


def resized(edge: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: cv2.resize(pixels, (edge, edge), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def compressed(pixels: Pixels) -> Pixels:
    _, jpeg = cv2.imencode(".jpg", (pixels // 257).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 75])
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded.astype(np.uint16) * np.uint16(257)


def grainy(pixels: Pixels) -> Pixels:
    return (pixels + RNG.normal(0, 400, pixels.shape)).clip(0, 65535).astype(np.uint16)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "8 bits": lambda pixels: pixels // 257,
    "8 bits, stretched to 16": lambda pixels: pixels // 257 * 257,
    "half the contrast": lambda pixels: pixels // 2 + 7000,
    "inverted": lambda pixels: 65535 - pixels,
    "mirrored left to right": lambda pixels: pixels[:, ::-1],
    "mirrored upside down": lambda pixels: pixels[::-1],
    "turned by 180 degrees": lambda pixels: pixels[::-1, ::-1],
    "121 px": resized(121),
    "134 px": resized(134),
    "64 px": resized(64),
    "JPEG": compressed,
    "grain": grainy,
    "margin cut off": lambda pixels: pixels[1:-1, 1:-1],
    "several": lambda pixels: compressed(resized(124)(pixels[:, ::-1] // 2 + 9000)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_crop_is_recognised_after(
    phantoms: list[Pixels], change: Callable[[Pixels], Pixels]
) -> None:
    ones = [fingerprint(pixels) for pixels in phantoms]
    others = [fingerprint(np.ascontiguousarray(change(pixels))) for pixels in phantoms]
    pairs = near_copies(ones, others)
    assert pairs.tolist() == [[i, i] for i in range(len(phantoms))]


def test_pairs_are_those_of_a_loop_over_eight_symmetries() -> None:
    def turned(number: str, v: int, h: int, inverted: int) -> int:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(number), np.uint8)).reshape(16, 16)
        flips = (np.arange(16)[:, None] * v + np.arange(16) * h + inverted) % 2
        return int.from_bytes(np.packbits(bits ^ flips.astype(np.uint8)).tobytes())

    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, (12, 16, 16)).astype(np.uint8)
    noisy = base ^ (rng.random(base.shape) < np.linspace(0.1, 0.35, 12)[:, None, None])
    noisy[::3, :, 1::2] ^= 1
    ones, others = ([np.packbits(bits).tobytes().hex() for bits in part] for part in (base, noisy))
    expected = [
        [i, j]
        for (i, one), (j, other) in product(enumerate(ones), enumerate(others))
        if min(
            (turned(one, *symmetry) ^ int(other, 16)).bit_count()
            for symmetry in product((0, 1), repeat=3)
        )
        <= NEAR
    ]
    assert near_copies(ones, others).tolist() == expected
    assert 2 < len(expected) < 12  # some are recognised, some are not


def test_many_crops_are_compared_in_parts(
    phantoms: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = [fingerprint(pixels) for pixels in phantoms]
    whole = sorted(map(tuple, near_copies(prints, [*prints, *prints]).tolist()))
    itself = sorted(map(tuple, near_copies(prints, prints).tolist()))
    assert itself == sorted(map(tuple, near_copies(prints, [*prints]).tolist()))
    monkeypatch.setattr("data_prep.fingerprints._AT_ONCE", 7)
    assert sorted(map(tuple, near_copies(prints, [*prints, *prints]).tolist())) == whole
    assert sorted(map(tuple, near_copies(prints, prints).tolist())) == itself
    assert len(near_copies(prints, [])) == len(near_copies([], prints)) == 0


def test_different_phantoms_are_no_copies(tmp_path: Path) -> None:
    manifest = write_phantom_crops(tmp_path, per_class=150, size=64, seed=9)
    prints = [crop.fingerprint for crop in manifest.crops]
    assert len(near_copies(prints, prints)) == len(prints)


def test_flat_and_tiny_crops() -> None:
    assert fingerprint(np.full((32, 32), 7, np.uint16)) == "0" * 64
    assert fingerprint(RNG.integers(0, 65536, (15, 15)).astype(np.uint16)) == ""
    assert distance("0" * 63 + "7", "0" * 64) == 3
    assert distance("", "0" * 64) == 256


def test_a_marker_does_not_decide(phantoms: list[Pixels]) -> None:
    marked = []
    for pixels in phantoms:
        bright = pixels.copy()
        bright[30:40, 20:30] = 65535
        marked.append(fingerprint(bright))
    assert len(near_copies(marked, marked)) == len(marked)


def test_images_are_held_against_the_recorded_fingerprint(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path)
    first = cohort.crops[0]
    another = replace(first, fingerprint=cohort.crops[1].fingerprint)
    forged = CropsManifest.write(tmp_path, [another, *cohort.crops[1:]])
    with pytest.raises(ManifestError, match=r"row 2.*fingerprint is that of another crop"):
        forged.image(0)
    unknown = CropsManifest.write(tmp_path, [replace(first, fingerprint=""), *cohort.crops[1:]])
    assert unknown.image(0).shape == (32, 32)
    with pytest.raises(ManifestError, match="64 hexadecimal digits"):
        replace(first, fingerprint="xyz")


def test_older_tables_have_no_fingerprints(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path)
    lines = (tmp_path / "crops.csv").read_text().splitlines()
    (tmp_path / "crops.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    old = CropsManifest.read(tmp_path)
    assert [crop.fingerprint for crop in old.crops] == [""] * len(cohort.crops)
    assert [replace(crop, fingerprint="") for crop in cohort.crops] == list(old.crops)


def test_saved_images_keep_their_fingerprint(tmp_path: Path, phantoms: list[Pixels]) -> None:
    save_crop_image(tmp_path / "a.png", phantoms[0])
    again = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert again is not None
    assert fingerprint(again.astype(np.uint16)) == fingerprint(phantoms[0])


def test_bits_are_those_of_a_plain_transform_in_double_precision(
    phantoms: list[Pixels],
) -> None:
    place = np.pi * np.outer(np.arange(16), np.arange(128) + 0.5) / 128
    for pixels in phantoms[:8]:
        grey = pixels.astype(float)
        bounds = [grey.mean() + side * 1.5 * grey.std() for side in (-1, 1)]
        waves = np.cos(place) @ (grey.clip(*bounds) - grey.clip(*bounds).mean()) @ np.cos(place).T
        waves[0, 0] = 0
        exact = np.packbits(waves > 0).tobytes().hex()
        assert distance(fingerprint(pixels), exact) <= 1  # a wave may be 0 but for rounding
