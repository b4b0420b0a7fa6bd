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


def read_published(path: Path | None) -> list[Published]:
    """Reads a file of published numbers; none for no file.

    Raises:
        BenchmarkError: If it is missing or malformed.
    """
    if path is None:
        return []
    try:
        return [Published(**entry) for entry in yaml.safe_load(path.read_text())]
    except (OSError, TypeError, yaml.YAMLError) as error:
        fields = ", ".join(Published.__dataclass_fields__)
        raise BenchmarkError(
            f"{path}: holds no published numbers ({error}). Give a list of entries with {fields}."
        ) from error
