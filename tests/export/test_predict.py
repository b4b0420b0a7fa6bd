# SPDX-License-Identifier: Apache-2.0
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from classifier.module import CropClassifier
from classifier.released import ReleasedError
from data_prep.cropping import Box, crop_square, grey_range, to_16_bit
from data_prep.datamodule import CropsDataset
from data_prep.dicom import read_mammogram
from data_prep.errors import DataError
from data_prep.manifest import CropsManifest
from mammo_dp.export import PredictError, scores
from mammo_dp.export.candidates import PlainCrops, PreparedCrops
from mammo_dp.export.classifier import classifier
from mammo_dp.export.predict import predict
from mammo_dp.export.shared_classifier import SharedClassifier
from mammo_dp.main import main
from mammo_dp.privacy.commands import verify
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.runs import RunError, file_sha256
from tests.data_prep.tiny_archive import write_dicom
from tests.export.classifiers import CUT, run_of_classifier
from tests.export.conftest import run_of_fit
from tests.fixtures import write_cohort

BOX = Box(60, 90, 90, 120)
ROW = "a.dcm,60,90,90,120"


def mammogram(seed: int = 0) -> NDArray[np.uint16]:
    yy, xx = np.mgrid[:260, :200]
    rng = np.random.default_rng(seed)
    breast = 1200 * (np.hypot(yy - 130, xx) < 120) + 1500 * (np.hypot(yy - 105, xx - 75) < 15)
    grey: NDArray[np.uint16] = (breast + rng.integers(0, 300, breast.shape)).astype(np.uint16)
    return grey


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        cohort = write_cohort(folder / "real")
        return run_of_classifier(folder / "dp", cohort, calibration=(0.5, -1.0))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    write_dicom(folder / "a.dcm", mammogram(), PatientName="Secret^Name", PatientID="SECRET-ID")
    return folder


def boxes(folder: Path, *lines: str) -> str:
    path = folder / "lesions.csv"
    path.write_text("\n".join(["file,x0,y0,x1,y1", *lines]) + "\n")
    return str(path)


def rows(folder: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_box_is_cut_and_scored_by_the_settings_of_training(
    run: Path, images: Path, tmp_path: Path
) -> None:
    table = boxes(tmp_path, ROW)
    words = ["--run", str(run), "--images", str(images), "--table", table]
    assert main(["predict", *words, "--out", str(tmp_path / "out")]) == 0
    (found,) = rows(tmp_path / "out")
    pixels = read_mammogram(images / "a.dcm", allow_secondary_capture=True).pixels
    grey = grey_range(pixels)
    crop = to_16_bit(
        crop_square(pixels, BOX, mm_per_px=0.1, size=16, background=grey.background), grey
    )
    image = torch.from_numpy(crop.astype(np.float32) / 65535 * 2 - 1)[None, None]
    with torch.inference_mode():
        logit = float(SharedClassifier.read(run).released.model(image))
    assert float(found["logit"]) == pytest.approx(logit, abs=1e-6)
    assert float(found["probability"]) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    calibrated = 1 / (1 + np.exp(1 - 0.5 * logit))
    assert float(found["calibrated_probability"]) == pytest.approx(calibrated, abs=1e-6)


def test_each_row_has_the_users_key_and_two_hashes_and_nobodys_name(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    predict(run=str(run), images=str(images), table=boxes(tmp_path, ROW, ROW), out=str(out))
    found = rows(out)
    assert [(row["file"], row["box"]) for row in found] == [("a.dcm", "1"), ("a.dcm", "2")]
    assert {row["statement_sha256"] for row in found} == {file_sha256(run / "privacy.json")}
    checkpoint = file_sha256(run / "checkpoints" / "last.ckpt")
    assert {row["checkpoint_sha256"] for row in found} == {checkpoint}
    shown = capsys.readouterr()
    everything = "".join(path.read_text() for path in out.iterdir()) + shown.out + shown.err
    assert "secret" not in everything.lower()
    assert "epsilon = " in shown.out
    verify(str(out))
    assert "all that was checked agrees" in capsys.readouterr().out


def test_prepared_and_plain_crops_are_scored_as_in_training(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_AT_ONCE", 4)
    cohort = write_cohort(tmp_path / "new", crops=6, size=32, seed=1)
    dataset = CropsDataset(cohort, cohort.rows(), image_size=16)
    with torch.inference_mode():
        batch = torch.stack([dataset[i].image for i in range(6)])
        expected = SharedClassifier.read(run).released.model(batch).numpy()
    plain, eight = cohort.folder / "images", tmp_path / "eight"
    eight.mkdir()
    for path in plain.iterdir():
        with Image.open(path) as image:
            grey = np.round(np.array(image) / 257).astype(np.uint8)
        Image.fromarray(grey).save(eight / path.name)
    for folder, tolerance in ((cohort.folder, 1e-6), (plain, 1e-6), (eight, 0.02)):
        out = tmp_path / f"out_{folder.name}"
        predict(run=str(run), crops=str(folder), out=str(out))
        logits = [float(row["logit"]) for row in rows(out)]
        np.testing.assert_allclose(logits, expected, atol=tolerance)


def test_an_exported_folder_scores_as_the_run(run: Path, images: Path, tmp_path: Path) -> None:
    table = boxes(tmp_path, ROW)
    classifier(run=str(run), out=str(tmp_path / "hf"))
    for name, source in (("a", run), ("b", tmp_path / "hf" / "classifier")):
        out = str(tmp_path / name)
        predict(run=str(source), images=str(images), table=table, out=out)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_what_cannot_be_scored_is_listed_with_its_reason(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (images / "a.dcm").read_bytes()
    (images / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    write_dicom(images / "rgb.dcm", mammogram(), PhotometricInterpretation="RGB")
    write_dicom(images / "raw.dcm", mammogram(), PresentationIntentType="FOR PROCESSING")
    write_dicom(images / "unnamed.dcm", mammogram())
    table = boxes(
        tmp_path,
        ROW,
        "a.dcm,190,90,220,120",
        "a.dcm,60,90,62,92",
        "cut.dcm,60,90,90,120",
        "rgb.dcm,60,90,90,120",
        "raw.dcm,60,90,90,120",
        "gone.dcm,60,90,90,120",
    )
    predict(run=str(run), images=str(images), table=table, out=str(tmp_path / "out"))
    assert len(rows(tmp_path / "out")) == 1
    refused = rows(tmp_path / "out", "rejected.csv")
    assert [(row["file"], row["reason"]) for row in refused] == [
        ("a.dcm", "box_outside"),
        ("a.dcm", "too_small"),
        ("cut.dcm", "unreadable"),
        ("rgb.dcm", "not_mammography"),
        ("raw.dcm", "for_processing"),
        ("gone.dcm", "no_image"),
        ("unnamed.dcm", "no_box"),
    ]
    assert refused[0]["message"].startswith("lesions.csv, row 3: Box(x0=190")
    assert "PhotometricInterpretation is not MONOCHROME" in refused[3]["message"]
    assert "not scored: box_outside 1, for_processing 1" in capsys.readouterr().out


def test_plain_files_of_a_wrong_kind_are_listed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, shape in (("b", (16, 20)), ("c", (12, 12)), ("d", (16, 16, 3)), ("f", (16, 16))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / f"{name}.png")
    (folder / "e.png").write_bytes(b"no image")
    predict(run=str(run), crops=str(folder), out=str(tmp_path / "out"))
    refused = rows(tmp_path / "out", "rejected.csv")
    assert [(row["file"], row["reason"]) for row in refused] == [
        ("b.png", "not_square"),
        ("c.png", "too_small"),
        ("d.png", "not_grey"),
        ("e.png", "unreadable"),
    ]
    assert [row["file"] for row in rows(tmp_path / "out")] == ["f.png"]


def test_prepared_crops_below_the_size_of_training_are_refused_too(
    run: Path, tmp_path: Path
) -> None:
    small = write_cohort(tmp_path / "small", crops=2, size=12)
    with pytest.raises(PredictError, match=r"12 x 12 px\. The model takes crops of at least 16"):
        predict(run=str(run), crops=str(small.folder), out=str(tmp_path / "out"))


def test_how_to_cut_is_no_question_for_crops_and_a_spacing_of_0_is_none(
    run: Path, images: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(PredictError, match=r"spacing_mm, margin_mm: .*crops are cut already"):
        predict(run=str(run), crops=str(cohort.folder), out=out, spacing_mm=0.1, margin_mm=3)
    table = boxes(tmp_path, ROW)
    with pytest.raises(DataError, match="a spacing above 0"):
        predict(run=str(run), images=str(images), table=table, out=out, spacing_mm=0)
    assert not Path(out).exists()


def test_where_nothing_can_be_scored_the_folder_stays_free(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--run", str(run), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main([*words, "--table", boxes(tmp_path, "a.dcm,500,500,520,520")]) == 1
    assert "nothing could be scored. lesions.csv, row 2: Box" in capsys.readouterr().err
    assert main([*words, "--table", boxes(tmp_path, ROW)]) == 0


def test_a_model_that_diverged_is_refused(run: Path, cohort: CropsManifest) -> None:
    model = SharedClassifier.read(run).released.model
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(PredictError, match="logits that are not finite"):
        scores.score(model, PreparedCrops(cohort, 16))


def test_nothing_is_overwritten(run: Path, images: Path, tmp_path: Path) -> None:
    def again() -> None:
        predict(run=str(run), images=str(images), table=table, out=str(tmp_path / "out"))

    table = boxes(tmp_path, ROW)
    again()
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    again()
    write_dicom(images / "b.dcm", mammogram(1))
    with pytest.raises(RunError, match="nothing is overwritten"):
        again()
    (images / "b.dcm").unlink()
    boxes(tmp_path, ROW, "a.dcm,50,90,90,120")
    with pytest.raises(RunError, match=r"inputs \['table'\] have changed"):
        again()
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before


def test_names_of_files_reach_no_message(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "Mueller_Anna.png")
    words = ["--run", str(run), "--crops", str(folder), "--out", str(tmp_path / "out")]
    assert main(["predict", *words]) == 1
    said = capsys.readouterr().err
    assert "file 1 in the order of names: 4 x 4 px" in said
    assert "Anna" not in said


def pixels_of(seed: int, side: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8))


def replace_mammogram(folder: Path) -> None:
    path = folder / "images" / "a.dcm"
    old, new = mammogram().tobytes(), mammogram(1).tobytes()
    path.write_bytes(path.read_bytes().replace(old, new))  # generated UIDs may have other lengths


def replace_mask(folder: Path) -> None:
    write_mask(folder, Box(40, 90, 70, 120))


def replace_plain_crop(folder: Path) -> None:
    pixels_of(1, 20).save(folder / "plain" / "a.png", compress_level=0)


def write_mask(folder: Path, box: Box) -> None:
    mask = np.zeros((260, 200), np.uint8)
    mask[box.y0 : box.y1, box.x0 : box.x1] = 255
    Image.fromarray(mask).save(folder / "masks" / "m.tif")


def write_inbox(folder: Path) -> None:
    for name in ("images", "masks", "plain"):
        (folder / name).mkdir()
    write_dicom(folder / "images" / "a.dcm", mammogram())
    write_mask(folder, BOX)
    (folder / "masked.csv").write_text("file,mask\na.dcm,m.tif\n")
    pixels_of(0, 20).save(folder / "plain" / "a.png", compress_level=0)


@pytest.mark.parametrize(
    ("flags", "file", "change"),
    [
        ({"images": "images", "table": "lesions.csv"}, "images/a.dcm", replace_mammogram),
        ({"images": "images/a.dcm", "table": "lesions.csv"}, "images/a.dcm", replace_mammogram),
        (
            {"images": "images", "table": "masked.csv", "masks": "masks"},
            "masks/m.tif",
            replace_mask,
        ),
        ({"crops": "plain"}, "plain/a.png", replace_plain_crop),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_scores_of_other_bytes_under_the_same_name_and_size_are_not_given_out(
    run: Path,
    tmp_path: Path,
    flags: dict[str, str],
    file: str,
    change: Callable[[Path], None],
    finished: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_inbox(tmp_path)
    boxes(tmp_path, ROW)

    def ask(out: str) -> list[str]:
        paths: dict[str, Any] = {flag: str(tmp_path / name) for flag, name in flags.items()}
        predict(run=str(run), out=str(tmp_path / out), **paths)
        return [row["logit"] for row in rows(tmp_path / out)]

    first = ask("out")
    if not finished:
        record = tmp_path / "out" / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": None}))
    before = (tmp_path / file).stat().st_size
    change(tmp_path)
    assert (tmp_path / file).stat().st_size == before
    with pytest.raises(RunError, match=r"sha256 of the files that were read.*Choose a new folder"):
        ask("out")
    assert "nothing to do" not in capsys.readouterr().out
    assert ask("new") != first
    assert ask("new") == ask("new")
    assert "already finished; nothing to do" in capsys.readouterr().out


def test_an_exchanged_crop_of_a_prepared_folder_is_noticed_on_a_repeated_command(
    run: Path, tmp_path: Path
) -> None:
    cohort = write_cohort(tmp_path / "new", crops=2, size=32, seed=1)

    def ask() -> None:
        predict(run=str(run), crops=str(cohort.folder), out=str(tmp_path / "out"))

    ask()
    one, other = (cohort.folder / crop.file for crop in cohort.crops)
    one.write_bytes(other.read_bytes())
    with pytest.raises(RunError, match="sha256 of the files that were read"):
        ask()


def test_files_that_change_while_they_are_scored_give_no_table(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inbox(tmp_path)

    def slow(model: CropClassifier, candidates: PlainCrops) -> object:
        found = scores.score(model, candidates)
        replace_plain_crop(tmp_path)
        return found

    def ask() -> None:
        predict(run=str(run), crops=str(tmp_path / "plain"), out=str(tmp_path / "out"))

    monkeypatch.setattr("mammo_dp.export.predict.score", slow)
    with pytest.raises(PredictError, match="exchanged while they were scored"):
        ask()
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    ask()


def test_a_run_that_does_not_say_how_to_cut_needs_to_be_told(
    run: Path, images: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    def ask(source: Path, out: str = "never", **more: Any) -> None:
        table = boxes(tmp_path, ROW)
        out = str(tmp_path / out)
        predict(run=str(source), images=str(images), table=table, out=out, **more)

    with pytest.raises(PredictError, match=r"says how its crops were cut \(3 and 6.4 mm\)"):
        ask(run, margin_mm=2)
    bare = run_of_classifier(tmp_path / "bare", cohort, crops=None)
    with pytest.raises(PredictError, match=r"bare: does not say how .* --margin_mm and --minimum"):
        ask(bare)
    ask(bare, "told", margin_mm=3, minimum_mm=6.4, spacing_mm=0.1)
    ask(run, "known")
    logits = [rows(tmp_path / name)[0]["logit"] for name in ("told", "known")]
    assert logits[0] == logits[1]
    assert rows(tmp_path / "told")[0]["calibrated_probability"] == ""
    assert not (tmp_path / "never").exists()


def test_images_with_and_without_a_spacing_are_not_mixed(
    images: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    assert CUT.cutting is not None
    bare = run_of_classifier(tmp_path / "bare", cohort, crops=None)
    write_dicom(images / "b.dcm", mammogram(), PixelSpacing=[0.1, 0.1])
    table = boxes(tmp_path, ROW, ROW.replace("a.dcm", "b.dcm"))
    out = tmp_path / "out"
    predict(
        run=str(bare), images=str(images), table=table, out=str(out), margin_mm=3, minimum_mm=6.4
    )
    assert [row["file"] for row in rows(out)] == ["a.dcm"]
    (refused,) = rows(out, "rejected.csv")
    assert (refused["file"], refused["reason"]) == ("b.dcm", "spacing")
    assert "row 3 and lesions.csv, row 2: only one of the mammograms states" in refused["message"]


@pytest.mark.parametrize(
    "flags", [{}, {"crops": "a", "images": "b"}, {"images": "b"}, {"crops": "a", "table": "c"}]
)
def test_flags_that_do_not_belong_together_are_named(
    run: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    with pytest.raises(PredictError, match="a table is needed for mammograms, and only for them"):
        predict(run=str(run), out=str(tmp_path / "out"), **flags)


def test_a_wrong_table_is_named_before_the_model_is_read(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "befunde.csv"
    table.write_bytes("file,x0,y0,x1,y1,Dignit\u00e4t\n".encode("cp1252"))
    with pytest.raises(DataError, match="name its encoding"):
        predict(run="nowhere", images=str(images), table=str(table), out=str(tmp_path / "out"))


def alter_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes() + b"\0")


def break_seal(run: Path) -> None:
    path = run / "privacy.json"
    path.write_text(path.read_text().replace("patient", "person", 1))


def point_at_another_run(run: Path) -> None:
    path = run / "privacy.json"
    stored = json.loads(path.read_text())
    other = shutil.copytree(run, run.with_name("other"))
    stored["artefact"]["path"] = f"../{other.name}/{stored['artefact']['path']}"
    path.write_text(json.dumps(stored | {"summary": "epsilon = 0.1 for each patient"}))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (alter_checkpoint, "the statement beside it is about another file"),
        (
            break_seal,
            "the statement beside it does not fit its seal: somebody without the cohort key "
            "changed it",
        ),
        (
            point_at_another_run,
            "the statement beside it does not fit its seal: somebody without the cohort key "
            "changed it",
        ),
    ],
)
def test_a_statement_that_cannot_be_relied_on_is_no_guarantee(
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    doubt: str,
) -> None:
    broken = run_of_classifier(tmp_path / "run", cohort)
    change(broken)
    predict(run=str(broken), crops=str(cohort.folder), out=str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert f"cannot be relied on here: {doubt}. Take it as no guarantee, epsilon = inf" in said
    weights = file_sha256(broken / "checkpoints" / "last.ckpt")
    assert {row["checkpoint_sha256"] for row in rows(tmp_path / "out")} == {weights}


def test_a_run_without_a_statement_is_refused(tmp_path: Path, cohort: CropsManifest) -> None:
    bare = run_of_classifier(tmp_path / "run", cohort)
    (bare / "privacy.json").unlink()
    with pytest.raises(PrivacyError, match="is no readable privacy statement"):
        predict(run=str(bare), crops=str(cohort.folder), out=str(tmp_path / "out"))


def test_what_is_no_run_of_a_classifier_is_refused_by_name(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    crops, out = str(cohort.folder), str(tmp_path / "out")
    gan = run_of_fit(tmp_path / "gan", cohort).parent.parent
    with pytest.raises(ReleasedError, match="is no crop classifier; it holds average"):
        predict(run=str(gan), crops=crops, out=out)
    phantoms = ["prepare", "phantoms", "--per_class", "1", "--size", "16"]
    assert main([*phantoms, "--out", str(tmp_path / "phantoms")]) == 0
    with pytest.raises(RunError, match=r"holds `prepare phantoms`\. Give the run folder of a"):
        predict(run=str(tmp_path / "phantoms"), crops=crops, out=out)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunError, match="is no readable run record"):
        predict(run=str(empty), crops=crops, out=out)
    assert not Path(out).exists()
