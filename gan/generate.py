# SPDX-License-Identifier: Apache-2.0
"""``generate``: a trained generator fills a folder with labelled crops.

``generate.json`` in the folder says what it is made with; it is written first and stays.
``drawn.csv`` gets a line of number, pixel hash and fingerprint once an image is whole, with an
authentication code where a statement will follow (:mod:`data_prep.authentication`); it goes when
the manifest, which holds the same, is written.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.authentication import Authenticate, authenticator
from data_prep.crop_image import is_whole, save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import Crop, CropsManifest, LabelSource, View
from data_prep.phantoms.crops import phantom_cases
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.progress import watched
from gan.checkpoint import TrainedGenerator
from gan.conditions import Conditions

SETTINGS, TABLE = "generate.json", "drawn.csv"
MOST_VARIED = 2.0  # lengths beyond are far from those that a generator learned from
_LINE = re.compile(r"(\d+),([0-9a-f]{64}),((?:[0-9a-f]{64})?),((?:[0-9a-f]{64})?)")


class GenerationError(ValueError):
    """Crops cannot be generated as asked; the message names argument or folder, and the remedy."""


@dataclass(slots=True)
class DrawnCrops:
    """The crops of a folder that are whole.

    Attributes:
        folder: Of the manifest.
        settings: What the crops depend on, plain values.
        depth: Slices of each, if they are volumes.
        authenticate: Gives the code of a line; none if lines have none.
        marks: Pixel hash and fingerprint by number of the crop.
    """

    folder: Path
    settings: Mapping[str, Any]
    depth: int | None = None
    authenticate: Authenticate | None = None
    marks: dict[int, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path, settings: Mapping[str, Any], depth: int | None = None
    ) -> "DrawnCrops":
        """Starts a folder, or finds what an earlier, interrupted call left in it.

        Each listed crop is read and compared with its hash: an image that was cut off, altered or
        removed is not among the result, nor is a line that was not written for these settings,
        where lines have codes.

        Args:
            folder: New or empty, or begun with the same settings.
            settings: What the crops depend on, plain values.
            depth: Slices of each, if they are volumes.

        Raises:
            GenerationError: If the folder was made with other settings or by something else.
        """
        path = folder / SETTINGS
        if not path.exists():
            if (folder / CROPS).exists() or next(folder.glob("images/*"), None) is not None:
                raise GenerationError(
                    f"{folder}: holds crops, but no {SETTINGS}. Choose another folder; nothing is "
                    "overwritten."
                )
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".json.part")
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
        _require_same(folder, _stored(path), json.loads(json.dumps(settings)))
        drawn = cls(folder, settings, depth, authenticator())
        drawn.marks.update(
            (number, marks)
            for number, marks in drawn._listed()
            if is_whole(folder / file_of(number, depth), marks[0], depth=depth)
        )
        lines = "".join(map(drawn._line, drawn.marks))
        (folder / TABLE).write_text(lines, encoding="utf-8")  # without the line that a kill cut off
        return drawn

    @property
    def is_done(self) -> bool:
        """Whether the manifest is there and may be relied on."""
        return self.authenticate is None and (self.folder / CROPS).exists()

    def add(self, start: int, crops: NDArray[np.uint16]) -> None:
        """Writes consecutive crops, but for those that are whole already.

        Args:
            start: Number of the first.
            crops: Shape ``(B, size, size)``, or ``(B, depth, size, size)`` of volumes, values in
                ``[0, 65535]``.
        """
        with (self.folder / TABLE).open("a", encoding="utf-8") as table:
            for number, pixels in enumerate(crops, start):
                if number in self.marks:
                    continue
                sha256 = save_crop_image(self.folder / file_of(number, self.depth), pixels)
                self.marks[number] = (sha256, fingerprint(pixels))
                table.write(self._line(number))
                table.flush()

    def close(self) -> None:
        """Removes the table; to be called when the manifest is there."""
        (self.folder / TABLE).unlink()

    def _line(self, number: int) -> str:
        marks = self.marks[number]
        return ",".join([str(number), *marks, self._code(number, marks)]) + "\n"

    def _code(self, number: int, marks: tuple[str, str]) -> str:
        """The authentication code of a line; empty if lines have none."""
        if self.authenticate is None:
            return ""
        values = {"settings": dict(self.settings), "crop": number, "marks": list(marks)}
        return self.authenticate(values)

    def _listed(self) -> Iterator[tuple[int, tuple[str, str]]]:
        path = self.folder / TABLE
        # a line that a power cut damaged costs its crop, not the others
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            if match := _LINE.fullmatch(line):
                number, marks = int(match[1]), (match[2], match[3])
                if self.authenticate is None or match[4] == self._code(number, marks):
                    yield number, marks


def file_of(number: int, depth: int | None = None) -> str:
    """Path of a crop, or of a volume, below the manifest's folder; odd numbers are malignant.

    >>> file_of(3), file_of(4, depth=16)
    ('images/000003_malignant.png', 'images/000004_benign.tif')
    """
    suffix = "png" if depth is None else "tif"
    return f"images/{number:06d}_{'malignant' if number % 2 else 'benign'}.{suffix}"


def _stored(path: Path) -> Mapping[str, Any]:
    """Settings of a folder.

    Raises:
        GenerationError: If the file was cut off or altered.
    """
    try:
        stored: Mapping[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise GenerationError(
            f"{path}: does not say what the crops beside it were made with ({error}). Restore it, "
            "or choose another folder."
        ) from error
    return stored


def _require_same(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to mix crops of two requests.

    Raises:
        GenerationError: Naming each setting that differs.
    """
    differ = [name for name in {**made, **asked} if made.get(name) != asked.get(name)]
    if differ:
        shown = "; ".join(f"{name}: {made.get(name)!r}, now {asked.get(name)!r}" for name in differ)
        raise GenerationError(
            f"{folder}: holds crops made with other settings ({shown}). Choose another folder; "
            "nothing is overwritten."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a generator.

    Attributes:
        per_class: Crops of each class, ``>= 1``.
        attributes: Level by attribute, for all crops.
        guidance: Distance of the classes from their middle, ``>= 0``: 1 is as trained, more
            exaggerates, 0 is neither class.
        truncation: Factor on the latent vectors, in ``(0, 2]``.
        seed: Of latent vectors, noise and drawn attributes, ``>= 0``.
        draw_attributes: Whether other attributes are drawn for each crop.
        darkest: Mean grey in ``[0, 1)``; a darker crop is drawn again.
    """

    per_class: int
    attributes: Mapping[str, str]
    draw_attributes: bool = False
    guidance: float
    truncation: float
    seed: int
    darkest: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            GenerationError: Naming the argument.
        """
        if self.per_class < 1 or self.seed < 0:
            raise GenerationError(
                f"per_class={self.per_class}, seed={self.seed}. Give 1 or more; a seed from 0."
            )
        if not 0 < self.truncation <= MOST_VARIED:
            raise GenerationError(
                f"truncation={self.truncation}. Give a number above 0, at most {MOST_VARIED:g}."
            )
        if not 0 <= self.darkest < 1:
            raise GenerationError(f"darkest={self.darkest}. Give a number from 0 to below 1.")

    def attributes_of(self, number: int, names: Sequence[str]) -> dict[str, str]:
        """Level by attribute of one crop.

        Drawn are those of the phantom with this number and seed, by the shares and ranges of
        :mod:`data_prep.phantoms.parameters`: nothing is counted from patients.

        Args:
            number: Of the crop; odd ones are malignant.
            names: What the generator was trained with.
        """
        if not self.draw_attributes:
            return dict(self.attributes)
        parameters = PhantomParameters()
        (case,) = phantom_cases(number, number + 1, seed=self.seed, parameters=parameters)
        drawn = {**case.stated, "view": case.view}
        return {name: drawn[name] for name in names} | dict(self.attributes)


def generate(
    checkpoint: str,
    out: str,
    *,
    per_class: int = 1000,
    attributes: dict[str, str] | None = None,
    draw_attributes: bool = False,
    guidance: float = 1.0,
    truncation: float = 1.0,
    darkest: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Generates labelled crops, or volumes, as many benign as malignant ones, and their manifest.

    Crops go to disk batch by batch. Crop n depends on checkpoint, seed and request, not on the
    batch it is made in (up to rounding). When a killed run is repeated, crops that are whole stay
    as they are and the others are drawn; the manifest comes last.

    Args:
        checkpoint: Checkpoint of a trained MCGAN, DPMCGAN, LatentDiffusion or DPLatentDiffusion.
        out: Folder to fill with crops.csv, generate.json and images/.
        per_class: Crops of each class, 1 or more.
        attributes: What all crops should show, such as --attributes.margin SPICULATED; only what
            the generator was trained with (density, shape, margin, view, size_share).
        draw_attributes: Whether the other attributes that it was trained with are drawn for each
            crop, with the shares and ranges of phantoms, which are published and no patient's.
        guidance: 1 asks for the classes as trained, more exaggerates what tells them apart, 0 asks
            for neither.
        truncation: Factor on the latent vectors, above 0, at most 2: below 1 crops are more
            typical and less diverse, above 1 more diverse, and more of them have gone wrong.
        darkest: Mean grey, from 0 to below 1, of which a darker crop is drawn again, such as 0.1
            where some come out nearly black; 0 keeps all.
        seed: Equal seeds give equal crops; 0 or more.
        batch_size: Crops generated at once, 1 or more; a matter of speed and memory.

    Raises:
        GenerationError: For an argument out of range, or a folder made with other settings.
        CheckpointError: If the checkpoint holds no generator of this version.
        ConditionError: If the generator knows no such attribute or level.
    """
    request = Request(
        per_class=per_class,
        attributes=attributes or {},
        draw_attributes=draw_attributes,
        guidance=guidance,
        truncation=truncation,
        darkest=darkest,
        seed=seed,
    )
    if batch_size < 1:
        raise GenerationError(f"{batch_size=}. Give 1 or more.")
    generator = TrainedGenerator.read(checkpoint, volumes=True)
    if draw_attributes and not generator.conditions.names:
        raise GenerationError(
            f"draw_attributes: {checkpoint} was trained with malignancy only. Leave the flag out, "
            "or give a generator with model.init_args.conditions."
        )
    both_classes(generator.conditions, attributes=request.attributes, guidance=guidance)  # refuses
    settings = {"checkpoint": generator.sha256, **asdict(request)}
    drawn = DrawnCrops.open(Path(out), settings, generator.depth)
    if not drawn.is_done:
        _draw(generator, request, drawn, batch_size)
        CropsManifest.write(out, rows_of(generator, request, drawn))
    drawn.close()


def both_classes(
    conditions: Conditions, *, attributes: Mapping[str, str], guidance: float
) -> Tensor:
    """Conditions of a benign and of a malignant crop.

    Args:
        conditions: Those that the generator was trained with.
        attributes: Level by attribute, for both.
        guidance: ``g >= 0``; malignancy becomes ``1/2 +- g/2``: 1 is as trained, more exaggerates,
            0 is neither class.

    Returns:
        Shape ``(2, columns)``.

    Raises:
        ConditionError: If the generator knows no such attribute or level.
        GenerationError: If guidance is negative, infinite or no number.

    >>> both_classes(Conditions(), attributes={}, guidance=2.0)
    tensor([[ 1.5000, -0.5000],
            [-0.5000,  1.5000]])
    """
    if not 0 <= guidance < math.inf:
        raise GenerationError(f"{guidance=}. Give 0 or more; 1 is as trained.")
    rows = torch.stack(
        [conditions.vector(malignant=label, attributes=attributes) for label in (False, True)]
    )
    return torch.cat([0.5 + guidance * (rows[:, :2] - 0.5), rows[:, 2:]], dim=1)


def _draw(
    generator: TrainedGenerator,
    request: Request,
    drawn: DrawnCrops,
    batch_size: int,
) -> None:
    """Makes and writes what is missing; a batch is made whole, so that rounding is as before."""
    total = 2 * request.per_class
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:  # compresses images while the next ones are made
        for start in watched(range(0, total, batch_size), "Generating crops"):
            numbers = range(start, min(start + batch_size, total))
            if drawn.marks.keys() >= set(numbers):
                continue
            crops = generator.crops(
                torch.stack([condition_of(generator.conditions, request, n) for n in numbers]),
                start=start,
                seed=request.seed,
                truncation=request.truncation,
                darkest=request.darkest,
            )
            if writing:
                writing.result()  # one batch waits at most, and a full disk stops here
            writing = writer.submit(drawn.add, start, crops)
        if writing:
            writing.result()


def condition_of(conditions: Conditions, request: Request, number: int) -> Tensor:
    """Condition of the crop with a number, shape ``(columns,)``."""
    attributes = request.attributes_of(number, conditions.names)
    return both_classes(conditions, attributes=attributes, guidance=request.guidance)[number % 2]


def rows_of(
    generator: TrainedGenerator,
    request: Request,
    drawn: DrawnCrops,
    *,
    label_source: LabelSource = "generator",
) -> Iterator[Crop]:
    """Rows of the manifest of crops that are all drawn.

    Args:
        generator: What drew them.
        request: What was asked of it.
        drawn: The crops.
        label_source: Where their classes come from.
    """
    for number in range(2 * request.per_class):
        sha256, fingerprint = drawn.marks[number]
        asked = request.attributes_of(number, generator.conditions.names)
        view = cast(View | None, asked.pop("view", None))
        yield Crop(
            file=file_of(number, generator.depth),
            depth=generator.depth,
            patient_id="",
            lesion_id="1",
            image_id=str(number),
            malignant=bool(number % 2),
            split="train",
            origin=f"gan:{generator.sha256}",
            label_source=label_source,
            crop_rule=generator.crop_rule,
            sha256=sha256,
            fingerprint=fingerprint,
            view=view,
            attributes=asked,
        )
