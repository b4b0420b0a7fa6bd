# SPDX-License-Identifier: Apache-2.0
"""``predict``: a released classifier scores crops, or lesions in mammograms."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from data_prep.crop_set import REJECTED_FILE
from data_prep.cutting import Cutting
from data_prep.lesion_table import read_lesion_table
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from data_prep.table_columns import OWN_NAMES, Columns
from mammo_dp.export import PredictError
from mammo_dp.export.candidates import PlainCrops, PreparedCrops, TableOfLesions
from mammo_dp.export.scores import Refusal, rejected, score, table
from mammo_dp.export.shared_classifier import SharedClassifier
from mammo_dp.privacy.statement.document import read_statement
from mammo_dp.runs import (
    files_sha256,
    input_sha256,
    run_folder,
    write_text_atomically,
)

FILE_NAME = "predictions.csv"
Candidates = PreparedCrops | PlainCrops | TableOfLesions
_SHOWN = 3  # refusals in a message


def predict(
    *,
    run: str,
    out: str,
    crops: str | None = None,
    images: str | None = None,
    table: str | None = None,
    columns: Columns = OWN_NAMES,
    masks: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    spacing_mm: float | None = None,
    margin_mm: float | None = None,
    minimum_mm: float | None = None,
) -> None:
    """Scores crops, or lesions in mammograms, with a released classifier.

    Writes predictions.csv: file, box, probability of malignancy, calibrated probability where the
    run was calibrated, logit, and the hashes of the privacy statement and of the checkpoint. What
    cannot be scored stands in rejected.csv with its reason. Mammograms are cut as those that the
    run was trained on.

    Args:
        run: Run folder of a fit, or folder of `export classifier --format huggingface`.
        out: Folder to write; nothing is overwritten.
        crops: Folder of crops: prepared (crops.csv), or square grey PNG files.
        images: Mammogram (DICOM, PNG, JPEG or TIFF), or folder of them; needs --table.
        table: CSV or XLSX as for `prepare lesions`, labels and patients not needed: file, and
            x0,y0,x1,y1 or mask or outline; lesion, if lesions have names.
        columns: What the table calls its columns, such as --columns.lesion box.
        masks: Folder of the masks; that of the images if not given.
        encoding: Encoding of a CSV that is not in UTF-8, such as cp1252.
        sheet: Sheet of an XLSX that has several.
        spacing_mm: Millimetres per pixel of mammograms whose headers do not say so; as in training
            if not given.
        margin_mm: Tissue around the box, only for runs that do not say how their crops were cut.
        minimum_mm: Smallest edge that is cut, only for such runs.
    """
    if (crops is None) == (images is None) or (images is None) != (table is None):
        raise PredictError(
            f"{crops=}, {images=}, {table=}. Give --crops FOLDER, or --images FOLDER with "
            "--table TABLE.csv: a table is needed for mammograms, and only for them."
        )
    lengths = {"spacing_mm": spacing_mm, "margin_mm": margin_mm, "minimum_mm": minimum_mm}
    if images is None and (given := [name for name, mm in lengths.items() if mm is not None]):
        raise PredictError(
            f"{', '.join(given)}: says how to cut mammograms, and crops are cut already. Leave it "
            "out."
        )
    lesions = None
    if images is not None and table is not None:  # before the model, which takes longer to read
        lesions = read_lesion_table(
            Path(table),
            Path(images),
            columns=columns,
            labels=None,
            masks=None if masks is None else Path(masks),
            encoding=encoding,
            sheet=sheet,
        )
    shared = SharedClassifier.read(run)
    inputs = {"classifier": shared.path}
    candidates: Candidates
    if lesions is not None:
        assert images is not None
        assert table is not None
        inputs["table"] = Path(table)
        cutting = _cutting(run, shared, spacing_mm, margin_mm, minimum_mm)
        candidates = TableOfLesions(lesions, Path(images), cutting)
    else:
        assert crops is not None
        candidates = _crops(Path(crops), shared)
    # An inbox gets other patients' files under the same names, and uncompressed ones have one size.
    content = files_sha256(candidates.files())
    with run_folder(
        out,
        command="predict",
        config={
            "run": run,
            "crops": crops,
            "images": images,
            "table": table,
            "columns": asdict(columns),
            "masks": masks,
            "encoding": encoding,
            "sheet": sheet,
            "sha256 of the list of files": input_sha256(images or crops or ""),
            "sha256 of the files that were read": content,
            **lengths,
        },
        inputs=inputs,
    ) as record:
        if record.is_finished_as_said():
            return
        _fill(record.folder, shared, candidates, content)
    if shared.released.calibration is None:
        print(
            "Probabilities are not calibrated; `mammo-dp calibrate-scores` does it on patients of "
            "a cohort, at a stated epsilon."
        )
    said = read_statement(run)["summary"]
    if doubt := shared.doubt:
        said = (
            f"cannot be relied on here: {doubt}. Take it as no guarantee, epsilon = infinity. "
            f"It says: {said}"
        )
    print(f"Statement {shared.statement_sha256[:12]}: {said}")


def _fill(folder: Path, shared: SharedClassifier, candidates: Candidates, content: str) -> None:
    """Scores, then writes both tables; where nothing has a score, no folder stays."""
    scores, refusals = score(shared.released.model, candidates)
    if files_sha256(candidates.files()) != content:
        raise PredictError(
            "files were added or exchanged while they were scored, so a score could be another "
            "patient's. Repeat the command when nothing else writes there."
        )
    if not scores:
        raise PredictError(f"nothing could be scored. {_listed(refusals, _SHOWN)}")
    write_text_atomically(folder / REJECTED_FILE, rejected(refusals))
    write_text_atomically(folder / FILE_NAME, table(scores, shared))
    print(f"{folder / FILE_NAME}: {len(scores):,} scored.")
    if refusals:
        print(f"{folder / REJECTED_FILE}: not scored: {_counted(refusals)}.")


def _crops(folder: Path, shared: SharedClassifier) -> PreparedCrops | PlainCrops:
    """A prepared folder or one of plain files; says so where crops were cut in another way."""
    trained = shared.crops
    smallest = min(shared.image_size, trained.size if trained else shared.image_size)
    if not (folder / CROPS).is_file():
        return PlainCrops(folder, smallest)
    manifest = CropsManifest.read(folder)
    rule = manifest.crops[0].crop_rule
    if trained is not None and rule != trained.rule:
        print(
            f"{folder}: crops were cut by the rule {rule!r}, those of training by "
            f"{trained.rule!r}. Scores may be off."
        )
    return PreparedCrops(manifest, smallest)


def _cutting(
    run: str,
    shared: SharedClassifier,
    spacing_mm: float | None,
    margin_mm: float | None,
    minimum_mm: float | None,
) -> Cutting:
    """How the run's crops were cut, or what the user says where the run cannot."""
    trained = shared.crops
    if trained is not None and trained.cutting is not None:
        if margin_mm is not None or minimum_mm is not None:
            raise PredictError(
                f"{margin_mm=}, {minimum_mm=}: {run} says how its crops were cut "
                f"({trained.cutting.margin_mm:g} and {trained.cutting.minimum_mm:g} mm). Leave "
                "both out."
            )
        known = trained.cutting.spacing_mm if spacing_mm is None else spacing_mm
        return replace(trained.cutting, spacing_mm=known)
    if margin_mm is None or minimum_mm is None:
        why = "does not say how its crops were cut"
        if trained is not None:
            why = f"was trained on crops that were not cut here (rule {trained.rule!r})"
        raise PredictError(
            f"{run}: {why}, so mammograms cannot be cut in the same way. Give crops cut like those "
            "with --crops; or --margin_mm and --minimum_mm (prepare takes 3 and 6.4), and then "
            "scores may be off."
        )
    return Cutting(
        size=trained.size if trained else shared.image_size,
        margin_mm=margin_mm,
        minimum_mm=minimum_mm,
        spacing_mm=spacing_mm,
    )


def _listed(refusals: list[Refusal], most: int) -> str:
    """The first messages, and how many there are in all."""
    shown = " ".join(one.message for one in refusals[:most])
    more = len(refusals) - most
    return shown + (f" And {more} more: {_counted(refusals)} in all." if more > 0 else "")


def _counted(refusals: list[Refusal]) -> str:
    reasons = Counter(one.reason for one in refusals)
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
