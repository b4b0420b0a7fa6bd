# SPDX-License-Identifier: Apache-2.0
"""Conditions of a generator: malignancy and, where known, BI-RADS descriptors, view and size.

A condition is a row with one column per level of an attribute, 1 for the level that it has. A
number has two columns, for the ends of its range, and lies between them: its columns add up to 1.
An attribute that is not known, or not asked for, leaves its columns at zero. Levels and ranges are
public: nothing is counted from crops.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from data_prep.manifest import Crop

MALIGNANCY = ("benign", "malignant")
OTHER = "OTHER"
# BI-RADS words as CBIS-DDSM spells them, from less to more suspicious.
LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "density": ("1", "2", "3", "4"),
        "shape": (OTHER, "ROUND", "OVAL", "LOBULATED", "IRREGULAR"),
        "margin": (
            OTHER,
            "CIRCUMSCRIBED",
            "OBSCURED",
            "MICROLOBULATED",
            "ILL_DEFINED",
            "SPICULATED",
        ),
        "view": ("CC", "MLO", "other"),
    }
)
# Least and largest value; what is known to lie outside counts as the nearer end.
NUMBERS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"size_share": (0.3, 0.8)}  # longer edge of the mass, in edges of the crop
)


class ConditionError(ValueError):
    """A condition cannot be trained or asked for; the message names what can."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The columns of a condition.

    Attributes:
        names: Attributes beside malignancy, among ``LEVELS`` and ``NUMBERS``, in the order of
            their columns.
    """

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses unknown and repeated names.

        Raises:
            ConditionError: Naming them.
        """
        known = {**LEVELS, **NUMBERS}
        if unknown := [name for name in self.names if name not in known]:
            raise ConditionError(f"conditions {unknown} are unknown. Allowed: {', '.join(known)}.")
        if len(set(self.names)) < len(self.names):
            raise ConditionError(f"conditions {list(self.names)}: one stands twice. Remove it.")

    @property
    def width(self) -> int:
        """Columns of a condition, >= 2.

        >>> Conditions(("view",)).width
        5
        """
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of malignancy, and of each attribute.

        >>> Conditions(("view", "size_share")).sizes
        (2, 3, 2)
        """
        return (len(MALIGNANCY), *(len(LEVELS.get(name, "ab")) for name in self.names))

    def vector(self, *, malignant: bool, attributes: Mapping[str, str]) -> Tensor:
        """The condition of a crop that is asked for.

        Args:
            malignant: Class.
            attributes: Level, or number, by attribute; what is left out is unknown.

        Returns:
            Shape ``(width,)``, float32.

        Raises:
            ConditionError: For an attribute or level that is not among the columns, or a number
                outside its range.

        >>> Conditions(("view",)).vector(malignant=True, attributes={"view": "CC"})
        tensor([0., 1., 1., 0., 0.])
        >>> Conditions(("size_share",)).vector(malignant=True, attributes={"size_share": "0.4"})
        tensor([0.0000, 1.0000, 0.8000, 0.2000])
        """
        if unknown := sorted(set(attributes) - set(self.names)):
            able = ", ".join(self.names) or "malignancy only"
            raise ConditionError(
                f"{unknown} cannot be asked for: the generator was trained with {able}."
            )
        row = [float(not malignant), float(malignant)]
        for name in self.names:
            value = attributes.get(name)
            if name in NUMBERS:
                row += _between_ends(name, value)
                continue
            if value is not None and value not in LEVELS[name]:
                raise ConditionError(
                    f"{name}={value!r} is unknown. Allowed: {', '.join(LEVELS[name])}."
                )
            row += [float(value == level) for level in LEVELS[name]]
        return torch.tensor(row)

    def of_classes(self, malignant: Tensor) -> Tensor:
        """Conditions that ask for nothing but malignancy.

        Args:
            malignant: Shape ``(B,)``, 1 or 0.

        Returns:
            Shape ``(B, width)``, float32.

        >>> Conditions().of_classes(torch.tensor([1, 0]))
        tensor([[0., 1.],
                [1., 0.]])
        """
        return one_hot(malignant.long(), self.width).float()

    def of_crops(self, crops: Sequence[Crop]) -> Tensor:
        """Conditions of the crops of a manifest.

        Returns:
            Shape ``(len(crops), width)``, float32.

        Raises:
            ConditionError: If an attribute is known of no crop at all.
        """
        for name in self.names:
            if not any(level_of(crop, name) for crop in crops):
                raise ConditionError(
                    f"conditions: {name!r} is known of none of the {len(crops)} crops. Remove it "
                    "from model.init_args.conditions, or prepare crops from an archive that has it."
                )
        return self.known_of(crops)

    def known_of(self, crops: Sequence[Crop]) -> Tensor:
        """As :meth:`of_crops`; an attribute may be unknown of all crops."""
        rows = [
            self.vector(
                malignant=crop.malignant,
                attributes={
                    name: level
                    for name in self.names
                    if (level := level_of(crop, name)) is not None
                },
            )
            for crop in crops
        ]
        return torch.stack(rows)

    def forgetful(self, condition: Tensor, rate: float, rng: torch.Generator) -> Tensor:
        """Forgets attributes at random, so that a generator can do without them.

        Args:
            condition: Shape ``(B, width)``.
            rate: Probability that one attribute of a row is forgotten; all of a row at once are
                forgotten with the same probability.
            rng: On the device of the condition.

        Returns:
            Shape ``(B, width)``; malignancy stays.
        """
        if not self.names:
            return condition
        draws = torch.rand(
            len(condition), 1 + len(self.names), generator=rng, device=condition.device
        )
        kept = (draws[:, 1:] >= rate) & (draws[:, :1] >= rate)
        sizes = torch.tensor(self.sizes[1:], device=condition.device)
        columns = kept.repeat_interleave(sizes, dim=1)
        return torch.cat([condition[:, :2], condition[:, 2:] * columns], dim=1)


def _between_ends(name: str, value: str | None) -> list[float]:
    """Columns of a number: shares of the ends of its range; zeros if it is unknown.

    Raises:
        ConditionError: If it is none, or outside the range.
    """
    if value is None:
        return [0.0, 0.0]
    (low, high), number = NUMBERS[name], _number(value)
    if number is None or not low <= number <= high:
        raise ConditionError(f"{name}={value!r}. Give a number from {low} to {high}.")
    share = (number - low) / (high - low)
    return [1 - share, share]


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def level_of(crop: Crop, name: str) -> str | None:
    """Level of an attribute, rare words merged; of a number, the nearest within its range.

    Of several words the most suspicious counts, since it decides what is done; small letters count
    as capitals. Words without a level of their own, such as ``ASYMMETRIC_BREAST_TISSUE``, become
    ``OTHER``.

    Args:
        crop: Row of a manifest.
        name: Among ``LEVELS`` and ``NUMBERS``.

    Returns:
        A level or number, or none if unknown.
    """
    if name == "view":
        return crop.view
    if name in NUMBERS:
        number = _number(crop.attributes.get(name, ""))
        return None if number is None else str(min(max(number, NUMBERS[name][0]), NUMBERS[name][1]))
    value = crop.attributes.get(name, "").upper()
    if value in ("", "N/A", "NA", "0"):
        return None
    if value in LEVELS[name]:
        return value
    found = [LEVELS[name].index(word) for word in re.split("[-, ]", value) if word in LEVELS[name]]
    if found:
        return LEVELS[name][max(found)]
    return OTHER if OTHER in LEVELS[name] else None


def other_class(condition: Tensor) -> Tensor:
    """The same attributes under the other malignancy, shape ``(B, width)``.

    >>> other_class(torch.tensor([[1.0, 0.0, 1.0]]))
    tensor([[0., 1., 1.]])
    """
    return torch.cat([condition[:, :2].flip(1), condition[:, 2:]], dim=1)
