# SPDX-License-Identifier: Apache-2.0
"""What the columns and the words of a user's table of lesions are called: flags of commands.

The dataclasses have no slots, because jsonargparse reads their defaults with ``vars``.
"""

from dataclasses import dataclass

from data_prep.errors import LabelError

BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table are called; ``null`` leaves one out that is there.

    Attributes:
        file: Image, as path below the folder of images.
        patient: Patient, as the data set writes it.
        malignant: Label.
        x0: Left edge of the box, in pixels of the image as it is stored.
        y0: Upper edge.
        x1: Right edge, not part of the box.
        y1: Lower edge, not part of the box.
        mask: Picture that is nonzero inside the lesion, as path below the folder of masks.
        outline: Polygon around the lesion: x y x y ... in pixels, three points at least.
        lesion: Lesion within the patient, or within the image where patients have none.
        image: Id of the image in crops.csv; the row that names the file first, without it.
        view: CC, MLO, or another.
        laterality: L or R.
        split: train, val or test.
        density: BI-RADS density.
        shape: Shape of the mass.
        margin: Margin of the mass.
        subtlety: How hard the lesion is to see.
        spacing_mm: Millimetres per pixel of images that do not say so themselves.
    """

    file: str = "file"
    patient: str = "patient"
    malignant: str = "malignant"
    x0: str | None = "x0"
    y0: str | None = "y0"
    x1: str | None = "x1"
    y1: str | None = "y1"
    mask: str | None = "mask"
    outline: str | None = "outline"
    lesion: str | None = "lesion"
    image: str | None = "image"
    view: str | None = "view"
    laterality: str | None = "laterality"
    split: str | None = "split"
    density: str | None = "density"
    shape: str | None = "shape"
    margin: str | None = "margin"
    subtlety: str | None = "subtlety"
    spacing_mm: str | None = "spacing_mm"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which words of the label's column mean what; several are separated by commas.

    Attributes:
        malignant: Words for malignant.
        benign: Words for benign.
        unknown: Words whose rows are left out.
    """

    malignant: str = "1"
    benign: str = "0"
    unknown: str = ""

    def meanings(self) -> dict[str, bool | None]:
        """Malignant, benign or none, by word.

        Raises:
            LabelError: If a word has two meanings, or a class has none.
        """
        found: dict[str, bool | None] = {}
        for text, meaning in ((self.malignant, True), (self.benign, False), (self.unknown, None)):
            words = [word.strip() for word in text.split(",") if word.strip()]
            if not words and meaning is not None:
                flag = "malignant" if meaning else "benign"
                raise LabelError(f"--labels.{flag} is empty. Give the words of the table.")
            for word in words:
                if found.setdefault(word, meaning) is not meaning:
                    raise LabelError(f"--labels: {word!r} stands for two classes. Give it to one.")
        return found


OWN_NAMES = Columns()
ONE_AND_ZERO = Labels()
