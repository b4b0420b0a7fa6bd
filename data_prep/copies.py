# SPDX-License-Identifier: Apache-2.0
"""Who is on a crop, whatever it is called: copies among crops, by pixels and by fingerprints."""

from collections.abc import Sequence
from dataclasses import replace

from data_prep.fingerprints import fingerprint, near_copies
from data_prep.manifest import Crop, CropsManifest


def copied(crops: Sequence[Crop]) -> list[tuple[int, int]]:
    """Pairs of crops that are copies: of equal pixels, or near as far as fingerprints are known.

    Returns:
        Positions, the lower one first, sorted.
    """
    by_hash: dict[str, list[int]] = {}
    for i, crop in enumerate(crops):
        by_hash.setdefault(crop.sha256, []).append(i)
    found = {(a, b) for same in by_hash.values() for a in same for b in same}
    known = [i for i, crop in enumerate(crops) if crop.fingerprint]
    prints = [crops[i].fingerprint for i in known]
    found |= {(known[a], known[b]) for a, b in near_copies(prints, prints)}
    return sorted((a, b) for a, b in found if a < b)


def copied_across(manifest: CropsManifest, units: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of rows that hold the same crop in different units.

    Whoever is in two units is drawn and clipped twice. Copies among synthetic crops do not matter,
    since nobody is on them. Fingerprints that the table lacks are taken from the images.

    Args:
        manifest: Table of crops.
        units: Rows of each unit, as :meth:`CropsManifest.units` gives them.

    Raises:
        ManifestError: If an image is needed and cannot be read.
    """
    rows = [row for group in units for row in group]
    unit = [number for number, group in enumerate(units) for _ in group]
    crops = [manifest.crops[row] for row in rows]
    crops = [
        crop if crop.fingerprint else replace(crop, fingerprint=fingerprint(manifest.pixels(row)))
        for crop, row in zip(crops, rows, strict=True)
    ]
    return [
        (rows[a], rows[b])
        for a, b in copied(crops)
        if unit[a] != unit[b] and not (crops[a].is_synthetic and crops[b].is_synthetic)
    ]


def shared_rows(
    manifest: CropsManifest, rows: Sequence[int], other: CropsManifest, others: Sequence[int]
) -> list[int]:
    """Rows whose patient or crop is also among crops of another manifest.

    Args:
        manifest: Table of crops.
        rows: Rows of it.
        other: Another table.
        others: Rows of that.

    Returns:
        Those of ``rows`` with a patient of the other crops, by identity, or with one of these
        crops, exactly or nearly as far as fingerprints are known.
    """
    theirs = [other.crops[row] for row in others]
    names = {name for crop in theirs for name in (crop.sha256, crop.patient) if name}
    known = [row for row in rows if manifest.crops[row].fingerprint]
    near = near_copies(
        [manifest.crops[row].fingerprint for row in known],
        [crop.fingerprint for crop in theirs if crop.fingerprint],
    )
    found = {known[position] for position in near[:, 0]}
    for row in rows:
        crop = manifest.crops[row]
        if not names.isdisjoint((crop.sha256, crop.patient)):
            found.add(row)
    return sorted(found)
