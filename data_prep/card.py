# SPDX-License-Identifier: Apache-2.0
"""The data card of a folder of crops: one private page to look at before anything is trained.

It counts what was cut and what was refused, and shows some of both: mammograms with the box of the
lesion beside the crop, and refused boxes and masks by reason. It shows patients, so it is for those
who may see them; it names none. No attribute of a DICOM file stands on it but spacing, side and
view, no id, no date, no value of a further column. It loads nothing, and equal crops give equal
bytes.
"""

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.crop_set import Outcome
from data_prep.cropping import Box, GreyRange, crop_window, grey_range, to_16_bit
from data_prep.cutting import Cutting
from data_prep.dicom import Format, Mammogram, SpacingSource
from data_prep.dicom_volumes import is_turned, open_volume, turned
from data_prep.errors import RecordRejected
from data_prep.images import read_image
from data_prep.lesions import LesionRow, LesionTable, Slab
from data_prep.manifest import Crop, Split
from data_prep.masks import Claim, claim, locate
from data_prep.page_style import stylesheet

FILE_NAME = "card.html"
PER_CLASS, PER_REASON = 8, 3  # pictures
EDGE = 240  # px, longer edge of a picture
SENTENCES = 2  # per reason
_BEYOND = 0.3  # of the image: how far beyond its edge a refused box is shown
_SAMPLED = 4 * EDGE  # px to which a mammogram is thinned out before it is reduced by area means
PRIVATE = (
    "Private: this page shows images of patients. No epsilon covers it. Keep it where the "
    "mammograms are, and pass it on to nobody who may not see them."
)
GENERATED = (
    "Private: these crops were generated, and their generator may have learned from patients. "
    "Pass the page on only where the crops may go."
)
ROLES = (
    "No real patient: phantoms in the roles of patients. Of real ones this page would be private, "
    "since it shows their images."
)
# Reasons of images that were read and whose region can be shown; nothing else is opened again,
# since it may be what hung or killed a worker.
_GEOMETRY = ("mask_mismatch", "ambiguous", "box_outside", "too_small", "mostly_padding")
_SOURCES: Mapping[SpacingSource, str] = {
    "calibrated": "Pixel Spacing, calibrated",
    "detector": "detector",
    "detector / magnification": "detector / magnification",
    "image": "Pixel Spacing, not calibrated",
    "scanner": "scanner of the film",
    "user": "table or --spacing_mm",
    "none": "unknown",
}
_LABELS = {
    "pathology": "pathology",
    "birads": "the radiologist's BI-RADS",
    "image": "of the image",
    "generator": "what the generator was asked for",
    "phantom": "the procedure",
    "classifier": "a classifier",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedLesion:
    """A row of a table of lesions and what its image told.

    Attributes:
        row: The row.
        file: Image file of the crop, if it became one.
        scanned_film: As for :func:`data_prep.images.read_image`.
        reason: Why no crop was cut; empty if one was, whatever became of it then.
        format: Of the image, if a crop was cut.
        image_mm: Millimetres per pixel of the image, if a crop was cut and they are known.
        spacing_source: Where those come from.
    """

    row: LesionRow
    file: str
    scanned_film: bool
    reason: str
    format: Format | None
    image_mm: float | None
    spacing_source: SpacingSource


def write_card(
    outcome: Outcome,
    *,
    name: str,
    table: LesionTable | None = None,
    lesions: Sequence[TriedLesion] = (),
    cutting: Cutting | None = None,
) -> None:
    """Writes the page in one move, so that it is whole or absent.

    Args:
        outcome: What the folder will hold.
        name: Of the data set.
        table: What the crops were cut by; none for crops that were imported.
        lesions: Its rows, in order.
        cutting: How they were cut.
    """
    path = outcome.folder / FILE_NAME
    part = path.with_name(FILE_NAME + ".part")
    html = render(outcome, name=name, table=table, lesions=lesions, cutting=cutting)
    part.write_text(html, encoding="utf-8", newline="\n")
    part.replace(path)


def render(
    outcome: Outcome,
    *,
    name: str,
    table: LesionTable | None = None,
    lesions: Sequence[TriedLesion] = (),
    cutting: Cutting | None = None,
) -> str:
    """The page as HTML text; arguments as of :func:`write_card`."""
    from jinja2 import Environment, StrictUndefined  # workers import this module without it
    from markupsafe import Markup

    crops = outcome.crops
    facts = None if table is None else table.facts
    joined = table is None or table.lesions_joined
    said = {
        "title": name if facts is None else facts.title,
        "notice": _notice(crops),
        "facts": facts,
        "origin": name,
        "tiles": _tiles(outcome, lesions, joined=joined),
        "about": _about(crops, cutting),
        "splits": _splits(crops, joined=joined),
        "per_patient": _per_patient(crops),
        "views": _counted(
            f"{crop.view or 'view unknown'}, {crop.laterality or 'side unknown'}" for crop in crops
        ),
        "formats": _counted(one.format for one in _images(lesions) if one.format),
        "spacings": _spacings(lesions),
        "crop_mm": _range([c.pixel_spacing_mm for c in crops if c.pixel_spacing_mm], "mm"),
        "balance": str(outcome.balance),
        "reasons": _reasons(outcome),
        "copies": _copies(outcome, joined=joined),
        "attributes": _counted(name for crop in crops for name in crop.attributes),
        "crops": len(crops),
        "notes": () if table is None else table.notes,
        "classes": [
            (word, _class_pictures(outcome, lesions, cutting, malignant=malignant))
            for word, malignant in (("Malignant", True), ("Benign", False))
        ],
        "refused": _refused_pictures(outcome, lesions, cutting),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files(__package__) / "card.html.jinja").read_text("utf-8"))
    return template.render(style=Markup(stylesheet()), **said) + "\n"


def _notice(crops: Sequence[Crop]) -> str:
    if crops and all(crop.is_synthetic for crop in crops):
        return GENERATED
    return ROLES if crops and all(c.origin == "phantom-archive" for c in crops) else PRIVATE


def _tiles(
    outcome: Outcome, lesions: Sequence[TriedLesion], *, joined: bool
) -> list[tuple[str, str, str]]:
    """Name, value and a remark on each of the numbers on top."""
    crops = outcome.crops
    malignant = sum(crop.malignant for crop in crops)
    share = f"{malignant:,} malignant ({malignant / len(crops):.0%})" if crops else ""
    rejected = sum(outcome.balance.rejected.values())
    patients = _patients(crops)
    tiles = [("Crops", f"{len(crops):,}", share)]
    if patients:
        lesion_words = "of a patient" if joined else "in each image; nothing joins two views"
        tiles.append(("Patients", f"{patients:,}", "each in one split"))
        tiles.append(("Lesions", f"{_lesions(crops, joined=joined):,}", lesion_words))
    if lesions:
        images = len({one.row.path for one in lesions if one.format})
        tiles.append(("Mammograms", f"{images:,}", "of which crops were cut"))
    tiles.append(
        ("Not used", f"{rejected:,}", f"of {outcome.balance.found:,} that were found; see below")
    )
    return tiles


def _about(crops: Sequence[Crop], cutting: Cutting | None) -> list[tuple[str, str]]:
    """What is the same for all crops."""
    sources = sorted({crop.label_source for crop in crops})
    rows = [
        ("Labels from", " and ".join(_LABELS[source] for source in sources) or "no crop"),
        ("Rule of the crops", ", ".join(sorted({crop.crop_rule for crop in crops})) or "no crop"),
    ]
    if cutting is not None:
        rows.append(
            (
                "Cut",
                f"{cutting.size} px, {cutting.margin_mm:g} mm beside the lesion, window of "
                f"{cutting.minimum_mm:g} mm or more"
                + ("" if cutting.spacing_mm is None else f", --spacing_mm {cutting.spacing_mm:g}"),
            )
        )
    return rows


def _splits(crops: Sequence[Crop], *, joined: bool) -> list[tuple[str, ...]]:
    """Split, class, crops, patients, lesions, most crops of one patient; a row for each."""
    rows = []
    for split in get_args(Split):
        for word, malignant in (("malignant", True), ("benign", False)):
            some = [c for c in crops if c.split == split and c.malignant is malignant]
            if not any(c.split == split for c in crops):
                continue
            most = max(Counter(c.patient for c in some if c.patient).values(), default=0)
            cells = (_patients(some), _lesions(some, joined=joined) if _patients(some) else 0, most)
            rows.append((split, word, f"{len(some):,}", *(f"{n:,}" if n else "0" for n in cells)))
    return rows


def _per_patient(crops: Sequence[Crop]) -> list[tuple[str, str]]:
    """Crops of a patient, and how many patients have so many."""
    counts = Counter(Counter(crop.patient for crop in crops if crop.patient).values())
    return [(f"{number:,}", f"{patients:,}") for number, patients in sorted(counts.items())]


def _images(lesions: Sequence[TriedLesion]) -> list[TriedLesion]:
    """One lesion of each image of which a crop was cut."""
    first: dict[Path, TriedLesion] = {}
    for one in lesions:
        if one.format is not None:
            first.setdefault(one.row.path, one)
    return list(first.values())


def _spacings(lesions: Sequence[TriedLesion]) -> list[tuple[str, ...]]:
    """Source, images, range in millimetres."""
    groups: dict[SpacingSource, list[float]] = {}
    for one in _images(lesions):
        groups.setdefault(one.spacing_source, []).append(one.image_mm or 0.0)
    return [
        (_SOURCES[source], f"{len(groups[source]):,}", _range([v for v in groups[source] if v], ""))
        for source in _SOURCES
        if source in groups
    ]


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return "unknown"
    low, high = (f"{value:.4g}" for value in (min(values), max(values)))
    return (low if low == high else f"{low} to {high}") + (f" {unit}" if unit else "")


def _reasons(outcome: Outcome) -> list[tuple[str, str, tuple[str, ...]]]:
    """Reason, number and the first sentences."""
    sentences: dict[str, list[str]] = {}
    for _, reason, message in outcome.rejected:
        sentences.setdefault(reason, []).append(message)
    return [
        (reason, f"{len(found):,}", tuple(found[:SENTENCES]))
        for reason, found in sorted(sentences.items())
    ]


def _copies(outcome: Outcome, *, joined: bool) -> list[tuple[str, str]]:
    reasons = outcome.balance.rejected
    labels: dict[tuple[str, str], set[bool]] = {}
    for crop in outcome.crops:
        labels.setdefault((crop.patient, crop.lesion_id), set()).add(crop.malignant)
    rows = [
        ("Copies removed", f"{reasons.get('duplicate', 0):,}"),
        ("Records removed since their labels conflict", f"{reasons.get('conflict', 0):,}"),
        ("Patients merged since they share an image", f"{outcome.merged_patients:,}"),
    ]
    if joined and _patients(outcome.crops):
        both = sum(len(found) > 1 for found in labels.values())
        rows.append(("Lesions whose images carry both labels", f"{both:,}"))
    return rows


def _patients(crops: Iterable[Crop]) -> int:
    return len({crop.patient for crop in crops if crop.patient})


def _lesions(crops: Iterable[Crop], *, joined: bool) -> int:
    return len({(c.patient, c.lesion_id, "" if joined else c.image_id) for c in crops})


def _counted(words: Iterable[str]) -> list[tuple[str, str]]:
    return [(word, f"{number:,}") for word, number in sorted(Counter(words).items())]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """One entry of the contact sheet.

    Attributes:
        caption: Our name of the row, split, side and view.
        mammogram: Address of the picture; empty if there is none.
        shape: Height and width of the mammogram, in its own pixels.
        view_box: Part that is shown, more than the image where a box lies outside.
        shown: Width and height of that part on the page.
        box: Where the lesion lies, or is said to lie.
        window: What was cut out.
        beside: Address of the crop, or of the refused mask; empty if there is none.
        beside_is: What that is.
        note: What is to be said of it.
    """

    caption: str
    mammogram: str = ""
    shape: tuple[int, int] = (0, 0)
    view_box: tuple[int, int, int, int] = (0, 0, 0, 0)
    shown: tuple[int, int] = (0, 0)
    box: Box | None = None
    window: Box | None = None
    beside: str = ""
    beside_is: str = ""
    note: str = ""


def _class_pictures(
    outcome: Outcome,
    lesions: Sequence[TriedLesion],
    cutting: Cutting | None,
    *,
    malignant: bool,
) -> list[_Picture]:
    by_file = {one.file: one for one in lesions}
    some = [crop for crop in outcome.crops if crop.malignant is malignant]
    some.sort(key=lambda crop: _order(crop.file))
    pictures = []
    for crop in some[:PER_CLASS]:
        caption = ", ".join(
            (Path(crop.file).stem, crop.split, crop.laterality or "", crop.view or "")
        )
        crop_png = _png(_read_crop(outcome.folder / crop.file))
        known: dict[str, Any] = {"beside": crop_png, "beside_is": "crop"}
        caption = caption.rstrip(", ").replace(", ,", ",")
        one = by_file.get(crop.file)
        if one is None or cutting is None:
            pictures.append(_Picture(caption=caption, **known))
        else:
            pictures.append(_cut_picture(one, cutting, caption, known))
    return pictures


def _refused_pictures(
    outcome: Outcome, lesions: Sequence[TriedLesion], cutting: Cutting | None
) -> list[tuple[str, list[_Picture]]]:
    """Reason and pictures, for reasons of images that were read."""
    if cutting is None:
        return []
    by_key = {one.row.key: one for one in lesions}
    by_key |= {Path(one.file).stem: one for one in lesions}  # crops are refused by their file
    groups: dict[str, list[TriedLesion]] = {}
    for key, reason, _ in outcome.rejected:
        one = by_key.get(key)
        if one is not None and (not one.reason or one.reason in _GEOMETRY):
            groups.setdefault(reason, []).append(one)
    pictures = []
    for reason, group in sorted(groups.items()):
        group.sort(key=lambda one: _order(one.file))
        some = [
            _cut_picture(one, cutting, one.row.key, {})
            if not one.reason
            else _refused_picture(one, cutting)
            for one in group[:PER_REASON]
        ]
        pictures.append((reason, some))
    return pictures


def _order(file: str) -> str:
    """An order that has nothing to do with the table, and is the same every time."""
    return hashlib.sha256(file.encode("utf-8", "surrogateescape")).hexdigest()


def _cut_picture(
    one: TriedLesion, cutting: Cutting, caption: str, known: Mapping[str, Any]
) -> _Picture:
    try:
        mammogram = _read(one, cutting)
        grey = grey_range(mammogram)
        box = locate(one.row.region, mammogram, grey, where=one.row.where)
        window = crop_window(
            box,
            margin_mm=cutting.margin_mm,
            minimum_mm=cutting.minimum_mm,
            mm_per_px=mammogram.spacing_mm or cutting.spacing_mm,
        )
        return _Picture(
            caption=caption,
            box=box,
            window=window,
            **_whole(mammogram, grey, [box, window]),
            **known,
        )
    except Exception as error:  # a page must not end hours of work
        return _Picture(caption=caption, note=_unread(error), **known)


def _refused_picture(one: TriedLesion, cutting: Cutting) -> _Picture:
    try:
        mammogram = _read(one, cutting)
        grey = grey_range(mammogram)
        whole = _whole(mammogram, grey, [])
    except Exception as error:
        return _Picture(caption=one.row.key, note=_unread(error))
    try:
        said = claim(one.row.region, mammogram, where=one.row.where)
    except Exception:
        said = Claim(None)
    if said.box is None:
        note = "Its box cannot be shown."
        return _Picture(caption=one.row.key, note=note, **whole)
    height, width = mammogram.shape
    note = "" if _meets(said.box, width, height) else "Its box lies outside of what is shown."
    return _Picture(
        caption=one.row.key,
        box=said.box,
        note=note,
        beside="" if said.mask is None else _png(_reduced(said.mask.astype(np.float32))),
        beside_is="" if said.mask is None else "mask",
        **_whole(mammogram, grey, [said.box]),
    )


def _unread(error: Exception) -> str:
    reason = error.reason if isinstance(error, RecordRejected) else type(error).__name__
    return f"The mammogram could not be read again ({reason})."


def _read(one: TriedLesion, cutting: Cutting) -> Mammogram:
    """The mammogram, or the slice of the box."""
    region = one.row.region
    if isinstance(region, Slab):
        with open_volume(one.row.path, where=one.row.where) as volume:
            spacing = one.row.spacing_mm or cutting.spacing_mm
            shown = volume.slice(region.slice, spacing_mm=spacing)
        turn = region.side is not None and is_turned(shown, region.side)
        return turned(shown) if turn else shown
    return read_image(
        one.row.path,
        where=one.row.where,
        scanned_film=one.scanned_film,
        spacing_mm=one.row.spacing_mm or cutting.spacing_mm,
    )


def _meets(box: Box, width: int, height: int) -> bool:
    across, down = _BEYOND * width, _BEYOND * height
    return (
        box.x1 > -across and box.x0 < width + across and box.y1 > -down and box.y0 < height + down
    )


def _whole(mammogram: Mammogram, grey: GreyRange, boxes: Sequence[Box]) -> dict[str, Any]:
    """The picture of a whole mammogram, and how much room it needs for boxes beyond its edge."""
    height, width = mammogram.shape
    step = max(1, max(height, width) // _SAMPLED)
    small = _reduced(
        to_16_bit(mammogram[::step, ::step], grey).astype(np.float32) / np.float32(65535)
    )
    across, down = round(_BEYOND * width), round(_BEYOND * height)
    x0 = max(min([0, *(b.x0 for b in boxes)]), -across)
    y0 = max(min([0, *(b.y0 for b in boxes)]), -down)
    x1 = min(max([width, *(b.x1 for b in boxes)]), width + across)
    y1 = min(max([height, *(b.y1 for b in boxes)]), height + down)
    scale = EDGE / max(x1 - x0, y1 - y0)
    return {
        "mammogram": _jpeg(small),
        "shape": (height, width),
        "view_box": (x0, y0, x1 - x0, y1 - y0),
        "shown": (round(scale * (x1 - x0)), round(scale * (y1 - y0))),
    }


def _reduced(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """At most ``EDGE`` pixels, by area means; values in ``[0, 1]`` become 8 bits."""
    scale = EDGE / max(grey.shape)
    if scale < 1:
        size = (max(1, round(scale * grey.shape[1])), max(1, round(scale * grey.shape[0])))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    return np.rint(grey * 255).clip(0, 255).astype(np.uint8)


def _read_crop(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) // 2)  # of a volume, the slice in the middle
        return _reduced(np.array(image).astype(np.float32) / np.float32(65535))


def _png(pixels: NDArray[np.uint8]) -> str:
    """A picture as an address that the page carries within itself."""
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
