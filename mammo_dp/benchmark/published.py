# SPDX-License-Identifier: Apache-2.0
"""Published numbers that are shown beside ours, with what they can and cannot be compared in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from mammo_dp.benchmark.errors import BenchmarkError


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One series of somebody else.

    Attributes:
        source: Authors, year, identifier.
        url: Where it can be read.
        data: What it was measured on.
        unit: What its epsilon protects.
        guarantee: Which stages its epsilon covers.
        regime: What was done.
        auroc: AUROC by epsilon.
    """

    source: str
    url: str
    data: str
    unit: str
    guarantee: str
    regime: str
    auroc: Mapping[float, float]

    def __post_init__(self) -> None:
        """Refuses numbers that no axis could hold.

        Raises:
            ValueError: Naming them.
        """
        pairs = self.auroc.items() if isinstance(self.auroc, Mapping) else ()
        if not pairs or not all(_is_number(e) and e > 0 and _is_number(a) for e, a in pairs):
            raise ValueError(f"auroc {self.auroc!r} is no AUROC by epsilon above 0")


def read_published(path: Path | None) -> list[Published]:
    """Reads a file of published numbers; none for no file.

    Raises:
        BenchmarkError: If it is missing or malformed.
    """
    if path is None:
        return []
    try:
        return [Published(**entry) for entry in yaml.safe_load(path.read_text())]
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        fields = ", ".join(Published.__dataclass_fields__)
        raise BenchmarkError(
            f"{path}: holds no published numbers ({error}). Give a list of entries with {fields}."
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
