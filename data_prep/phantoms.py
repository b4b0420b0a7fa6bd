# SPDX-License-Identifier: Apache-2.0
"""Phantom crops: procedural masses on procedural tissue, with label, mask and descriptors.

No algorithm fits anything to patients, so phantoms carry no privacy account. The numbers in
:class:`PhantomParameters` are hand-chosen. Where a publication gives their order of magnitude it is
named; none was taken from a table and none has been verified against one. Brightness and contrast
were chosen with published CBIS-DDSM training crops and summaries of them (mean, standard deviation,
spectral slope) in view, which the account leaves out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from data_prep.manifest import Crop, CropsManifest, save_crop_image
from data_prep.phantom_film import add_film_artefact, expose
from data_prep.phantom_masses import draw_calcifications, draw_mass, draw_outline, mass_model
from data_prep.phantom_tissue import FloatImage, behind_skin, tissue

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomParameters:
    """What a population of phantom crops looks like.

    Pairs that end in ``_range`` are uniform. Tables give the shares among benign and among
    malignant masses; only ``margins`` and ``shapes`` depend on the class, all else is alike.

    Attributes:
        beta_mean: Mean exponent of the tissue's power spectrum (about 3; Burgess 2001).
        beta_sd: Its standard deviation between crops; draws stay in ``[2.5, 3.6]``.
        contrast_range: Standard deviation of the tissue, relative to the film's range.
        level_mean: Mean grey of the tissue, relative to the film's range.
        level_sd: Its standard deviation between crops.
        densities: Shares of the BI-RADS densities 1 to 4.
        margins: Shares of each margin, (benign, malignant). Circumscribed masses are mostly
            benign, spiculated ones mostly malignant (after Liberman 1998, AJR 171:35).
        shapes: Shares of each shape, (benign, malignant).
        subtleties: Shares of the subtleties 1 (barely visible) to 5 (obvious).
        mass_contrast_range: Attenuation of a mass of subtlety 1 and of subtlety 5.
        size_range: Longer edge of the mass over the edge of the crop.
        jitter: Standard deviation of the mass centre, over the edge of the crop.
        skin_probability: Chance that the crop shows the skin line and air.
        calcification_probability: Chance of calcium specks, (benign, malignant).
        artefact_probability: Chance of something on the film.
        grain_range: Standard deviation of quantum noise and film grain.
        blur_range: Standard deviation of the point spread, in 1/128 of the crop's edge.
    """

    beta_mean: float = 3.0
    beta_sd: float = 0.2
    contrast_range: Pair = (0.025, 0.085)
    level_mean: float = 0.47
    level_sd: float = 0.10
    densities: tuple[float, float, float, float] = (0.15, 0.40, 0.32, 0.13)
    margins: Mapping[str, Pair] = field(
        default_factory=lambda: MappingProxyType(
            {
                "CIRCUMSCRIBED": (0.54, 0.04),
                "OBSCURED": (0.24, 0.08),
                "ILL_DEFINED": (0.15, 0.38),
                "MICROLOBULATED": (0.04, 0.08),
                "SPICULATED": (0.03, 0.42),
            }
        )
    )
    shapes: Mapping[str, Pair] = field(
        default_factory=lambda: MappingProxyType(
            {
                "ROUND": (0.22, 0.06),
                "OVAL": (0.53, 0.11),
                "LOBULATED": (0.17, 0.17),
                "IRREGULAR": (0.08, 0.66),
            }
        )
    )
    subtleties: tuple[float, float, float, float, float] = (0.04, 0.10, 0.22, 0.30, 0.34)
    mass_contrast_range: Pair = (0.08, 0.28)
    size_range: Pair = (0.34, 0.64)
    jitter: float = 0.02
    skin_probability: float = 0.12
    calcification_probability: Pair = (0.05, 0.10)
    artefact_probability: float = 0.06
    grain_range: Pair = (0.003, 0.010)
    blur_range: Pair = (0.5, 0.8)

    def __post_init__(self) -> None:
        """Refuses tables that are no distribution.

        Raises:
            ValueError: Naming the field.
        """
        tables: dict[str, tuple[float, ...]] = {
            "densities": self.densities,
            "subtleties": self.subtleties,
        }
        for name in ("margins", "shapes"):
            for i, label in enumerate(("benign", "malignant")):
                tables[f"{name}, {label}"] = tuple(v[i] for v in getattr(self, name).values())
        for name, shares in tables.items():
            if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
                raise ValueError(
                    f"PhantomParameters, {name}: {shares}. Give shares, at least 0, with sum 1."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One phantom crop and all that is known about it.

    Attributes:
        image: Shape ``(size, size)``, values in ``[0, 1]``.
        mask: Shape ``(size, size)``, the mass as an annotator would outline it.
        malignant: Label.
        attributes: Density, shape, margin and subtlety in the words of CBIS-DDSM.
    """

    image: FloatImage
    mask: NDArray[np.bool_]
    malignant: bool
    attributes: Mapping[str, str]


def draw_descriptors(
    rng: np.random.Generator, *, malignant: bool, parameters: PhantomParameters
) -> dict[str, str]:
    """Draws density, shape, margin and subtlety of one lesion, given its class."""

    def pick(table: Mapping[str, Pair]) -> str:
        return str(rng.choice(list(table), p=[pair[malignant] for pair in table.values()]))

    return {
        "density": str(1 + int(rng.choice(4, p=parameters.densities))),
        "shape": pick(parameters.shapes),
        "margin": pick(parameters.margins),
        "subtlety": str(1 + int(rng.choice(5, p=parameters.subtleties))),
    }


def mass_contrast(rng: np.random.Generator, subtlety: int, parameters: PhantomParameters) -> float:
    """Attenuation of a mass at its centre; a step in subtlety is a constant factor."""
    low, high = parameters.mass_contrast_range
    return float(low * (high / low) ** ((subtlety - 1) / 4) * math.exp(rng.normal(0, 0.15)))


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
    known = parameters or PhantomParameters()
    shape, grain_size = (size, size), size / 128
    words = draw_descriptors(rng, malignant=malignant, parameters=known)
    model = mass_model(words["shape"], words["margin"])
    image = rng.normal(known.level_mean, known.level_sd) + tissue(
        rng,
        shape,
        density=int(words["density"]),
        beta=float(np.clip(rng.normal(known.beta_mean, known.beta_sd), 2.5, 3.6)),
        contrast=rng.uniform(*known.contrast_range),
        direction=rng.uniform(0, np.pi),
        grain_size=grain_size,
    )
    centre = tuple((size - 1) / 2 + known.jitter * size * rng.standard_normal(2).clip(-2, 2))
    longer_edge = size * rng.uniform(*known.size_range)
    mass, mask = draw_mass(
        rng,
        shape,
        model=model,
        outline=draw_outline(rng, model),
        centre=centre,
        longer_edge=longer_edge,
        obscured=words["margin"] == "OBSCURED",
    )
    image += mass_contrast(rng, int(words["subtlety"]), known) * mass
    if rng.random() < known.calcification_probability[malignant]:
        specks = draw_calcifications(
            rng, shape, centre=centre, half=longer_edge / 2, grain_size=grain_size
        )
        image += rng.uniform(0.15, 0.5) * specks
    if rng.random() < known.skin_probability:
        inside = _distance_to_skin(rng, shape, clearance=0.5 * longer_edge + 0.05 * size)
        image = behind_skin(image, inside, rim=size * rng.uniform(0.25, 0.7))
    film = expose(
        rng,
        image.astype(np.float32),
        blur=grain_size * rng.uniform(*known.blur_range),
        grain=rng.uniform(*known.grain_range),
    )
    if rng.random() < known.artefact_probability:
        film = add_film_artefact(rng, film, grain_size)
    return Phantom(image=film, mask=mask, malignant=malignant, attributes=MappingProxyType(words))


def _distance_to_skin(
    rng: np.random.Generator, shape: tuple[int, int], *, clearance: float
) -> FloatImage:
    """Distance to a bowed skin line at least ``clearance`` from the centre, negative in air."""
    height, width = shape
    side = rng.uniform(0, 2 * np.pi)
    bow = max(shape) * rng.uniform(1.2, 5.0)
    nearest = max(clearance, max(shape) * rng.uniform(0.3, 0.65))
    y, x = np.ogrid[:height, :width]
    y0 = (height - 1) / 2 + (nearest - bow) * math.sin(side)
    x0 = (width - 1) / 2 + (nearest - bow) * math.cos(side)
    return (bow - np.hypot(y - y0, x - x0)).astype(np.float32)


def phantom_stream(
    *, per_class: int, size: int = 128, seed: int = 0, parameters: PhantomParameters | None = None
) -> Iterator[Phantom]:
    """Yields ``2 * per_class`` phantoms, benign and malignant in turn.

    Phantom ``i`` depends on ``seed`` and ``i`` alone, so a longer stream starts like a shorter one.
    """
    for index in range(2 * per_class):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        yield draw_phantom(rng, malignant=bool(index % 2), size=size, parameters=parameters)


def write_phantom_crops(
    out: Path, *, per_class: int, size: int = 128, seed: int = 0
) -> CropsManifest:
    """Writes a folder of phantom crops; every tenth pair is for validation.

    Args:
        out: Folder for ``crops.csv`` and ``images/``.
        per_class: Crops of each class, ``>= 1``.
        size: Edge of a crop, in pixels, ``>= 16``.
        seed: Seed of the stream.

    Raises:
        ValueError: For a number of crops or a size below the stated ones.
    """
    if per_class < 1 or size < 16:
        raise ValueError(f"{per_class=}, {size=}. Give at least 1 crop a class and 16 pixels.")
    stream = phantom_stream(per_class=per_class, size=size, seed=seed)
    rows = []
    for index, phantom in enumerate(track(stream, "phantom crops", total=2 * per_class)):
        file = f"images/phantom_{index:06d}.png"
        pixels = np.round(phantom.image * 65535).astype(np.uint16)
        rows.append(
            Crop(
                file=file,
                patient_id="",
                lesion_id="1",
                image_id=f"{index:06d}",
                malignant=phantom.malignant,
                split="val" if index // 2 % 10 == 9 else "train",
                origin="phantom",
                label_source="phantom",
                crop_rule="centred",
                sha256=save_crop_image(out / file, pixels),
                attributes=phantom.attributes,
            )
        )
    return CropsManifest.write(out, rows)
