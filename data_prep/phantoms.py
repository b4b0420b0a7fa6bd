# SPDX-License-Identifier: Apache-2.0
"""Phantom crops: procedural masses on procedural tissue, with label, mask and descriptors.

No algorithm fits anything to patients, so phantoms carry no privacy account. The account leaves out
one thing: brightness, contrast and looks were chosen by hand with published CBIS-DDSM training
crops and summaries of them (mean, standard deviation, spectral slope) in view. Where a number comes
from a publication, :mod:`data_prep.phantom_parameters` or the function that uses it says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.phantom_case import PhantomCase, draw_case
from data_prep.phantom_film import add_surroundings, expose
from data_prep.phantom_masses import draw_masses
from data_prep.phantom_parameters import PhantomParameters
from data_prep.phantom_specks import add_film_artefact, draw_calcifications
from data_prep.phantom_texture import Details, FloatImage
from data_prep.phantom_tissue import tissue

CHUNK = 16  # cases rendered together; more would leave the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One phantom crop and all that is known about it.

    Attributes:
        case: What was drawn.
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
        """Density, shape, margin and subtlety in the words of CBIS-DDSM."""
        return self.case.attributes


def render(cases: Sequence[PhantomCase], *, size: int = 128) -> FloatImage:
    """Pictures of cases.

    A picture depends on its case and the size alone. A case shows the same phantom at each size.

    Args:
        cases: What to show.
        size: Edge of a picture, in pixels.

    Returns:
        Shape ``(N, size, size)``, values in ``[0, 1]``.
    """
    return render_with_masks(cases, size=size)[0]


def render_with_masks(
    cases: Sequence[PhantomCase], *, size: int = 128
) -> tuple[FloatImage, NDArray[np.bool_]]:
    """As :func:`render`, and the masks of the masses, shape ``(N, size, size)``."""
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
        parameters: Population; the default one if not given.
    """
    case = draw_case(rng, malignant=malignant, parameters=parameters or PhantomParameters())
    images, masks = render_with_masks([case], size=size)
    return Phantom(case=case, image=images[0], mask=masks[0])


def phantom_cases(
    first: int, last: int, *, seed: int = 0, parameters: PhantomParameters
) -> list[PhantomCase]:
    """Cases ``first`` to ``last - 1`` of a stream: even ones benign, odd ones malignant.

    Case ``i`` depends on ``seed``, ``i`` and the parameters alone.
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
    """Yields ``2 * per_class`` phantoms, benign and malignant in turn.

    Phantom ``i`` depends on ``seed`` and ``i`` alone, so a longer stream starts like a shorter one.
    """
    known = parameters or PhantomParameters()
    for start in range(0, 2 * per_class, CHUNK):
        cases = phantom_cases(start, min(start + CHUNK, 2 * per_class), seed=seed, parameters=known)
        for case, image, mask in zip(cases, *render_with_masks(cases, size=size), strict=True):
            yield Phantom(case=case, image=image, mask=mask)
