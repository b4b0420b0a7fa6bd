# SPDX-License-Identifier: Apache-2.0
import csv
import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import prepare
from data_prep.archives import cbis_ddsm
from data_prep.crop_set import clear_majority
from data_prep.cropping import Box, crop_square, grey_range, to_16_bit
from data_prep.dicom import read_mammogram
from data_prep.errors import (
    ArchiveError,
    DataError,
    DuplicateConflict,
    LeakageError,
    ManifestError,
    RecordRejected,
)
from data_prep.manifest import CropsManifest
from data_prep.masks import locate
from tests.data_prep.test_crop_folder import put
from tests.data_prep.tiny_archive import SHAPE, TinyArchive, film, lesion_mask

LESION_BOX = Box(50, 100, 80, 140)


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four good rows, of two patients in train and one in test; four that become no crop."""
    tiny = TinyArchive(tmp_path / "archive")
    tiny.add("P_00001")
    tiny.add("P_00001", view="MLO")
    tiny.add("P_00002", pathology="BENIGN", side="RIGHT")
    tiny.add("P_00003", "test", pathology="BENIGN_WITHOUT_CALLBACK")
    tiny.add("P_00004", mask=None)
    tiny.add("P_00004", view="MLO", mask=lesion_mask()[:, :120])
    tiny.add("P_00005", "test", PresentationIntentType="FOR PROCESSING")
    tiny.add("P_00005", "test", view="MLO").write_bytes(b"cut off")
    return tiny.write()


def test_archive_becomes_crops_and_rejections(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare.cbis_ddsm(root=str(archive), out=str(out), size=32, val_fraction=0)
    assert manifest == CropsManifest.read(out)
    assert [(c.file, c.patient_id, c.malignant, c.split) for c in manifest.crops] == [
        ("images/cbis-ddsm_train_0002.png", "P_00001", True, "train"),
        ("images/cbis-ddsm_train_0003.png", "P_00001", True, "train"),
        ("images/cbis-ddsm_train_0004.png", "P_00002", False, "train"),
        ("images/cbis-ddsm_test_0002.png", "P_00003", False, "test"),
    ]
    crop = manifest.crops[0]
    assert (crop.origin, crop.label_source, crop.crop_rule) == ("cbis-ddsm", "pathology", "centred")
    assert crop.pixel_spacing_mm is None
    assert manifest.images(manifest.rows()).shape == (4, 32, 32)
    assert [(r["record"], r["reason"]) for r in rejected(out)] == [
        ("train_0005", "no_mask"),
        ("train_0006", "mask_mismatch"),
        ("test_0003", "for_processing"),
        ("test_0004", "unreadable"),
    ]
    assert "case_description_test_set.csv, row 4: is neither DICOM" in rejected(out)[3]["message"]
    assert b"P_0000" not in (out / "rejected.csv").read_bytes()
    assert not any(b"1.2.826" in data or b"ECRET" in data for data in content(out).values())


def test_crop_pixels_are_those_of_the_rule(archive: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    manifest = prepare.cbis_ddsm(root=str(archive), out=out, size=32, val_fraction=0)
    row = cbis_ddsm.read(archive).rows[0]
    pixels = read_mammogram(row.path, allow_secondary_capture=True).pixels
    grey = grey_range(pixels)
    crop = crop_square(pixels, LESION_BOX, size=32, background=grey.background)
    np.testing.assert_array_equal(manifest.image(0), to_16_bit(crop, grey))


def test_second_run_writes_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / name), size=32)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_strict_stops_at_the_first_rejection(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordRejected, match=r"train_set\.csv, row 5: ROI mask missing"):
        prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "out"), size=32, strict=True)
    assert not (tmp_path / "out" / "crops.csv").exists()


def test_counts_are_printed(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "out"), size=32, val_fraction=0)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:6] == [
        "CBIS-DDSM: CC BY 3.0",
        f"cite: {cbis_ddsm.CITATION}",
        "rows: 8, of which 8 are used, of 8 images",
        "where lesions lie: mask 8",
        "labels from pathology: benign 2, malignant 6",
        "patients, split by the table: test 2, train 3",
    ]
    assert [line.partition(": ")[0] for line in shown[-5:-1]] == [
        f"  {reason}, first of rejected.csv"
        for reason in ("for_processing", "mask_mismatch", "no_mask", "unreadable")
    ]
    assert "row 4: is neither DICOM" in shown[-2]
    assert [*shown[-8:-5], shown[-1]] == [
        "train: 3 crops (2 malignant) of 2 patients",
        "test: 1 crops (0 malignant) of 1 patients; one class only, no use for training",
        "rejected: for_processing 1, mask_mismatch 1, no_mask 1, unreadable 1",
        "found 10 = read 4 + rejected 4 (for_processing 1, mask_mismatch 1, no_mask 1, "
        "unreadable 1) + skipped 2 (another kind of file 2)",
    ]


def test_val_is_taken_from_training_patients(archive: Path, tmp_path: Path) -> None:
    manifest = prepare.cbis_ddsm(
        root=str(archive), out=str(tmp_path / "out"), size=32, val_fraction=0.99
    )
    assert {crop.patient_id: crop.split for crop in manifest.crops} == {
        "P_00001": "val",
        "P_00002": "val",
        "P_00003": "test",
    }


def test_phantom_mark_makes_the_origin(archive: Path, tmp_path: Path) -> None:
    (archive / cbis_ddsm.PHANTOM_MARK).touch()
    manifest = prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "out"), size=32)
    assert {(c.origin, c.label_source) for c in manifest.crops} == {("phantom-archive", "phantom")}
    named = prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "b"), size=32, origin="mine")
    assert {c.origin for c in named.crops} == {"mine"}


def test_spacing_sets_margin_and_is_carried_to_the_crop(archive: Path, tmp_path: Path) -> None:
    manifest = prepare.cbis_ddsm(
        root=str(archive), out=str(tmp_path / "out"), size=32, spacing_mm=0.2, margin_mm=2.0
    )
    side = max(40 + 2 * 10, 32)  # lesion of 30 x 40 px, 2 mm of margin, at least 6.4 mm
    assert manifest.crops[0].pixel_spacing_mm == pytest.approx(0.2 * side / 32)


@pytest.mark.parametrize("origin", ["phantom", "Phantom", "phantom-archive", "Phantom_Archive"])
def test_patients_cannot_be_called_phantoms(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ManifestError, match="stands for crops without patients"):
        prepare.lesions(table="t.csv", images=".", out=str(tmp_path / "out"), origin=origin)
    put(tmp_path, dataset=origin)
    (tmp_path / "cbis-ddsm").rename(tmp_path / origin)
    with pytest.raises(ManifestError, match="stands for crops without patients"):
        prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "out"))


def test_one_unit_per_set(tmp_path: Path) -> None:
    tiny = TinyArchive(tmp_path / "archive")
    tiny.add("P_00001", PixelSpacing=[0.05, 0.05])
    tiny.add("P_00002")
    out = tmp_path / "out"
    root = str(tiny.write())
    with pytest.raises(ArchiveError, match=r"states no pixel spacing, .*spacing_mm.* a new folder"):
        prepare.cbis_ddsm(root=root, out=str(out), size=32)
    given = prepare.cbis_ddsm(root=root, out=str(tmp_path / "mm"), size=32, spacing_mm=0.05)
    assert [crop.patient_id for crop in given.crops] == ["P_00001", "P_00002"]


def test_unequal_pixel_spacing_keeps_lesion_and_mask_together(tmp_path: Path) -> None:
    tiny = TinyArchive(tmp_path / "archive")
    tiny.add("P_00001", PixelSpacing=[0.1, 0.05])
    (row,) = cbis_ddsm.read(tiny.write()).rows
    mammogram = read_mammogram(row.path, allow_secondary_capture=True)
    assert mammogram.pixels.shape == (2 * SHAPE[0], SHAPE[1])
    box = locate(row.region, mammogram, grey_range(mammogram), where=row.where)
    assert (box.y0, box.y1, box.x0) == (200, 280, 50)


def test_lesion_that_cannot_be_cut_is_rejected_with_its_row(tmp_path: Path) -> None:
    tiny = TinyArchive(tmp_path / "archive")
    speck = np.zeros(SHAPE, np.uint8)
    speck[110:112, 60:62] = 1
    tiny.add("P_00001", mask=speck)
    tiny.add("P_00002", image=np.full(SHAPE, 9, np.uint16))
    out = tmp_path / "out"
    with pytest.raises(ArchiveError, match=r"no record became a crop \(blank 1, too_small 1\)"):
        prepare.cbis_ddsm(root=str(tiny.write()), out=str(out), size=32)
    assert [r["reason"] for r in rejected(out)] == ["too_small", "blank"]
    small, blank = (r["message"] for r in rejected(out))
    for message in (small, blank):
        assert "train_set.csv, row" in message
    assert small.endswith(
        "Correct where it lies, in pixels of the image as it is stored, or leave the row out."
    )
    assert blank.endswith("one grey value only. Check the image, or leave the row out.")


def test_copies_of_two_patients_are_refused_or_merged_on_request(tmp_path: Path) -> None:
    tiny = TinyArchive(tmp_path / "archive")
    image = film(np.random.default_rng(5))
    tiny.add("P_00001", image=image)
    tiny.add("P_00002", image=image)
    root = str(tiny.write())
    with pytest.raises(
        DuplicateConflict, match=r"train_0002\.png and .*0003.*across_patients merge"
    ):
        prepare.cbis_ddsm(root=root, out=str(tmp_path / "a"), size=32, val_fraction=0)
    assert not (tmp_path / "a" / "crops.csv").exists()
    out = tmp_path / "out"
    manifest = prepare.cbis_ddsm(
        root=root, out=str(out), size=32, val_fraction=0, across_patients="merge"
    )
    assert [c.file for c in manifest.crops] == ["images/cbis-ddsm_train_0002.png"]
    assert [p.name for p in (out / "images").iterdir()] == ["cbis-ddsm_train_0002.png"]
    assert [(r["record"], r["reason"]) for r in rejected(out)] == [
        ("cbis-ddsm_train_0003", "duplicate")
    ]


def test_copy_in_train_and_test_is_leakage(tmp_path: Path) -> None:
    tiny = TinyArchive(tmp_path / "archive")
    image = film(np.random.default_rng(5))
    tiny.add("P_00001", image=image)
    tiny.add("P_00002", "test", image=image)
    with pytest.raises(LeakageError, match="is a copy of"):
        prepare.cbis_ddsm(root=str(tiny.write()), out=str(tmp_path / "out"), size=32)


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("size", 0, "size=0"),
        ("margin_mm", -1.0, "margin_mm=-1.0"),
        ("spacing_mm", 0.0, "spacing_mm=0.0"),
        ("val_fraction", 1.5, "val_fraction is 1.5"),
    ],
)
def test_impossible_arguments_are_named(
    archive: Path, tmp_path: Path, argument: str, value: float, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "out"), **{argument: value})  # type: ignore[arg-type]


def test_full_disk_names_the_file(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data_prep.cut_image.save_crop_image", full)
    with pytest.raises(OSError, match=r"No space left.*cbis-ddsm_train_0002\.png"):
        prepare.cbis_ddsm(root=str(archive), out=str(tmp_path / "out"))


def test_crop_folder_is_imported_exactly(tmp_path: Path) -> None:
    first = put(tmp_path, patient="P_00001", image=7, mass=2, benign=0)
    put(tmp_path, patient="P_00002", benign=1)
    put(tmp_path, patient="P_00003", benign=1, split="val")
    manifest = prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "out"))
    crop = manifest.crops[0]
    assert (crop.patient_id, crop.image_id, crop.lesion_id, crop.malignant) == (
        "P_00001",
        "7",
        "2",
        True,
    )
    assert (crop.origin, crop.crop_rule, crop.label_source) == (
        "cbis-ddsm",
        "reference-2024",
        "pathology",
    )
    assert crop.file == "images/cbis-ddsm_train_0001.png"
    assert [c.split for c in manifest.crops] == ["train", "train", "val"]
    with Image.open(first) as image:
        eight = np.array(image)
    np.testing.assert_array_equal(manifest.image(0), eight.astype(np.uint16) * 257)


def test_crops_are_shrunk_by_means_of_their_pixels(tmp_path: Path) -> None:
    source = put(tmp_path)
    odd = put(tmp_path, patient="P_00002")
    Image.fromarray(np.full((15, 15), 9, np.uint8)).save(odd)
    manifest = prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "out"), shrink=4)
    with Image.open(source) as image:
        grey = 257.0 * np.asarray(image)
    expected = [
        [grey[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].sum() / 16 for j in range(4)] for i in range(4)
    ]
    assert np.abs(manifest.pixels(0) - np.array(expected)).max() <= 0.5
    assert (
        "15 pixels along an edge cannot be shrunk 4 times"
        in (tmp_path / "out/rejected.csv").read_text()
    )
    with pytest.raises(DataError, match=r"shrink=0\. Give 1"):
        prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "none"), shrink=0)


def test_unusable_files_of_a_crop_folder_are_listed(tmp_path: Path) -> None:
    put(tmp_path, patient="P_00001")
    put(tmp_path, patient="P_00002").write_bytes(b"no PNG")
    Image.new("RGB", (16, 16)).save(put(tmp_path, patient="P_00003"))
    Image.new("L", (16, 8)).save(put(tmp_path, patient="P_00004"))
    out = tmp_path / "out"
    assert len(prepare.crop_folder(root=str(tmp_path), out=str(out)).crops) == 1
    assert [(r["record"], r["reason"]) for r in rejected(out)] == [
        ("train_0002", "unreadable"),
        ("train_0003", "not_grey"),
        ("train_0004", "not_square"),
    ]
    assert "P_0000" not in (out / "rejected.csv").read_text()
    with pytest.raises(RecordRejected, match="crop train_0002: not a whole PNG"):
        prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "strict"), strict=True)


def test_no_patient_decides_what_most_have() -> None:
    """Whatever one patient brings, two answers are never different."""
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(2000):
        patients = rng.integers(0, rng.integers(2, 12), rng.integers(1, 30)).tolist()
        values = rng.choice([8, 16], len(patients), p=[0.1, 0.9]).tolist()
        one = int(rng.integers(0, 12))
        kept = [(v, p) for v, p in zip(values, patients, strict=True) if p != one]
        if not kept:
            continue  # nobody else's crops to take out
        others = [*kept, *[(8, one)] * int(rng.integers(0, 8))]
        first, second = (
            clear_majority([v for v, _ in pairs], [f"p{p}" for _, p in pairs])
            for pairs in (list(zip(values, patients, strict=True)), others)
        )
        assert first == second or None in (first, second)
        answered += first is not None and second is not None and len(set(values)) > 1
    assert answered > 20


def test_one_odd_size_among_many_is_rejected_by_name(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, patient=f"P_{number:05d}")
    odd = put(tmp_path, patient="P_00009")
    Image.new("L", (8, 8)).save(odd)
    manifest = prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "out"))
    assert len(manifest.crops) == 4
    (found,) = rejected(tmp_path / "out")
    assert found["reason"] == "odd_size"


def test_sizes_that_differ_are_refused_unless_one_is_asked_for(tmp_path: Path) -> None:
    """If most decided, one patient more would take out the crops of all others."""
    put(tmp_path, patient="P_00001")
    for patient in ("P_00002", "P_00003"):
        Image.new("L", (8, 8)).save(put(tmp_path, patient=patient))
    with pytest.raises(ArchiveError, match=r"crops have 8 and 16 px\. Give --size"):
        prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "out"))
    manifest = prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "sized"), size=16)
    assert [crop.patient_id for crop in manifest.crops] == ["P_00001"]


def test_crops_of_another_size_than_asked_for_are_rejected_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for patient in ("P_00001", "P_00003"):
        put(tmp_path, patient=patient)
    odd = put(tmp_path, patient="P_00002")
    Image.new("L", (8, 8)).save(odd)
    (odd.parent / f"._{odd.name}").write_bytes(b"x")
    out = tmp_path / "out"
    manifest = prepare.crop_folder(root=str(tmp_path), out=str(out), size=16)
    assert len(manifest.crops) == 2
    assert not (out / "images" / "cbis-ddsm_train_0002.png").exists()
    assert 'cbis-ddsm_train_0002,odd_size,"images/cbis-ddsm_train_0002.png: 8 px, where 16' in (
        (out / "rejected.csv").read_text()
    )
    assert capsys.readouterr().out.splitlines()[-1] == (
        "found 4 = read 2 + rejected 1 (odd_size 1) + skipped 1 (helper file 1)"
    )
    with pytest.raises(RecordRejected, match="8 px, where 16 px"):
        prepare.crop_folder(root=str(tmp_path), out=str(tmp_path / "strict"), size=16, strict=True)


def make_synthetic(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        label = "malignant" if i % 2 else "benign"
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"batch_0_{i}_{label}.png")
    return folder


def test_synthetic_folder_has_no_patients_and_keeps_its_provenance(tmp_path: Path) -> None:
    root = make_synthetic(tmp_path / "released")
    (tmp_path / "origin.json").write_text('{"generator": "g"}')
    manifest = prepare.synthetic_folder(
        root=str(root),
        out=str(tmp_path / "out"),
        name="medigan-00008",
        provenance=str(tmp_path / "origin.json"),
    )
    assert [c.malignant for c in manifest.crops] == [False, True, False, True]
    assert {
        (c.patient_id, c.origin, c.label_source, c.crop_rule, c.split) for c in manifest.crops
    } == {("", "synthetic:medigan-00008", "generator", "reference-2024", "train")}
    assert (tmp_path / "out" / "provenance.json").read_text() == '{"generator": "g"}'


def test_a_provenance_in_another_code_page_is_refused(tmp_path: Path) -> None:
    root = make_synthetic(tmp_path / "released")
    (tmp_path / "from.yaml").write_bytes("generator: Universit\xe4t".encode("latin-1"))
    with pytest.raises(DataError, match=r"from\.yaml: is not UTF-8 text"):
        prepare.synthetic_folder(
            root=str(root),
            out=str(tmp_path / "out"),
            name="x",
            provenance=str(tmp_path / "from.yaml"),
        )


def test_unusable_synthetic_files_are_listed_and_bad_names_refused(tmp_path: Path) -> None:
    root = make_synthetic(tmp_path / "released")
    (root / "batch_0_9_benign.png").write_bytes(b"no PNG")
    out = tmp_path / "out"
    manifest = prepare.synthetic_folder(root=str(root), out=str(out), name="s", split="val")
    assert {c.split for c in manifest.crops} == {"val"}
    assert [r["record"] for r in rejected(out)] == ["b0000_00009_benign"]
    with pytest.raises(ValueError, match="--name 'a/b'"):
        prepare.synthetic_folder(root=str(root), out=str(out), name="a/b")


def test_phantoms_and_their_archive_go_through_the_front_door(tmp_path: Path) -> None:
    free = prepare.phantoms(out=str(tmp_path / "free"), per_class=3, size=32, seed=1)
    assert [sum(c.malignant == label for c in free.crops) for label in (False, True)] == [3, 3]
    prepare.phantom_archive(
        out=str(tmp_path / "archive"), patients=4, height=320, width=256, seed=1
    )
    manifest = prepare.cbis_ddsm(
        root=str(tmp_path / "archive"), out=str(tmp_path / "crops"), size=32, strict=True
    )
    assert {c.origin for c in manifest.crops} == {"phantom-archive"}
    assert {c.split for c in manifest.crops} >= {"train", "test"}
