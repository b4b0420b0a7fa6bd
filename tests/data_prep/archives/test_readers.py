# SPDX-License-Identifier: Apache-2.0
"""Each recipe on its miniature archive: rows, labels, patients, parts, and what it refuses."""

import os
import plistlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.archives import (
    bcdr,
    bcs_dbt,
    cbis_ddsm,
    cbis_ddsm_jpeg,
    cmmd,
    embed,
    inbreast,
    kau_bcmd,
    rsna,
    vindr,
)
from data_prep.archives.cells import chosen, labelled
from data_prep.cropping import Box
from data_prep.errors import ArchiveError, DataError, LabelError, LeakageError, ManifestError
from data_prep.lesions import ArchiveFacts, LesionTable, Mask, Outline, Slab
from tests.data_prep.archives import miniature
from tests.data_prep.archives.miniature import CORNERS, X0, X1, Y0, Y1, change

RECIPES = (bcdr, bcs_dbt, cbis_ddsm, cbis_ddsm_jpeg, cmmd, embed, inbreast, kau_bcmd, rsna, vindr)
TABLES = Path(
    os.environ.get("CBIS_DDSM_TABLES")
    or Path(__file__).resolve().parents[3].parent / "shared/data/cbis-ddsm-tables"
)
BOX = Box(X0, Y0, X1, Y1)


def labels(table: LesionTable) -> dict[str, bool | None]:
    return {row.key: row.malignant for row in table.rows}


def reasons(table: LesionTable) -> dict[str, str]:
    return {one.key: one.reason for one in table.left_out}


def test_every_recipe_states_licence_citation_and_what_it_knows() -> None:
    for recipe in RECIPES:
        facts: ArchiveFacts = recipe.FACTS
        assert facts.name
        assert facts.title
        assert facts.licence
        assert facts.citation
        assert facts.verified
        assert facts.checked


@pytest.mark.parametrize(
    "read",
    [
        lambda root: bcdr.read(root),
        lambda root: bcs_dbt.read(root),
        lambda root: cbis_ddsm.read(root),
        lambda root: cbis_ddsm_jpeg.read(root),
        lambda root: cmmd.read(root, annotations=root),
        lambda root: cmmd.read(root, annotations=None),
        lambda root: embed.read(root),
        lambda root: inbreast.read(root, label_source="birads"),
        lambda root: rsna.read(root, boxes=None),
        lambda root: rsna.read(root, boxes=root / "boxes.csv"),
        lambda root: kau_bcmd.read(root, boxes=None, label_source="birads"),
        lambda root: vindr.read(root, label_source="birads"),
    ],
)
def test_a_missing_or_empty_folder_is_an_archive_error(
    tmp_path: Path, read: Callable[[Path], LesionTable]
) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArchiveError, match=r"\.$"):
            read(root)


@pytest.mark.parametrize("read", [inbreast.read, vindr.read])
def test_assessments_are_labels_only_if_asked_for(
    tmp_path: Path, read: Callable[[Path], LesionTable]
) -> None:
    with pytest.raises(LabelError, match=r"has no pathology.*--label_source birads"):
        read(tmp_path)
    with pytest.raises(LabelError, match=r"has no pathology.*--label_source birads"):
        kau_bcmd.read(tmp_path, boxes=None)


@pytest.mark.parametrize("reads", [chosen, labelled])
def test_a_cell_of_no_known_value_is_named_and_not_shown(reads: Callable[..., object]) -> None:
    with pytest.raises(DataError) as caught:
        reads("MUELLER^ANNA", {"L": 1, "R": 2}, where="t.csv, row 2", column="side")
    assert str(caught.value).startswith("t.csv, row 2: side holds another value. ")
    assert str(caught.value).endswith(": L, R.")
    assert "ANNA" not in str(caught.value)
    with pytest.raises(DataError, match="row 2: side is empty"):
        reads(" ", {"L": 1}, where="row 2", column="side")


class TestBcsDbt:
    BOXES = "BCS-DBT-boxes-train-v2.csv"

    def test_boxes_become_rows(self, tmp_path: Path) -> None:
        table = bcs_dbt.read(miniature.bcs_dbt(tmp_path), depth=4)
        assert labels(table) == {
            "train_00002": True,
            "train_00004": False,
            "train_00005": False,
            "test_00002": True,
            "test_00003": False,
            "test_00004": False,
        }
        assert reasons(table) == {"train_00006": "no_image", "train_00003": "duplicate"}
        first, second = table.rows[:2]
        assert first.region == Slab(box=BOX, slice=3, depth=4, side="L", slices=miniature.SLICES)
        assert (first.view, first.laterality, first.split) == ("CC", "L", "train")
        assert (second.view, dict(second.attributes)) == ("MLO", {"architectural_distortion": "1"})
        assert isinstance(table.rows[-1].region, Slab)
        assert table.rows[-1].region.slices is None
        assert table.facts is bcs_dbt.FACTS
        assert not table.lesions_joined

    def test_a_phantom_archive_is_called_so(self, tmp_path: Path) -> None:
        root = miniature.bcs_dbt(tmp_path)
        (root / "PHANTOM.txt").touch()
        table = bcs_dbt.read(root)
        assert table.facts is not None
        assert table.facts.name == "phantom-archive"

    @pytest.mark.parametrize(
        ("old", "new", "error", "says"),
        [
            ("cancer", "malign", LabelError, "Class holds another value"),
            (",lcc,", ",xcc,", ArchiveError, "View is no side and view"),
            (",lcc,", ",,", ArchiveError, "View is no side and view"),
            (",3,50,", ",8,50,", ArchiveError, "Slice is 8, and VolumeSlices 8"),
            (",3,50,", ",3.5,50,", ArchiveError, "Slice is no whole number"),
            (",3,50,", ",3,nan,", ArchiveError, "X is no whole number"),
            ("Width", "Breadth", ArchiveError, "Width"),
        ],
    )
    def test_cells_are_checked(
        self, tmp_path: Path, old: str, new: str, error: type[DataError], says: str
    ) -> None:
        root = miniature.bcs_dbt(tmp_path)
        change(root / self.BOXES, old, new)
        with pytest.raises(error, match=says):
            bcs_dbt.read(root)

    def test_tables_are_checked(self, tmp_path: Path) -> None:
        root = miniature.bcs_dbt(tmp_path)
        twin = root / "BCS-DBT-boxes-train.csv"
        twin.write_bytes((root / self.BOXES).read_bytes())
        with pytest.raises(ArchiveError, match="two tables of boxes of train"):
            bcs_dbt.read(root)
        twin.unlink()
        (root / "BCS-DBT-file-paths-train-v2.csv").unlink()
        with pytest.raises(ArchiveError, match="there is no BCS-DBT-file-paths-train"):
            bcs_dbt.read(root)
        with pytest.raises(ArchiveError, match="--depth is 1"):
            bcs_dbt.read(root, depth=1)

    def test_nobody_is_in_two_parts(self, tmp_path: Path) -> None:
        root = miniature.bcs_dbt(tmp_path)
        for kind in ("boxes", "file-paths"):
            change(root / f"BCS-DBT-{kind}-test-v2.csv", "DBT-P00003", "DBT-P00001")
        (root / "Breast-Cancer-Screening-DBT" / "DBT-P00003").rename(root / "elsewhere")
        for row in ("lcc", "lmlo", "rcc"):
            source = next((root / "elsewhere" / "1.2.3").glob(f"1.3.{row}*"))
            place = root / "Breast-Cancer-Screening-DBT" / "DBT-P00001" / "1.2.3" / source.name
            place.parent.mkdir(exist_ok=True)
            source.rename(place)
        with pytest.raises(LeakageError):
            bcs_dbt.read(root)

    def test_several_files_of_one_series_are_ambiguous(self, tmp_path: Path) -> None:
        root = miniature.bcs_dbt(tmp_path)
        folder = root / "Breast-Cancer-Screening-DBT" / "DBT-P00002" / "1.2.2" / "1.3.lcc"
        (folder / "1-2.dcm").write_bytes((folder / "1-1.dcm").read_bytes())
        assert reasons(bcs_dbt.read(root))["train_00005"] == "ambiguous"


class TestCbisDdsm:
    def test_masses_are_the_default(self, tmp_path: Path) -> None:
        table = cbis_ddsm.read(miniature.cbis_ddsm(tmp_path).write())
        assert labels(table) == {
            "train_0002": True,
            "train_0003": False,
            "train_0004": False,
            "test_0002": False,
            "test_0003": True,
        }
        assert table.skipped["file of the other kind of finding"] == 12
        assert table.notes == (
            "lesions that carry both labels, in different views: 1; each crop has the label of "
            "its row",
        )

    def test_both_kinds_leave_out_patients_in_opposite_parts(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        table = cbis_ddsm.read(root, findings="both")
        assert reasons(table) == dict.fromkeys(("test_0002", "calc_train_0003"), "opposite_splits")
        assert "P_00003" not in {row.patient_id for row in table.rows}
        assert "parts with masses and with calcifications: 1; their 2 rows" in table.notes[0]
        calc = table.rows[-3]
        assert (calc.key, calc.lesion_id, calc.image_id) == (
            "calc_train_0002",
            "Lcalc1",
            "P_00001_LEFT_CC",  # the mass of this patient is in the same image
        )
        assert dict(calc.attributes) == {"density": "3", "calc_type": "IRREGULAR"}

    def test_they_become_train_or_are_refused_on_request(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        table = cbis_ddsm.read(root, findings="both", opposite_splits="train")
        assert {row.split for row in table.rows if row.patient_id == "P_00003"} == {"train"}
        assert not table.left_out
        with pytest.raises(LeakageError, match=r"their 2 rows would .*--opposite_splits"):
            cbis_ddsm.read(root, findings="both", opposite_splits="refuse")

    def test_calcifications_alone(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        table = cbis_ddsm.read(root, findings="calcifications")
        assert labels(table) == {
            "calc_train_0002": True,
            "calc_train_0003": False,
            "calc_train_0004": False,
            "calc_test_0002": True,
        }

    def test_a_table_of_the_other_kind_is_refused(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        mass, calc = (root / f"{kind}_case_description_train_set.csv" for kind in ("mass", "calc"))
        mass.write_bytes(calc.read_bytes())
        with pytest.raises(ArchiveError, match=r"row 2: abnormality type is not that of"):
            cbis_ddsm.read(root)

    def test_a_phantom_archive_says_so(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        (root / cbis_ddsm.PHANTOM_MARK).touch()
        table = cbis_ddsm.read(root)
        assert table.facts == cbis_ddsm.PHANTOM_FACTS
        assert {row.label_source for row in table.rows} == {"phantom"}

    @pytest.mark.parametrize("prefix", ["CBIS-DDSM/", "a/b/", "./"])
    def test_a_prefix_of_paths_does_not_matter(self, tmp_path: Path, prefix: str) -> None:
        root = miniature.cbis_ddsm(tmp_path).write()
        change(root / "mass_case_description_train_set.csv", "Mass-", f"{prefix}Mass-")
        assert len(cbis_ddsm.read(root).rows) == 5

    @pytest.mark.skipif(not TABLES.is_dir(), reason="the published tables are not there")
    def test_published_tables_have_the_known_numbers(self) -> None:
        rows, left_out, notes = cbis_ddsm.read_rows(
            TABLES, findings="both", opposite_splits="leave_out"
        )
        assert "calcifications: 31; their 143 rows" in notes[0]
        assert "in different views: 3;" in notes[1]
        assert Counter(one.reason for one in left_out) == {"opposite_splits": 143}
        assert len(rows) == 1318 + 378 + 1546 + 326 - 143
        rows, left_out, _ = cbis_ddsm.read_rows(TABLES, findings="both", opposite_splits="train")
        assert not left_out
        assert len({row.lesion.patient_id for row in rows}) == 1566
        for findings, sizes, malignant in (
            ("masses", {"train": (1318, 691), "test": (378, 201)}, 784),
            ("calcifications", {"train": (1546, 602), "test": (326, 151)}, 673),
        ):
            rows, left_out, _ = cbis_ddsm.read_rows(
                TABLES,
                findings=findings,  # type: ignore[arg-type]
                opposite_splits="refuse",
            )
            assert not left_out
            assert sum(bool(row.lesion.malignant) for row in rows) == malignant
            for part, (count, patients) in sizes.items():
                own = [row.lesion for row in rows if row.part == part]
                assert (len(own), len({row.patient_id for row in own})) == (count, patients)
            assert all(row.image_series and row.mask_series for row in rows)


class TestCbisDdsmJpeg:
    def test_roles_come_from_dicom_info(self, tmp_path: Path) -> None:
        table = cbis_ddsm_jpeg.read(miniature.cbis_ddsm_jpeg(tmp_path))
        assert labels(table) == {"train_0002": True, "train_0003": False, "test_0002": False}
        for row in table.rows:
            assert isinstance(row.region, Mask)
            assert row.region.threshold == 0.5
            assert [path.name[:2] for path in row.region.path] == ["2-"]
            assert [path.name[:3] for path in row.region.supplied_crop] == ["1-1"]
        assert table.facts is not None
        assert table.facts.name == "cbis-ddsm"  # the same patients

    def test_files_that_are_missing_or_unknown_are_counted(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm_jpeg(tmp_path)
        images = sorted(root.glob("jpeg/*/1-00?.jpg"), key=lambda path: path.name)
        images[0].unlink()
        (mask,) = root.glob("jpeg/*/2-002.jpg")
        mask.rename(mask.with_name("odd.jpg"))
        table = cbis_ddsm_jpeg.read(root)
        assert reasons(table) == {"train_0002": "no_image", "train_0003": "no_mask"}
        assert table.skipped["file that dicom_info.csv does not name"] == 1

    def test_files_that_are_not_described_are_known_by_their_series(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm_jpeg(tmp_path)
        described = cbis_ddsm_jpeg.read(root)
        info = root / "csv" / "dicom_info.csv"
        for description in ("full mammogram images", "ROI mask images"):
            change(info, description, "")
        table = cbis_ddsm_jpeg.read(root)
        assert table.rows == described.rows
        change(info, "cropped images", "")  # the mask may now be either, and its size tells
        first, second, _ = cbis_ddsm_jpeg.read(root).rows
        assert first.path == described.rows[0].path
        for row, known in zip((first, second), described.rows, strict=False):
            assert isinstance(row.region, Mask)
            assert isinstance(known.region, Mask)
            assert set(row.region.path) == {*known.region.path, *known.region.supplied_crop}

    def test_another_description_or_no_table_stops(self, tmp_path: Path) -> None:
        root = miniature.cbis_ddsm_jpeg(tmp_path)
        info = root / "csv" / "dicom_info.csv"
        change(info, "cropped images", "thumbnails")
        with pytest.raises(ArchiveError, match=r"row 3: SeriesDescription holds another value"):
            cbis_ddsm_jpeg.read(root)
        info.unlink()
        with pytest.raises(ArchiveError, match=r"holds no dicom_info\.csv"):
            cbis_ddsm_jpeg.read(root)


class TestBcdr:
    def test_subsets_are_read_together(self, tmp_path: Path) -> None:
        table = bcdr.read(miniature.bcdr(tmp_path))
        assert labels(table) == {
            "D01_0002": True,
            "D01_0003": False,
            "F01_0002": True,
            "F01_0003": True,
            "F01_0004": False,
        }
        assert reasons(table) == {"D01_0004": "too_small", "F01_0005": "mask_mismatch"}
        assert table.skipped == {"another kind of finding": 1}
        first, second = table.rows[2:4]
        assert first.region == Outline(tuple((float(x), float(y)) for x, y in CORNERS))
        assert (first.patient_id, first.lesion_id) == (second.patient_id, second.lesion_id)
        assert (first.laterality, first.view, second.view) == ("L", "CC", "MLO")
        assert dict(first.attributes) == {"density": "2"}
        assert not second.attributes  # NaN
        assert first.split is None

    def test_calcifications_have_no_nodule(self, tmp_path: Path) -> None:
        root = miniature.bcdr(tmp_path)
        assert set(labels(bcdr.read(root, findings="calcifications"))) == {"F01_0006"}
        assert len(bcdr.read(root, findings="both").rows) == 6

    def test_helper_files_are_counted(self, tmp_path: Path) -> None:
        root = miniature.bcdr(tmp_path)
        (root / "._bcdr_f01_outlines.csv").write_bytes(b"\0\5\26\7")
        assert bcdr.read(root).skipped["helper file"] == 1

    @pytest.mark.parametrize(
        ("old", "new", "error", "says"),
        [
            (" Malign ", "Suspect", LabelError, "row 2: classification holds another value"),
            (",1,2, patient", ",1,9, patient", ArchiveError, "image_view holds another"),
            ("lw_x_points", "points", ArchiveError, "lw_x_points"),
            (",50,2,", ",50,2,7,", ArchiveError, "row 2"),
        ],
    )
    def test_what_is_not_as_known_stops(
        self, tmp_path: Path, old: str, new: str, error: type[DataError], says: str
    ) -> None:
        root = miniature.bcdr(tmp_path)
        (path,) = root.rglob("bcdr_f01_outlines.csv")
        change(path, old, new)
        with pytest.raises(error, match=says):
            bcdr.read(root)

    def test_a_subset_twice_stops_and_a_missing_image_is_left_out(self, tmp_path: Path) -> None:
        root = miniature.bcdr(tmp_path)
        (image,) = root.rglob("img_2_102_1_RCC.tif")
        image.unlink()
        table = bcdr.read(root)
        assert reasons(table)["F01_0004"] == "no_image"
        (path,) = root.rglob("bcdr_f01_outlines.csv")
        (root / path.name).write_bytes(path.read_bytes())
        with pytest.raises(ArchiveError, match="second table of subset F01"):
            bcdr.read(root)

    def test_one_lesion_with_two_labels_is_a_conflict(self, tmp_path: Path) -> None:
        root = miniature.bcdr(tmp_path)
        (path,) = root.rglob("bcdr_f01_outlines.csv")
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, lines[1].replace("Malign", "Benign"), lines[3]]))
        table = bcdr.read(root)
        found = reasons(table)
        assert (found["F01_0002"], found["F01_0007"], found["F01_0008"]) == (
            "conflict",
            "conflict",
            "duplicate",
        )
        assert "F01_0004" in labels(table)

    def test_ids_are_compared_before_rows(self, tmp_path: Path) -> None:
        root = miniature.bcdr(tmp_path)
        (path,) = root.rglob("bcdr_f01_outlines.csv")
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, f"1+{lines[1][1:]}"]))
        with pytest.raises(ManifestError, match=r"row 2 and .*row 7: patient ids that differ"):
            bcdr.read(root)

    @pytest.mark.parametrize("label", ["Malign", "Benign"])
    def test_a_row_of_another_patient_takes_no_lesion_out(self, tmp_path: Path, label: str) -> None:
        root = miniature.bcdr(tmp_path)
        (path,) = root.rglob("bcdr_f01_outlines.csv")
        lines = path.read_text().splitlines(keepends=True)
        assert lines[1].startswith("1,")
        other = "9" + lines[1][1:].replace("Malign", label)
        path.write_text("".join([*lines, other]))
        with pytest.raises(ArchiveError, match=r"row 2 and .*row 7: one file of two patients"):
            bcdr.read(root)


class TestInbreast:
    def test_masses_of_either_spelling(self, tmp_path: Path) -> None:
        table = inbreast.read(miniature.inbreast(tmp_path), label_source="birads")
        assert labels(table) == {
            "0002_01": True,
            "0003_01": True,
            "0004_01": False,
            "0005_01": False,
        }
        assert reasons(table) == {"0004_02": "too_small"}
        assert {row.label_source for row in table.rows} == {"birads"}
        first, second = table.rows[:2]
        assert first.patient_id == second.patient_id == "6c613a14b80a8591"
        assert (second.view, second.laterality) == ("MLO", "L")
        assert first.region == Outline(tuple((float(x), float(y)) for x, y in CORNERS))
        assert dict(first.attributes) == {"density": "2"}
        assert not table.rows[3].attributes  # a blank
        assert table.skipped == {
            "another kind of file": 1,
            "another kind of finding": 1,
            "image without annotation": 1,
            "row without a file name, such as a total": 1,
        }

    @pytest.mark.parametrize(
        ("old", "new", "error", "says"),
        [
            (";5", ";0", LabelError, "row 2: Bi-Rads holds another value"),
            ("removed;R;CC", "removed;L;CC", ArchiveError, "row 2: Laterality is L, the name"),
            ("removed;R;CC", "removed;X;CC", ArchiveError, "row 2: Laterality holds another value"),
            ("Bi-Rads", "Assessment", ArchiveError, "Bi-Rads"),
            ("20586934", "20586908", ArchiveError, "row 3: has the File Name of INbreast.csv, ro"),
        ],
    )
    def test_what_is_not_as_known_stops(
        self, tmp_path: Path, old: str, new: str, error: type[DataError], says: str
    ) -> None:
        root = miniature.inbreast(tmp_path)
        change(root / "INbreast.csv", old, new)
        with pytest.raises(error, match=says):
            inbreast.read(root, label_source="birads")

    def test_names_tell_the_patient_or_stop(self, tmp_path: Path) -> None:
        root = miniature.inbreast(tmp_path)
        (path,) = root.glob("AllDICOMs/20586908*")
        copy = root / path.name
        copy.write_bytes(path.read_bytes())
        with pytest.raises(ArchiveError, match="is there twice"):
            inbreast.read(root, label_source="birads")
        copy.unlink()
        path.rename(path.with_name("20586908.dcm"))
        with pytest.raises(ArchiveError, match="its patient is unknown") as caught:
            inbreast.read(root, label_source="birads")
        assert "20586908" not in str(caught.value)

    def test_a_damaged_or_hostile_list_costs_its_image(self, tmp_path: Path) -> None:
        root = miniature.inbreast(tmp_path)
        xml = {path.stem: path for path in root.glob("AllXML/*.xml")}
        bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10))
        xml["20586908"].write_text(
            f'<?xml version="1.0"?><!DOCTYPE plist [{bomb}]><plist><string>&e9;</string></plist>'
        )
        xml["20586934"].write_bytes(xml["20586934"].read_bytes()[:-40])
        xml["20586960"].write_bytes(plistlib.dumps({"Images": []}))
        xml["20586986"].write_bytes(b"")
        table = inbreast.read(root, label_source="birads")
        assert not table.rows
        assert reasons(table) == dict.fromkeys(("0002", "0003", "0004", "0005"), "unreadable")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"NumberOfPoints": 5},
            {"Point_px": ["(1, 2)", "(3, 4)", "exit()"]},
            {"Point_px": ["(1, 2)", "(3, 4)", "(nan, inf)"]},
            {"Point_px": "(1, 2)"},
        ],
    )
    def test_a_region_that_is_not_as_known_is_left_out(
        self, tmp_path: Path, wrong: dict[str, object]
    ) -> None:
        root = miniature.inbreast(tmp_path)
        (path,) = root.glob("AllXML/20586908.xml")
        lists = plistlib.loads(path.read_bytes())
        lists["Images"][0]["ROIs"][0] |= wrong
        path.write_bytes(plistlib.dumps(lists))
        table = inbreast.read(root, label_source="birads")
        assert reasons(table)["0002_01"] == "mask_mismatch"

    def test_a_missing_image_is_left_out(self, tmp_path: Path) -> None:
        root = miniature.inbreast(tmp_path)
        (path,) = root.glob("AllDICOMs/20586908*")
        path.unlink()
        table = inbreast.read(root, label_source="birads")
        assert reasons(table)["0002_01"] == "no_image"


class TestVindr:
    def test_masses_with_boxes(self, tmp_path: Path) -> None:
        table = vindr.read(miniature.vindr(tmp_path), label_source="birads")
        assert labels(table) == {"train_00002": True, "train_00004": False, "test_00005": True}
        assert [row.split for row in table.rows] == ["train", "train", "test"]
        first, second, _ = table.rows
        assert first.region == Box(X0, Y0 - 1, X1, Y1)
        assert isinstance(second.region, Box)
        assert second.region.x0 == -8  # clipped when it is located
        assert (first.patient_id, first.image_id, first.view) == ("aa11", "i1", "CC")
        assert dict(first.attributes) == {"density": "3"}
        assert first.label_source == "birads"
        assert table.skipped["another kind of finding, or none"] == 2

    @pytest.mark.parametrize(
        ("old", "new", "error", "says"),
        [
            (",BI-RADS 4,50.25", ",BI-RADS 0,50.25", LabelError, "row 2: finding_birads"),
            (",260,200,", ",520,400,", ArchiveError, "row 2: its file has another number of pix"),
            ("training", "validation", ArchiveError, "row 2: split holds another value"),
            (",50.25,", ",left,", ArchiveError, "row 2: xmin is no number of pixels"),
            ("cc33,s,i4", "aa11,s,i1", LeakageError, "row 5"),
            ("xmin", "x", ArchiveError, "xmin"),
        ],
    )
    def test_what_is_not_as_known_stops(
        self, tmp_path: Path, old: str, new: str, error: type[DataError], says: str
    ) -> None:
        root = miniature.vindr(tmp_path)
        change(root / "finding_annotations.csv", old, new)
        with pytest.raises(error, match=says):
            vindr.read(root, label_source="birads")

    @pytest.mark.parametrize(
        ("birads", "reason"), [("BI-RADS 4", "duplicate"), ("BI-RADS 3", "conflict")]
    )
    def test_a_box_that_is_listed_twice_is_one_lesion(
        self, tmp_path: Path, birads: str, reason: str
    ) -> None:
        root = miniature.vindr(tmp_path)
        path = root / "finding_annotations.csv"
        row = path.read_text().splitlines()[1].replace(",BI-RADS 4,50", f",{birads},50")
        path.write_text(f"{path.read_text()}{row}\n")
        assert reasons(vindr.read(root, label_source="birads"))["train_00007"] == reason

    def test_a_missing_image_is_left_out(self, tmp_path: Path) -> None:
        root = miniature.vindr(tmp_path)
        (root / "images" / "bb22" / "i3.dicom").unlink()
        table = vindr.read(root, label_source="birads")
        assert reasons(table) == {"train_00004": "no_image"}


class TestCmmd:
    def test_outlines_of_mlo_views(self, tmp_path: Path) -> None:
        root, annotations = miniature.cmmd(tmp_path)
        table = cmmd.read(root, annotations=annotations)
        masses = {"file_00001_01": False, "file_00002_01": True, "file_00004_01": True}
        assert labels(table) == masses
        first, second, _ = table.rows
        assert first.patient_id == second.patient_id == "D1-0001"
        assert (first.laterality, first.view, second.laterality) == ("L", "MLO", "R")
        assert first.label_source == "pathology"
        assert isinstance(first.region, Outline)
        assert first.region.points[0] == (BOX.x0, BOX.y0)
        assert "D1-" not in first.where
        assert table.skipped == {
            "helper file": 1,
            "file beside the annotations": 1,
            "another kind of finding": 3,
        }
        assert reasons(table) == {"file_00004_03": "conflict"}  # FA in a malignant breast
        calcifications = {"file_00003_01": False, "file_00004_02": True}
        found = cmmd.read(root, annotations=annotations, findings="calcifications")
        assert labels(found) == calcifications
        both = cmmd.read(root, annotations=annotations, findings="both")
        assert labels(both) == masses | calcifications

    def test_without_annotations_there_are_no_crops(self, tmp_path: Path) -> None:
        root, _ = miniature.cmmd(tmp_path)
        with pytest.raises(ArchiveError, match=r"not where\. Give --annotations"):
            cmmd.read(root, annotations=None)
        (tmp_path / "masks").mkdir()
        with pytest.raises(ArchiveError, match="holds no file such as"):
            cmmd.read(root, annotations=tmp_path / "masks")

    def test_labels_images_and_sides_are_certain_or_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, annotations = miniature.cmmd(tmp_path)
        rows = [
            {"ID1": case, "LeftRight": side, "classification": label}
            for case, side, label in (
                ("D1-0001", "L", "Benign"),
                ("D1-0001", "L", "Malignant"),
                ("D1-0001", "R", "Malignant"),
                ("D1-0002", "L", "Benign"),
            )
        ]
        (root / "CMMD_clinicaldata_revision.xlsx").unlink()
        miniature.write_table(root / "CMMD_clinicaldata_revision_CSV.csv", rows, delimiter=";")
        mlo = next((root / "CMMD" / "D1-0001").rglob("1-4.dcm"))
        (mlo.parent / "1-5.dcm").write_bytes(mlo.read_bytes())
        next((root / "CMMD" / "D1-0002").rglob("1-2.dcm")).unlink()
        table = cmmd.read(root, annotations=annotations, findings="both")
        found = {
            "file_00001": "conflict",
            "file_00002": "ambiguous",
            "file_00003": "no_image",
            "file_00004": "no_label",
        }
        assert reasons(table) == found
        monkeypatch.setattr(cmmd, "SIDES_IN_DOUBT", {"D1-0001"})
        table = cmmd.read(root, annotations=annotations, findings="both")
        assert reasons(table) == found | {"file_00002": "conflict"}

    def test_a_damaged_outline_costs_itself(self, tmp_path: Path) -> None:
        root, annotations = miniature.cmmd(tmp_path)
        whole = miniature.outlined("mass")
        damaged: list[object] = [None, 7, [1, 2], [{"x": 1}] * 3, [{"x": "a", "y": 1}] * 3]
        damaged += [[{"x": float("nan"), "y": 1}] * 3, [{"x": 1e400, "y": 1}] * 3]
        outlines = [whole, *(whole | {"cgPoints": points} for points in damaged)]
        outlines.append(whole | {"cgPoints": [{"x": 1, "y": 1}] * 2})
        name = "D1-0001_MLO_L_AnnotationFile.json"
        miniature.write_outlines(annotations / name, outlines)
        (annotations / "D1-0001_MLO_R_AnnotationFile.json").write_bytes(b'[{"label": "mass"')
        (annotations / "D1-0002_MLO_L_AnnotationFile.json").write_bytes(b'{"label": "mass"}')
        table = cmmd.read(root, annotations=annotations)
        assert labels(table) == {"file_00001_01": False, "file_00004_01": True}
        assert reasons(table) == {
            "file_00002": "unreadable",
            "file_00003": "unreadable",
            "file_00004_03": "conflict",
            **{f"file_00001_{number:02d}": "mask_mismatch" for number in range(2, 9)},
            "file_00001_09": "too_small",
        }

    def test_what_is_not_as_known_stops(self, tmp_path: Path) -> None:
        root, annotations = miniature.cmmd(tmp_path)
        odd = annotations / "patient one.json"
        odd.write_bytes(b"")
        with pytest.raises(ArchiveError, match="has not a name such as") as caught:
            cmmd.read(root, annotations=annotations)
        assert "patient one" not in str(caught.value)
        odd.unlink()
        name = annotations / "D1-0001_MLO_L_AnnotationFile.json"
        miniature.write_outlines(name, [miniature.outlined("cyst")])
        with pytest.raises(ArchiveError, match=r"file 1 .* outline 1: label holds another value"):
            cmmd.read(root, annotations=annotations)
        miniature.write_outlines(name, [miniature.outlined("mass")])
        (root / "CMMD_clinicaldata_revision.xlsx").unlink()
        row = {"ID1": "D1-0001", "LeftRight": "L", "classification": "?"}
        table = root / "CMMD_clinicaldata_revision.csv"
        for cells, error, says in (
            ({}, LabelError, r"row 2: classification holds another value"),
            ({"LeftRight": "B", "classification": "benign"}, ArchiveError, "LeftRight holds"),
            ({"ID1": "1"}, ArchiveError, "ID1 is not of the form"),
        ):
            miniature.write_table(table, [row | cells])
            with pytest.raises(error, match=says):
                cmmd.read(root, annotations=annotations)


class TestEmbed:
    def test_only_certain_labels_are_read(self, tmp_path: Path) -> None:
        table = embed.read(miniature.embed(tmp_path))
        assert labels(table) == {"000002_01": True, "000005_01": False, "000005_02": False}
        assert reasons(table) == {"000007": "ambiguous"}
        assert table.skipped == {
            "image that is not 2D": 1,
            "spot or magnification view": 1,
            "image without a region": 1,
            "image whose findings have no pathology, or one that is neither": 2,
            "image whose regions are of another image (match_level)": 1,
        }
        first = table.rows[0]
        assert first.region == BOX  # ymin, xmin, ymax, xmax in the table
        assert dict(first.attributes) == {"density": "2", "shape": "I", "margin": "S"}
        assert first.patient_id == "1"
        assert table.facts is not None
        assert table.facts.name == "embed"

    def test_masses_are_told_from_other_findings(self, tmp_path: Path) -> None:
        root = miniature.embed(tmp_path)
        clinical = root / "tables" / "EMBED_OpenData_clinical.csv"
        change(clinical, "1,1001,1,L,2.0,S,I,S,L,", "1,1001,1,L,2.0,S,,,L,")
        assert "000002_01" not in labels(embed.read(root))
        assert "000002_01" in labels(embed.read(root, findings="any"))

    def test_males_and_missing_files_are_left_out(self, tmp_path: Path) -> None:
        root = miniature.embed(tmp_path)
        change(root / "tables" / "EMBED_OpenData_clinical.csv", "1,1001,1,L,2.0", "1,1001,1,L,5.0")
        for path in (root / "images" / "cohort_1" / "2").rglob("*.dcm"):
            path.unlink()
        table = embed.read(root)
        assert not table.rows
        assert reasons(table)["000005"] == "no_image"

    @pytest.mark.parametrize(
        ("table", "old", "new", "error", "says"),
        [
            ("clinical", "L,0.0", "L,9.0", LabelError, "row 2: path_severity holds another value"),
            ("clinical", "1001,1,L,", "1001,1,Q,", ArchiveError, "row 2: side holds another value"),
            ("metadata", "[1]", '"[1, 1]"', ArchiveError, "row 2: ROI_coords has 4 numbers"),
            ("metadata", "2D,L", "2D,U", ArchiveError, "ImageLateralityFinal holds another"),
            ("metadata", "match_level", "level", ArchiveError, "match_level"),
        ],
    )
    def test_what_is_not_as_known_stops(
        self, tmp_path: Path, table: str, old: str, new: str, error: type[DataError], says: str
    ) -> None:
        root = miniature.embed(tmp_path)
        change(root / "tables" / f"EMBED_OpenData_{table}.csv", old, new)
        with pytest.raises(error, match=says):
            embed.read(root)


class TestRsna:
    def test_boxes_take_the_label_of_their_breast(self, tmp_path: Path) -> None:
        root, boxes = miniature.rsna(tmp_path)
        table = rsna.read(root, boxes=boxes)
        assert labels(table) == {"row_0002": True, "row_0003": True, "row_0004": False}
        first, second, third = table.rows
        assert first.region == BOX
        assert second.region == Box(20, 160, 51, 190)
        assert first.lesion_id != second.lesion_id
        assert (third.patient_id, third.laterality, third.view) == ("11", "R", "MLO")
        assert {row.label_source for row in table.rows} == {"image"}
        assert dict(first.attributes) == {"density": "2"}
        assert table.skipped == {"image without a box": 1}

    def test_what_does_not_fit_stops(self, tmp_path: Path) -> None:
        root, boxes = miniature.rsna(tmp_path)
        images = root / "train_images"
        (images / "10" / "502.dcm").write_bytes((images / "11" / "502.dcm").read_bytes())
        change(boxes, "11/502.dcm", "10/502.dcm")
        with pytest.raises(ArchiveError, match="row 4: file is no image of train"):
            rsna.read(root, boxes=boxes)
        change(boxes, "10/502.dcm", "11/502.dcm")
        change(root / "train.csv", "11,502,R,MLO,61.0,0", "11,502,R,MLO,61.0,2")
        with pytest.raises(LabelError, match="row 3: cancer holds another value"):
            rsna.read(root, boxes=boxes)

    def test_a_missing_image_or_box_is_left_out(self, tmp_path: Path) -> None:
        root, boxes = miniature.rsna(tmp_path)
        (root / "train_images" / "11" / "502.dcm").unlink()
        change(boxes, "10/501.dcm,50,", "10/501.dcm,,")
        assert reasons(rsna.read(root, boxes=boxes)) == {
            "row_0002": "no_box",
            "row_0004": "no_image",
        }


class TestKauBcmd:
    def test_folders_are_assessments(self, tmp_path: Path) -> None:
        root, boxes = miniature.kau_bcmd(tmp_path)
        table = kau_bcmd.read(root, boxes=boxes, label_source="birads")
        assert labels(table) == {"row_0002": False, "row_0003": True, "row_0004": True}
        assert [row.patient_id for row in table.rows] == ["k0", "k1", "k2"]
        assert {row.label_source for row in table.rows} == {"birads"}
        assert not table.rows[0].attributes

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            (";k1;", ";;", "row 3: patient is empty"),
            (";patient;", ";person;", "no column patient"),
            (";CC;R", ";CC;B", "column laterality holds another word"),
        ],
    )
    def test_what_is_not_as_known_stops(
        self, tmp_path: Path, old: str, new: str, says: str
    ) -> None:
        root, boxes = miniature.kau_bcmd(tmp_path)
        change(boxes, old, new)
        with pytest.raises(ArchiveError, match=says):
            kau_bcmd.read(root, boxes=boxes, label_source="birads")

    def test_a_folder_without_assessment_stops(self, tmp_path: Path) -> None:
        root, boxes = miniature.kau_bcmd(tmp_path)
        (root / "Birad5").rename(root / "others")
        change(boxes, "Birad5/", "others/")
        with pytest.raises(ArchiveError, match="row 4: 0 folders of its image are named"):
            kau_bcmd.read(root, boxes=boxes, label_source="birads")

    def test_a_box_of_another_patient_takes_none_out(self, tmp_path: Path) -> None:
        root, boxes = miniature.kau_bcmd(tmp_path)
        header, *lines = boxes.read_text(encoding="utf-8").splitlines()
        named = [f"{header};lesion", *(f"{line};1" for line in lines)]
        named.insert(1, named[1].replace(";k0;", ";k9;"))
        boxes.write_text("\n".join(named) + "\n", encoding="utf-8")
        with pytest.raises(ArchiveError, match=r"row 2 and .*row 3: one file of two patients"):
            kau_bcmd.read(root, boxes=boxes, label_source="birads")

    def test_missing_files_are_left_out(self, tmp_path: Path) -> None:
        root, boxes = miniature.kau_bcmd(tmp_path)
        (root / "BIRAD1" / "b1" / "one_CC_L.jpg").unlink()
        table = kau_bcmd.read(root, boxes=boxes, label_source="birads")
        assert reasons(table) == {"row_0002": "no_image"}
