# SPDX-License-Identifier: Apache-2.0
"""Images per second of ``prepare lesions`` against bare pydicom decoding of the same files.

    python benchmarks/prepare.py                 # about ten minutes on two cores

The bare decoder reads each file and asks for its pixels, nothing else; it runs in as many processes
as the cutter, so that both meet the same memory and disk. Start and end do not count over an
archive: both rates are those of images that are done after each worker's first one. A difference
between two whole runs would not do: both begin and end with some seconds that vary by as much as
ten images take. All take turns, and the best round of each counts. Wall-clock rates need an idle
machine; the last column compares processor time, scheduler included, and is fair on a busy one.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from data_prep.cropping import Box
from data_prep.cut_lesions import Journal, cut_lesions
from data_prep.cutting import Cutting
from data_prep.lesions import LesionRow, LesionTable
from data_prep.phantoms.mammograms import draw_mammogram
from data_prep.phantoms.parameters import PhantomParameters

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
}


Pixels = NDArray[np.uint16]
Times = tuple[float, float]


def mammogram(height: int, width: int) -> Pixels:
    """A phantom of 12 bits, drawn small and enlarged, with the grain of a detector."""
    rng = np.random.default_rng(0)
    small = draw_mammogram(
        rng, (640, 512), view="CC", laterality="L", density=2, lesions=[],
        parameters=PhantomParameters(),
    ).film  # fmt: skip
    rows = np.linspace(0, 639, height).astype(int)
    columns = np.linspace(0, 511, width).astype(int)
    grey = small[np.ix_(rows, columns)] * 3600
    grey += rng.normal(0, 6, grey.shape)
    stored: Pixels = np.clip(grey, 0, 4095).astype(np.uint16)
    return stored


def write(path: Path, pixels: Pixels, syntax: str) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    file.SOPInstanceUID = generate_uid()
    file.Modality, file.PresentationIntentType = "MG", "FOR PRESENTATION"
    file.ImagerPixelSpacing = [0.07, 0.07]
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.WindowCenter, file.WindowWidth = 2000, 4000
    file.PixelData = pixels.tobytes()
    file["PixelData"].VR = "OW"
    if SYNTAXES[syntax] != ExplicitVRLittleEndian:
        file.compress(SYNTAXES[syntax])
    file.save_as(path, enforce_file_format=True)


def decode(path: Path) -> float:
    """Decodes an image; returns when it was done."""
    assert dcmread(path).pixel_array.size
    return time.time()


def lesions(paths: Sequence[Path], height: int, width: int) -> LesionTable:
    box = Box(width // 4, height // 2, width // 4 + 150, height // 2 + 180)
    return LesionTable(
        rows=tuple(
            LesionRow(
                key=f"row_{i:05d}", where=f"row {i}", file=path.name, path=path,
                patient_id="P", image_id=f"{i}", lesion_id="1", malignant=True,
                region=box,
            )
            for i, path in enumerate(paths)
        )
    )  # fmt: skip


@contextmanager
def silent() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def processor_time() -> float:
    """Seconds of this process and of those that it started, running ones included."""
    this = psutil.Process()
    own = (one.cpu_times() for one in (this, *this.children(recursive=True)))
    return float(sum(one.user + one.system for one in own))


@contextmanager
def noted_at(places: Sequence[int]) -> Iterator[list[Times]]:
    """Collects time and processor time when so many images are noted in the journal as done."""
    found: list[Times] = []
    done = 0
    add = Journal.add

    def noted(*given: Any) -> None:
        nonlocal done
        done += 1
        if done in places:
            found.append((time.time(), processor_time()))
        add(*given)

    with mock.patch.object(Journal, "add", noted):
        yield found


def decoded(paths: Sequence[Path], workers: int) -> float:
    """Seconds per image of bare decoding, of images after the first of each worker."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(decode, paths[:workers]))  # imports are not timed
        ends = sorted(pool.map(decode, paths))
    return (ends[-1] - ends[workers - 1]) / (len(paths) - workers)


def cut(rows: LesionTable, out: Path, workers: int) -> Times:
    """Seconds per image of cutting, on the wall and of all processors, of the same images."""
    with silent(), noted_at((workers, len(rows.rows))) as found:
        cut_lesions(rows, out, cutting=Cutting(), origin="own", workers=workers)
    begin, end = found
    images = len(rows.rows) - workers
    return (end[0] - begin[0]) / images, (end[1] - begin[1]) / images


def fastest(
    root: Path, paths: Sequence[Path], shape: tuple[int, int], *, count: int, rounds: int
) -> tuple[Times, Times]:
    """Seconds per image for bare decoding and for cutting, on the wall and of all processors."""
    table = lesions(paths, *shape)
    bare, cutting = [], []
    for turn in range(rounds):
        wall = decoded(paths, count)
        before = processor_time()
        for path in paths:
            decode(path)
        bare.append((wall, (processor_time() - before) / len(paths)))
        cutting.append(cut(table, root / f"cut_{count}_{turn}", count))
    return least(bare), least(cutting)


def least(rounds: Sequence[Times]) -> Times:
    walls, processors = zip(*rounds, strict=True)
    return min(walls), min(processors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60, help="above the number of workers")
    parser.add_argument("--height", type=int, default=3328)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--syntaxes", nargs="+", choices=SYNTAXES, default=list(SYNTAXES))
    chosen = parser.parse_args()
    shape = (chosen.height, chosen.width)
    pixels = mammogram(*shape)
    print(f"{chosen.images} images of {chosen.width} x {chosen.height} px, best of {chosen.rounds}")
    names = ("decoder / s", "prepare / s", "ratio", "by processor time")
    print(f"{'':16}{'workers':>9}{names[0]:>13}{names[1]:>13}{names[2]:>7}{names[3]:>19}")
    for syntax in chosen.syntaxes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            paths = [root / f"{i}.dcm" for i in range(chosen.images)]
            write(paths[0], pixels, syntax)
            for path in paths[1:]:  # copies of one patient: their crops are left out at the end
                shutil.copyfile(paths[0], path)
            for count in chosen.workers:
                bare, cut = fastest(root, paths, shape, count=count, rounds=chosen.rounds)
                print(
                    f"{syntax:16}{count:9d}{1 / bare[0]:13.2f}{1 / cut[0]:13.2f}"
                    f"{bare[0] / cut[0]:7.2f}{bare[1] / cut[1]:19.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
