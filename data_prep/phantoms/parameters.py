# SPDX-License-Identifier: Apache-2.0
"""Parameters of a population of phantoms: every number that can be set, with its source.

The dataclasses have no slots, because jsonargparse reads their defaults with ``vars``.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Pair = tuple[float, float]


class PhantomError(ValueError):
    """A parameter has a value with which phantoms cannot be drawn."""

    def __init__(self, name: str, value: object, remedy: str) -> None:
        super().__init__(f"phantoms, {name}: {value}. {remedy}")


@dataclass(frozen=True, kw_only=True)
class ShapeShares:
    """Shares of each BI-RADS shape among benign and among malignant masses.

    An irregular mass is malignant in 73 % of biopsies, where 46 % of all were (Liberman 1998, AJR
    171:35, abstract): 3.2 times as frequent among malignant ones. The other shares are our choice.
    """

    round: Pair = (0.20, 0.09)
    oval: Pair = (0.44, 0.14)
    lobulated: Pair = (0.17, 0.17)
    irregular: Pair = (0.19, 0.60)


@dataclass(frozen=True, kw_only=True)
class MarginShares:
    """Shares of each BI-RADS margin among benign and among malignant masses.

    A spiculated mass is malignant in 81 % of biopsies (as above): 5 times as frequent among
    malignant ones. The other shares are our choice.
    """

    circumscribed: Pair = (0.48, 0.05)
    obscured: Pair = (0.23, 0.10)
    ill_defined: Pair = (0.16, 0.36)
    microlobulated: Pair = (0.05, 0.09)
    spiculated: Pair = (0.08, 0.40)


@dataclass(frozen=True, kw_only=True)
class PhantomParameters:
    """A population of phantom crops.

    Pairs that end in ``_range`` are uniform between two numbers. Pairs that end in ``_probability``
    are (benign, malignant). Only shapes, margins and calcifications depend on the class. Lengths
    are relative to the edge of the crop, attenuation and noise to the range of the film. Numbers
    without a source were chosen by eye.

    Attributes:
        shapes: Shares of each shape, by class.
        margins: Shares of each margin, by class.
        densities: Shares of the BI-RADS densities 1 to 4.
        subtleties: Shares of the subtleties 1 (barely visible) to 5 (obvious).
        beta_range: Exponent of the tissue's power spectrum. Mammograms have 1.5 to 3.5, on average
            2.8 (Burgess and Judy 2003, SPIE 5034, abstract); the glandular lobes add to it.
        contrast_range: Standard deviation of the tissue.
        level_mean: Mean attenuation of the tissue.
        level_sd: Its standard deviation between crops.
        slant_range: Difference of attenuation across a crop, because the breast gets thicker.
        lumpy_probability: Probability that glands are clustered lumps (Bochud 1999, Opt. Express
            4:33) instead of power-law lobes.
        strands_range: Ducts and ligaments that start in a crop.
        vessels_range: Vessels that start in a crop.
        muscle_probability: Probability that an oblique view shows the pectoral muscle.
        skin_probability: Probability that the crop shows the skin line and air.
        mass_contrast_range: Attenuation of a mass of subtlety 1 and of subtlety 5.
        size_range: Longer edge of the mass.
        offset: Standard deviation of the mass centre, in each direction.
        calcification_probability: Probability of calcifications, by class.
        artefact_probability: Probability of dust or a skin marker on the film.
        slope_range: Slope of the film's characteristic curve at its middle.
        grain_range: Standard deviation of quantum noise and film grain.
        blur_range: Standard deviation of the point spread, in 1/128.
    """

    shapes: ShapeShares = field(default_factory=ShapeShares)
    margins: MarginShares = field(default_factory=MarginShares)
    densities: tuple[float, float, float, float] = (0.15, 0.40, 0.32, 0.13)
    subtleties: tuple[float, float, float, float, float] = (0.05, 0.12, 0.23, 0.30, 0.30)
    beta_range: Pair = (2.5, 3.4)
    contrast_range: Pair = (0.02, 0.09)
    level_mean: float = 0.50
    level_sd: float = 0.12
    slant_range: Pair = (0.0, 0.2)
    lumpy_probability: float = 0.3
    strands_range: Pair = (6.0, 30.0)
    vessels_range: Pair = (0.0, 2.5)
    muscle_probability: float = 0.15
    skin_probability: float = 0.13
    mass_contrast_range: Pair = (0.06, 0.28)
    size_range: Pair = (0.34, 0.78)
    offset: float = 0.06
    calcification_probability: Pair = (0.05, 0.10)
    artefact_probability: float = 0.04
    slope_range: Pair = (0.8, 1.2)
    grain_range: Pair = (0.002, 0.008)
    blur_range: Pair = (0.5, 0.9)

    def __post_init__(self) -> None:
        """Checks that shares add up to 1 and that numbers lie in their ranges.

        Raises:
            PhantomError: Names the field.
        """
        for name, shares in self._tables():
            if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
                raise PhantomError(name, shares, "Give shares of at least 0 with the sum 1.")
        for name in (item.name for item in dataclasses.fields(self)):
            value = getattr(self, name)
            if name.endswith("_range"):
                # A mass needs some contrast and some size.
                least = 1e-3 if name in ("mass_contrast_range", "size_range") else 0
                if not least <= value[0] <= value[1] < math.inf:
                    raise PhantomError(
                        name, value, f"Give two numbers of at least {least}, the smaller one first."
                    )
            elif name.endswith("_probability"):
                values = value if isinstance(value, tuple) else (value,)
                if not all(0 <= probability <= 1 for probability in values):
                    raise PhantomError(name, value, "Give probabilities from 0 to 1.")
            elif name in ("level_sd", "offset") and not 0 <= value <= 0.25:
                raise PhantomError(name, value, "Give a number from 0 to 0.25.")

    def _tables(self) -> list[tuple[str, tuple[float, ...]]]:
        """Names and values of all shares."""
        tables: list[tuple[str, tuple[float, ...]]] = [
            ("densities", self.densities),
            ("subtleties", self.subtleties),
        ]
        for name in ("shapes", "margins"):
            pairs = dataclasses.astuple(getattr(self, name))
            tables.append((f"{name}, benign", tuple(pair[0] for pair in pairs)))
            tables.append((f"{name}, malignant", tuple(pair[1] for pair in pairs)))
        return tables


@functools.cache
def class_shares(table: ShapeShares | MarginShares, *, malignant: bool) -> Mapping[str, float]:
    """Shares in one class, by the descriptors of the CBIS-DDSM tables."""
    names = [item.name for item in dataclasses.fields(table)]
    return MappingProxyType({name.upper(): getattr(table, name)[malignant] for name in names})
