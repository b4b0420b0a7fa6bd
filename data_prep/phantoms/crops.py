# SPDX-License-Identifier: Apache-2.0
"""Phantom crops: cases rendered as pictures, streams of them, and folders written in parallel.

Volumes, as tomosynthesis has them, are written to folders in the same way.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest
from data_prep.phantoms.case import PhantomCase, draw_case
from data_prep.phantoms.film import add_film_artefact, add_surroundings, expose
from data_prep.phantoms.masses import draw_calcifications, draw_masses
from data_prep.phantoms.parameters import PhantomError, PhantomParameters
from data_prep.phantoms.texture import Details, FloatImage
from data_prep.phantoms.tissue import tissue
from data_prep.progress import watched
from data_prep.worker_environment import worker_environment

CHUNK = 24  # cases rendered together; more would leave the processor's cache
CROPS_PER_WORKER = 256  # a process starts in the time of about as many crops
DEEPEST = 64  # slices of a volume
VOLUMES = 4  # drawn by a process in one go, and for each of which one is worth starting


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One phantom crop with its mask, label and descriptors.

    Attributes:
        case: Values that it was rendered from.
        image: Shape ``(size, size)``, values in ``[0, 1]``.
        mask: Shape ``(size, size)``, the mass as an annotator would outline it.
    """

    case: PhantomCase
    image: FloatImage
    mask: NDArray[np.bool_]

    @property
    def malignant(self) -> bool:
        """Label."""
        return self.case.malignant

    @property
    def attributes(self) -> Mapping[str, str]:
        """Density, shape, margin and subtlety, as named in CBIS-DDSM."""
        return self.case.attributes


def render(cases: Sequence[PhantomCase], *, size: int = 128) -> FloatImage:
    """Renders cases.

    A picture depends only on its case and the size. A case shows the same phantom at each size.

    Args:
        cases: Cases to render.
        size: Edge of a picture, in pixels.

    Returns:
        Shape ``(N, size, size)``, values in ``[0, 1]``.
    """
    return render_with_masks(cases, size=size)[0]


def render_with_masks(
    cases: Sequence[PhantomCase], *, size: int = 128
) -> tuple[FloatImage, NDArray[np.bool_]]:
    """Renders cases and the masks of their masses, both of shape ``(N, size, size)``."""
    images = np.empty((len(cases), size, size), np.float32)
    masks = np.empty((len(cases), size, size), np.bool_)
    for start in range(0, len(cases), CHUNK):
        here = slice(start, start + CHUNK)
        images[here], masks[here] = _render_chunk(cases[here], size)
    return images, masks


def _render_chunk(cases: Sequence[PhantomCase], size: int) -> tuple[FloatImage, NDArray[np.bool_]]:
    shape, details = (size, size), [Details(case.texture) for case in cases]
    image = tissue([case.tissue for case in cases], details, shape, edge=size)
    masses, masks = draw_masses([case.mass for case in cases], details, shape, edge=size)
    image += masses
    for attenuation, source, case in zip(image, details, cases, strict=True):
        if case.calcifications:
            attenuation += case.calcification_level * draw_calcifications(
                source,
                shape,
                centre=(size * case.mass.centre[0], size * case.mass.centre[1]),
                half=size * case.mass.size / 2,
                count=case.calcifications,
                radius=size * case.calcification_radius,
            )
        add_surroundings(attenuation, case.film, edge=size)
    films = expose(image, [case.film for case in cases], details, edge=size)
    for i, case in enumerate(cases):
        if case.film.artefact:
            films[i] = add_film_artefact(films[i], case.film.artefact, details[i], edge=size)
    return films, masks


def draw_phantom(
    rng: np.random.Generator,
    *,
    malignant: bool,
    size: int = 128,
    parameters: PhantomParameters | None = None,
) -> Phantom:
    """Draws one crop around one mass.

    Args:
        rng: Source of randomness.
        malignant: Class of the mass.
        size: Edge of the crop, in pixels.
        parameters: Population; the default if not given.
    """
    case = draw_case(rng, malignant=malignant, parameters=parameters or PhantomParameters())
    images, masks = render_with_masks([case], size=size)
    return Phantom(case=case, image=images[0], mask=masks[0])


def phantom_cases(
    first: int, last: int, *, seed: int = 0, parameters: PhantomParameters
) -> list[PhantomCase]:
    """Draws cases ``first`` to ``last - 1`` of a stream: even ones benign, odd ones malignant.

    Case ``i`` depends only on ``seed``, ``i`` and the parameters.
    """
    sources = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        for index in range(first, last)
    )
    return [
        draw_case(rng, malignant=bool(index % 2), parameters=parameters)
        for index, rng in enumerate(sources, start=first)
    ]


def phantom_stream(
    *, per_class: int, size: int = 128, seed: int = 0, parameters: PhantomParameters | None = None
) -> Iterator[Phantom]:
    """Yields ``2 * per_class`` phantoms, alternately benign and malignant.

    Phantom ``i`` depends only on ``seed``, ``i``, size and parameters, so a longer stream starts
    with the shorter one.
    """
    known = parameters or PhantomParameters()
    for start in range(0, 2 * per_class, CHUNK):
        cases = phantom_cases(start, min(start + CHUNK, 2 * per_class), seed=seed, parameters=known)
        for case, image, mask in zip(cases, *render_with_masks(cases, size=size), strict=True):
            yield Phantom(case=case, image=image, mask=mask)


def write_phantom_crops(
    out: Path,
    *,
    per_class: int,
    size: int = 128,
    depth: int | None = None,
    seed: int = 0,
    parameters: PhantomParameters | None = None,
    workers: int | None = None,
) -> CropsManifest:
    """Writes a folder of phantom crops or volumes; every tenth pair is for validation.

    Several worker processes share the work, since threads would wait for the interpreter half of
    the time. The number of workers does not change the files.

    Args:
        out: Folder for ``crops.csv`` and ``images/``.
        per_class: Crops of each class, ``>= 1``.
        size: Edge of a crop, in pixels, ``>= 16``.
        depth: Slices of volumes, from 2 to 64; crops in the plane if not given. The cases of a
            seed are the same.
        seed: Seed of the stream.
        parameters: Population; the default if not given.
        workers: Processes, ``>= 1``. 1 draws in the calling process. If not given, one for each
            processor, but no more than one for each ``CROPS_PER_WORKER`` crops, or ``VOLUMES``
            volumes. A script that uses
            more than one needs ``if __name__ == "__main__":`` around its own commands.

    Raises:
        PhantomError: For a number of crops, a size or a number of workers below the stated ones,
            and if the system stops a worker.
    """
    if workers is None:
        each = CROPS_PER_WORKER if depth is None else VOLUMES
        workers = min(_processors(), max(1, 2 * per_class // each))
    for name, value, least in (
        ("per_class", per_class, 1),
        ("size", size, 16),
        ("workers", workers, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise PhantomError(name, value, f"Give at least {least}.")
    if depth is not None and not 2 <= depth <= DEEPEST:
        raise PhantomError("depth", depth, f"Give 2 to {DEEPEST} slices.")
    starts = range(0, 2 * per_class, CHUNK if depth is None else VOLUMES)
    write = partial(
        _write_chunk,
        out=out,
        total=2 * per_class,
        size=size,
        depth=depth,
        seed=seed,
        parameters=parameters or PhantomParameters(),
    )
    if workers == 1:
        chunks = [write(start) for start in watched(starts, "Phantom crops")]
    else:
        chunks = _in_processes(write, starts, workers)
    return CropsManifest.write(out, [crop for chunk in chunks for crop in chunk])


def _processors() -> int:
    """Processors that this process may use; 1 where it must not start others."""
    if multiprocessing.current_process().daemon:  # such as a worker of dask
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_chunk(
    start: int,
    *,
    out: Path,
    total: int,
    size: int,
    depth: int | None,
    seed: int,
    parameters: PhantomParameters,
) -> list[Crop]:
    """Draws and saves up to ``CHUNK`` crops or ``VOLUMES`` volumes; returns their rows."""
    end = min(start + (CHUNK if depth is None else VOLUMES), total)
    cases = phantom_cases(start, end, seed=seed, parameters=parameters)
    drawn: Iterable[tuple[FloatImage, Mapping[str, str]]]
    spacing_mm = slice_mm = None
    if depth is None:
        known = (case.stated for case in cases)
        drawn = zip(render(cases, size=size), known, strict=True)
    else:
        # Here, for their imports take as long as some hundred crops in the plane.
        from data_prep.phantoms.tomosynthesis import EDGE_MM, SLICE_MM, draw_volume

        spacing_mm, slice_mm = EDGE_MM / size, SLICE_MM
        volumes = (draw_volume(case, size=size, depth=depth) for case in cases)
        drawn = ((volume.slices, volume.attributes) for volume in volumes)
    crops = []
    for index, (case, (picture, attributes)) in enumerate(zip(cases, drawn, strict=True), start):
        file = f"images/phantom_{index:06d}.{'png' if depth is None else 'tif'}"
        pixels = to_16_bit(picture)
        crops.append(
            Crop(
                file=file,
                patient_id="",
                lesion_id="1",
                image_id=f"{index:06d}",
                view=case.view,
                malignant=case.malignant,
                split="val" if index // 2 % 10 == 9 else "train",
                origin="phantom",
                label_source="phantom",
                crop_rule="centred",
                sha256=save_crop_image(out / file, pixels),
                fingerprint=fingerprint(pixels),
                pixel_spacing_mm=spacing_mm,
                depth=depth,
                slice_spacing_mm=slice_mm,
                attributes=dict(attributes),  # a read-only view cannot be sent
            )
        )
    return crops


def _in_processes(
    write: Callable[[int], list[Crop]], starts: range, workers: int
) -> list[list[Crop]]:
    """Runs ``write`` in other processes; results in the order of ``starts``."""
    # Forked processes would inherit locks of threads that they do not have.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
    )
    try:
        with worker_environment():
            futures = [pool.submit(write, start) for start in starts]
        shown = zip(watched(starts, "Phantom crops"), futures, strict=True)
        return [future.result() for _, future in shown]
    except BrokenProcessPool as error:
        raise PhantomError(
            "workers",
            workers,
            "The system stopped one of them, most often for lack of memory. Run it again with "
            "fewer processors or more memory.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, no further chunk is begun


def _begin_worker() -> None:
    """Prepares a worker: Ctrl-C is for its parent, with which it ends; OpenCV takes one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent was killed; it would wait for work forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def to_16_bit(pictures: FloatImage) -> NDArray[np.uint16]:
    """Rounds pictures with values in ``[0, 1]`` to ``[0, 65535]``."""
    scaled = pictures * np.float32(65535)
    return np.asarray(np.rint(scaled, out=scaled), np.uint16)
