# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread

from data_prep.errors import LicenceError
from data_prep.manifest import CropsManifest, LabelSource
from mammo_dp.export import ExportError
from mammo_dp.export.synthetic_set import _LABELS, _settings, synthetic_set
from mammo_dp.main import main
from mammo_dp.privacy.commands import verified, verify
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.lineage import collect_parents
from mammo_dp.runs import RunError, file_sha256, read_run
from tests.export.classifiers import run_of_classifier
from tests.fixtures import write_cohort


@pytest.fixture(scope="module")
def generated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set") / "crops"
    words = ["--checkpoint", str(checkpoint), "--out", str(out), "--per_class", "3"]
    asked = ["--attributes.margin", "SPICULATED", "--guidance", "1.5", "--seed", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        assert main(["generate", *words, *asked]) == 0
    return out


@pytest.fixture(scope="module")
def exported(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    words = ["export", "set", "--crops", str(generated), "--out", str(out), "--dicom", "true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        assert main(words) == 0
        assert main(words) == 0  # finished: nothing to do
    return out / "synthetic_set"


def test_the_folder_holds_the_set_and_nothing_else(exported: Path, generated: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        *("DATA_CARD.md", "PRIVACY.md", "crops.csv", "dicom", "images"),
        *("privacy.json", "privacy_files.json"),
    ]
    manifest, source = CropsManifest.read(exported), CropsManifest.read(generated)
    assert manifest.sha256 == source.sha256
    assert len(list((exported / "images").iterdir())) == len(manifest.crops) == 6
    rows = manifest.rows()
    assert np.array_equal(manifest.images(rows), source.images(rows))
    assert (exported.parent / "run.json").is_file()


def test_the_statement_goes_along_and_can_be_verified_elsewhere(
    exported: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = (generated / "privacy.json").read_bytes()
    assert (exported / "privacy.json").read_bytes() == sealed
    received = shutil.copytree(exported, tmp_path / "received")
    verify(str(received))
    assert "all that was checked agrees" in capsys.readouterr().out
    ledger = collect_parents([received])
    assert ledger == collect_parents([generated]) != PrivacyLedger()
    (received / "images" / "000000_benign.png").unlink()
    with pytest.raises(PrivacyError, match="is not the crop of row 2"):
        verify(str(received))


@pytest.mark.parametrize("planted", ["images/patient.png", "provenance.png", "notes.txt"])
def test_a_file_that_lies_in_an_unfinished_set_is_not_passed_on(
    planted: str, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", "set", "--crops", str(generated), "--out", str(tmp_path / "out")]

    def killed(*of: object, **more: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_dp.export.synthetic_set.data_card", killed)
        assert main(export) == 130
    file = tmp_path / "out" / "synthetic_set" / planted
    file.write_text("of a patient")
    assert main(export) == 1
    assert f"holds {planted}, which this export did not write" in capsys.readouterr().err
    file.unlink()
    assert main(export) == 0
    assert main(["privacy", "verify", str(file.parents[planted.count("/")])]) == 0


def test_a_file_beside_those_of_a_set_is_named(
    exported: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = verified(exported).findings.notes
    assert not any("nothing here speaks about them" in note for note in notes)
    received = shutil.copytree(exported, tmp_path / "received")
    for name in ("images/x.png", "dicom/x.dcm"):
        (received / name).write_text("of a patient")
    notes = verified(received).findings.notes
    assert f"{received}: dicom/x.dcm, images/x.png: not in privacy_files.json" in "".join(notes)
    assert not any("nothing here" in note for note in verified(generated).findings.notes)
    run = shutil.copytree(generated, tmp_path / "run")
    (run / "images" / "x.png").write_text("of a patient")
    record = json.loads((run / "run.json").read_text())
    record["outputs"]["images/x.png"] = file_sha256(run / "images" / "x.png")  # as of a killed run
    (run / "run.json").write_text(json.dumps(record))
    assert f"{run / 'images'}: x.png: not in crops.csv" in "".join(verified(run).findings.notes)


def test_the_run_of_an_export_can_be_verified(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(str(exported.parent))
    assert "all that was checked agrees" in capsys.readouterr().out


def test_the_card_says_what_how_from_whom_and_what_not(exported: Path, generated: Path) -> None:
    card = (exported / "DATA_CARD.md").read_text()
    for part in (
        "# 6 synthetic breast mass crops",
        "3 benign and 3 malignant crops, 16 x 16 pixels",
        "As asked for, margin: SPICULATED 6.",
        "`mammo-dp generate` with",
        "`guidance=1.5`",
        "`per_class=3`",
        "`seed=4`",
        "cbis-ddsm: CC BY 3.0",
        "No guarantee, epsilon = infinity, for each patient of cbis-ddsm/train",
        "## Intended use",
        "Not for diagnosis",
        "## Limits",
        "a crop may resemble theirs",
        "`dicom/`",
        json.loads((generated / "privacy.json").read_text())["artefact"]["sha256"],
    ):
        assert part in card, part
    assert "/" not in card.replace("`dicom/`", "").replace("cbis-ddsm/train", "")


def test_dicom_files_hold_the_same_pixels_and_classes(exported: Path) -> None:
    manifest = CropsManifest.read(exported)
    files = [dcmread(path) for path in sorted((exported / "dicom").iterdir())]
    assert len(files) == 6
    for row, (crop, file) in enumerate(zip(manifest.crops, files, strict=True)):
        assert np.array_equal(file.pixel_array, manifest.image(row))
        assert f"malignant={int(crop.malignant)}; margin=SPICULATED" in file.ImageComments
        assert file.PatientID == "SYNTHETIC"
    assert len({file.SOPInstanceUID for file in files}) == 6
    assert len({file.StudyInstanceUID for file in files}) == 1


def test_without_asking_there_is_no_dicom(generated: Path, tmp_path: Path) -> None:
    synthetic_set(crops=str(generated), out=str(tmp_path))
    assert not (tmp_path / "synthetic_set" / "dicom").exists()
    assert "dicom" not in (tmp_path / "synthetic_set" / "DATA_CARD.md").read_text()


def test_what_a_file_says_beside_its_pixels_stays_at_home(generated: Path, tmp_path: Path) -> None:
    source = shutil.copytree(generated, tmp_path / "source")
    path = source / "images" / "000000_benign.png"
    noted = PngImagePlugin.PngInfo()
    noted.add_text("Comment", "made by somebody")
    with Image.open(path) as image:
        image.save(path, pnginfo=noted)
    synthetic_set(crops=str(source), out=str(tmp_path / "out"))
    copied = tmp_path / "out" / "synthetic_set" / "images" / "000000_benign.png"
    assert b"somebody" in path.read_bytes()
    assert b"somebody" not in copied.read_bytes()


def test_crops_of_patients_are_refused_with_and_without_dicom(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    for dicom in (False, True):
        with pytest.raises(ExportError, match="crops of phantom-archive are those of patients"):
            synthetic_set(crops=str(cohort.folder), out=str(tmp_path), dicom=dicom)
    assert list(tmp_path.iterdir()) == []


def test_one_patient_among_many_is_enough_to_refuse(tmp_path: Path, generated: Path) -> None:
    source = shutil.copytree(generated, tmp_path / "source")
    patient = write_cohort(tmp_path / "real", crops=1, size=16).crops[0]
    crops = CropsManifest.read(source).crops
    (tmp_path / "mixed").mkdir()
    rows = [*crops[:2], replace(patient, crop_rule="centred")]
    CropsManifest.write(tmp_path / "mixed", rows)
    with pytest.raises(ExportError, match="are those of patients"):
        synthetic_set(crops=str(tmp_path / "mixed"), out=str(tmp_path / "out"))


def test_phantoms_are_exported_with_what_their_statement_leaves_open(tmp_path: Path) -> None:
    phantoms = tmp_path / "phantoms"
    words = ["--out", str(phantoms), "--per_class", "2", "--size", "32"]
    assert main(["prepare", "phantoms", *words]) == 0
    synthetic_set(crops=str(phantoms), out=str(tmp_path / "out"))
    card = (tmp_path / "out" / "synthetic_set" / "DATA_CARD.md").read_text()
    assert "No patient data was used." in card
    assert "may resemble" not in card
    assert "Phantom crops hold no patient, but" in card
    assert "The label is what the procedure drew." in card


def test_the_card_says_that_a_classifier_gave_the_labels(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    judge = run_of_classifier(tmp_path / "judge", cohort) / "checkpoints" / "last.ckpt"
    phantoms, judged = str(tmp_path / "phantoms"), str(tmp_path / "judged")
    words = ["--out", phantoms, "--per_class", "2", "--size", "32"]
    assert main(["prepare", "phantoms", *words]) == 0
    words = ["--crops", phantoms, "--checkpoint", str(judge), "--out", judged]
    assert main(["relabel", *words]) == 0
    synthetic_set(crops=judged, out=str(tmp_path / "out"))
    card = (tmp_path / "out" / "synthetic_set" / "DATA_CARD.md").read_text()
    assert "The label is what a classifier said of the crop." in card


def test_each_source_of_labels_of_synthetic_crops_has_words() -> None:
    assert set(get_args(LabelSource)) - {"pathology", "birads", "image"} == set(_LABELS)


def imported(tmp_path: Path, provenance: str, **words: str) -> Path:
    """An imported set of two crops."""
    root = tmp_path / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, word in enumerate((words["benign_word"], words["malignant_word"])):
        pixels = rng.integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}_{word}.png")
    (tmp_path / "from.yaml").write_text(provenance)
    flags = ["--root", str(root), "--name", "m", "--provenance", str(tmp_path / "from.yaml")]
    flags += [part for name, word in words.items() for part in (f"--{name}", word)]
    assert main(["prepare", "synthetic_folder", *flags, "--out", str(tmp_path / "a")]) == 0
    return tmp_path / "a"


CLAIM = "generator: g\ntrained_on: |\n  cbis-ddsm\n\n  ## Privacy\n\n  epsilon is 0.01\n"


def test_words_that_were_typed_do_not_stand_in_the_card(tmp_path: Path) -> None:
    words = {"malignant_word": "Maria M 1957", "benign_word": "epsilon 0.1 per patient"}
    crops = imported(tmp_path, "generator: g\ntrained_on: cbis-ddsm\n", **words)
    synthetic_set(crops=str(crops), out=str(tmp_path / "out"))
    card = (tmp_path / "out" / "synthetic_set" / "DATA_CARD.md").read_text()
    assert "`mammo-dp prepare synthetic_folder` with `card=True`, `strict=False`." in card
    for word in words.values():
        assert word not in card
    assert "No crop was cut from a mammogram" not in card
    assert "Whoever imported these crops says that a generator made them" in card
    assert "with masses off centre, as whoever imported the crops says" in card


def test_lines_of_a_provenance_or_of_terms_are_no_part_of_a_statement_or_card(
    tmp_path: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "claim").mkdir()
    words = {"malignant_word": "1", "benign_word": "0"}
    with pytest.raises(AssertionError):
        imported(tmp_path / "claim", CLAIM, **words)
    assert "trained_on is no text of one plain line" in capsys.readouterr().err
    assert not (tmp_path / "claim" / "a" / "privacy.json").exists()
    terms = "CC BY 4.0\n\n## Privacy\n\nepsilon is 0.01"
    with pytest.raises(LicenceError, match="Name the terms in one line"):
        synthetic_set(crops=str(generated), out=str(tmp_path / "out"), licence_of_cohort=terms)


def test_a_command_or_flags_that_somebody_wrote_into_the_record_are_not_exported(
    generated: Path, tmp_path: Path
) -> None:
    for name, value in (("command", "generate of epsilon 0.1"), ("config", {"epsilon": 0.1})):
        source = shutil.copytree(generated, tmp_path / name)
        record = json.loads((source / "run.json").read_text())
        (source / "run.json").write_text(json.dumps(record | {name: value}))
        with pytest.raises(PrivacyError, match="are not those that privacy_evidence"):
            synthetic_set(crops=str(source), out=str(tmp_path / "out"))


def test_what_was_asked_of_an_account_is_no_setting_of_the_card(generated: Path) -> None:
    made = replace(read_run(generated), config={"target_epsilon": 1.0, "delta": 1e-4, "rounds": 6})
    assert _settings(made) == " with `rounds=6`"


def test_an_export_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no readable run record"):
        synthetic_set(crops=str(exported), out=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_imported_set_takes_its_provenance_and_needs_known_terms(
    tmp_path: Path, generated: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in ("1_benign", "2_malignant"):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(root / f"{name}.png")
    said = "generator: medigan 00008\ntrained_on: cbis-ddsm\nfound_in: Maria_Mueller\n"
    (tmp_path / "from.yaml").write_text(said)
    words = ["prepare", "synthetic_folder", "--root", str(root), "--name", "m"]
    known = [*words, "--out", str(tmp_path / "a"), "--provenance", str(tmp_path / "from.yaml")]
    assert main(known) == 0
    synthetic_set(crops=str(tmp_path / "a"), out=str(tmp_path / "known"))
    folder = tmp_path / "known" / "synthetic_set"
    assert "medigan 00008" in (folder / "PRIVACY.md").read_text()
    texts = [path.read_text() for path in folder.iterdir() if path.is_file()]
    assert len(texts) > 3
    assert not any("Mueller" in text for text in texts)
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    with pytest.raises(LicenceError, match="unknown data: nobody knows here"):
        synthetic_set(crops=str(tmp_path / "b"), out=str(tmp_path / "unknown"))
    assert not (tmp_path / "unknown").exists()


def test_a_damaged_crop_stops_the_export(generated: Path, tmp_path: Path) -> None:
    source = shutil.copytree(generated, tmp_path / "source")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(source / "images" / "000003_malignant.png")
    with pytest.raises(ValueError, match="pixels differ from the recorded hash"):
        synthetic_set(crops=str(source), out=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "synthetic_set" / "crops.csv").exists()
