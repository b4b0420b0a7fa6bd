# SPDX-License-Identifier: Apache-2.0
"""Cases: the drawn values of one phantom before it is rendered, and gradual variations of them.

All values are monotone functions of standard normal values, which are kept in the case. A variation
mixes these with new ones and computes the values again, so variations follow the population, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.phantoms.film import Film
from data_prep.phantoms.masses import MARGINS, SHAPES, Mass
from data_prep.phantoms.parameters import PhantomError, PhantomParameters, class_shares
from data_prep.phantoms.texture import Texture
from data_prep.phantoms.tissue import Tissue

NORMALS = 61  # standard normal values of a case
_ROOT = math.sqrt(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomCase:
    """All values of one phantom; equal cases give equal pictures.

    Attributes:
        malignant: Label.
        view: ``"CC"`` or ``"MLO"``.
        density: BI-RADS density, 1 (fatty) to 4 (dense).
        shape: BI-RADS shape, as named in CBIS-DDSM.
        margin: BI-RADS margin, as named in CBIS-DDSM.
        subtlety: 1 (barely visible) to 5 (obvious).
        tissue: Tissue about the mass.
        mass: The mass.
        calcifications: Number of calcifications.
        calcification_radius: Their mean radius, in edges of a crop.
        calcification_level: Their attenuation.
        film: Position in the breast and acquisition.
        texture: Seeds of all details.
        normals: Standard normal values that the values above were computed from.
    """

    malignant: bool
    view: Literal["CC", "MLO"]
    density: int
    shape: str
    margin: str
    subtlety: int
    tissue: Tissue
    mass: Mass
    calcifications: int
    calcification_radius: float
    calcification_level: float
    film: Film
    texture: Texture
    normals: tuple[float, ...]

    @property
    def attributes(self) -> Mapping[str, str]:
        """Density, shape, margin and subtlety, as in ``crops.csv``."""
        return MappingProxyType(
            {
                "density": str(self.density),
                "shape": self.shape,
                "margin": self.margin,
                "subtlety": str(self.subtlety),
            }
        )

    @property
    def stated(self) -> Mapping[str, str]:
        """What ``crops.csv`` says: the attributes and ``size_share``, the size of the mass."""
        size = {"size_share": f"{self.mass.size:.3f}"}
        return MappingProxyType({**self.attributes, **size})


def draw_case(
    rng: np.random.Generator, *, malignant: bool, parameters: PhantomParameters
) -> PhantomCase:
    """Draws a case.

    Args:
        rng: Source of randomness.
        malignant: Class of the mass.
        parameters: Population.
    """
    return _read(rng.standard_normal(NORMALS), Texture.draw(rng), malignant, parameters)


def vary_case(
    rng: np.random.Generator, case: PhantomCase, *, degree: float, parameters: PhantomParameters
) -> PhantomCase:
    """Draws a case of the same class that resembles another one.

    Args:
        rng: Source of randomness.
        case: The other case.
        degree: In ``(0, 1]``; 0 would give the same case, 1 gives a new draw. Numbers and textures
            have the correlation ``sqrt(1 - degree**2)`` with those of the other case; shape and
            margin seldom change when the degree is small.
        parameters: Population of the other case.

    Raises:
        PhantomError: For a degree outside its range.
    """
    if not 0 < degree <= 1:
        raise PhantomError(
            "degree", degree, "Give a number above 0 (the same phantom) and at most 1 (a new draw)."
        )
    kept = math.sqrt(1 - degree**2)
    normals = kept * np.array(case.normals) + degree * rng.standard_normal(NORMALS)
    return _read(normals, case.texture.varied(rng, degree), case.malignant, parameters)


class _Values:
    """Computes values of given distributions from standard normal values, one after another."""

    def __init__(self, normals: Sequence[float]) -> None:
        self._normals = zip(normals, [0.5 * math.erfc(-z / _ROOT) for z in normals], strict=True)

    def normal(self, mean: float = 0.0, sd: float = 1.0, *, within: float = 2.5) -> float:
        """A normal value, at most ``within`` standard deviations from the mean."""
        return mean + sd * min(max(next(self._normals)[0], -within), within)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform value."""
        return low + (high - low) * next(self._normals)[1]

    def angle(self, turn: float = 2 * math.pi) -> float:
        """A uniform angle."""
        return turn * self.uniform()

    def pick(self, shares: Mapping[str, float]) -> str:
        """One of several words, with the given probabilities."""
        left = self.uniform()
        for word, share in shares.items():
            left -= share
            if left <= 0 and share > 0:
                return word
        return max(shares, key=lambda word: shares[word])  # rounding


def _read(
    normals: NDArray[np.float64], texture: Texture, malignant: bool, known: PhantomParameters
) -> PhantomCase:
    """Computes a case. The order of the values must stay, or seeds would give other cases."""
    values = _Values(normals.tolist())
    density = int(values.pick({str(i + 1): p for i, p in enumerate(known.densities)}))
    shape = values.pick(class_shares(known.shapes, malignant=malignant))
    margin = values.pick(class_shares(known.margins, malignant=malignant))
    subtlety = int(values.pick({str(i + 1): p for i, p in enumerate(known.subtleties)}))
    view: Literal["CC", "MLO"] = "CC" if values.uniform() < 0.5 else "MLO"
    mass = _read_mass(values, shape, margin, subtlety, known)
    speckled = values.uniform() < known.calcification_probability[malignant]
    coarse = values.uniform() < 0.4
    specks = values.uniform(1, 3) if coarse else values.uniform(3, 12)
    return PhantomCase(
        malignant=malignant,
        view=view,
        density=density,
        shape=shape,
        margin=margin,
        subtlety=subtlety,
        tissue=_read_tissue(values, density, known),
        mass=mass,
        calcifications=int(specks) if speckled else 0,
        calcification_radius=values.uniform(1.2, 2.4) / 128 / (1 if coarse else 3.5),
        calcification_level=values.uniform(0.15, 0.5),
        film=_read_film(values, mass, view, known),
        texture=texture,
        normals=tuple(normals.tolist()),
    )


def _read_tissue(values: _Values, density: int, known: PhantomParameters) -> Tissue:
    return Tissue(
        level=values.normal(known.level_mean, known.level_sd),
        slant=values.uniform(*known.slant_range),
        slant_side=values.angle(),
        contrast=values.uniform(*known.contrast_range),
        beta=values.uniform(*known.beta_range),
        stretch=values.uniform(1.0, 1.6),
        direction=values.angle(math.pi),
        lumpy=values.uniform() < known.lumpy_probability,
        lobe_stretch=values.uniform(1.2, 2.5),
        covered=values.normal((-0.9, -0.3, 0.3, 0.9)[density - 1], 0.3),
        sharpness=values.uniform(1.5, 4.5),
        gland=values.uniform(1.0, 2.5),
        sheet_turn=values.normal(0, 0.2),
        sheet_stretch=values.uniform(2.0, 6.0),
        sheet_fineness=values.uniform(6.0, 14.0),
        sheet_strength=values.uniform(0.2, 0.8),
        strands=values.uniform(*known.strands_range),
        strand_strength=values.uniform(0.7, 1.9),
        vessels=values.uniform(*known.vessels_range),
        vessel_strength=values.uniform(0.3, 1.2),
    )


def _read_mass(
    values: _Values, shape: str, margin: str, subtlety: int, known: PhantomParameters
) -> Mass:
    outline, edge = SHAPES[shape], MARGINS[margin]
    faint, strong = known.mass_contrast_range
    middle = known.offset
    return Mass(
        size=values.uniform(*known.size_range),
        centre=(values.normal(0.5, middle, within=2), values.normal(0.5, middle, within=2)),
        # A step in subtlety is a constant factor.
        contrast=faint * (strong / faint) ** ((subtlety - 1) / 4) * math.exp(values.normal(0, 0.2)),
        elongation=values.uniform(*outline.elongation),
        tilt=values.angle(math.pi),
        orders=outline.orders,
        waviness=values.uniform(*outline.waviness),
        ripple=values.uniform(*edge.ripple),
        exponent=values.uniform(*edge.exponent),
        raggedness=values.uniform(*edge.raggedness),
        grain=values.uniform(0.05, 0.2),
        spicules=round(values.uniform(*edge.spicules)),
        spicule_level=values.uniform(0.15, 0.55),
        spicule_reach=values.uniform(0.4, 1.3),
        obscured=values.uniform(*edge.obscured),
        obscured_side=values.angle(),
    )


def _read_film(
    values: _Values, mass: Mass, view: Literal["CC", "MLO"], known: PhantomParameters
) -> Film:
    shows_skin = values.uniform() < known.skin_probability
    clear = mass.size / 2 + 2 * known.offset  # the mass is not cut
    skin = max(clear, values.uniform(0.3, 0.65))
    shows_muscle = values.uniform() < known.muscle_probability and view == "MLO"
    muscle = values.uniform(0.08, 0.2)
    marked = values.uniform() < known.artefact_probability
    artefact = values.pick({"dust": 0.6, "marker": 0.4})
    return Film(
        skin=skin if shows_skin else math.inf,
        skin_side=values.angle(),
        skin_bow=values.uniform(1.2, 5.0),
        rim=values.uniform(0.25, 0.9),
        muscle=muscle if shows_muscle else 0.0,
        muscle_reach=values.uniform(0.1, 0.45),
        muscle_slope=values.uniform(0.2, 0.9),
        muscle_mirrored=values.uniform() < 0.5,
        blur=values.uniform(*known.blur_range) / 128,
        grain=values.uniform(*known.grain_range),
        slope=values.uniform(*known.slope_range),
        artefact=artefact if marked else "",
    )
