# SPDX-License-Identifier: Apache-2.0
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data_prep.datamodule import CropBatch, CropsDataset
from data_prep.errors import LeakageError, ManifestError
from data_prep.identity import normalised, patient_identity, require_told_apart
from data_prep.manifest import CropsManifest
from data_prep.splits import check_patients, patient_share
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.training.gradients.methods import LoopSums
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.sampling import PoissonSampling
from tests.fixtures import write_cohort

SPELLINGS = [
    "P_00001",
    "p-00001",
    " P 00001 ",
    "P.00001",
    "P/00001",
    "P:00001",
    "P\u201000001",  # hyphen
    "P\u00a0000\u200b01",  # blank that does not break, and one of no width
    "\uff30_\uff10\uff10\uff10\uff10\uff11",  # full width
    "P__0-0-0 01",
]
UNSEEN = (
    "\u034f\u115f\u1160\u17b4\u180b\u180e\u200d\u2060\u2065\u3164\ufe00\ufe0f\ufeff\uffa0\U000e0100"
)
ACCENTED = "Müller-Ångström 7"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_number_are_one_patient(spelling: str) -> None:
    assert patient_identity("CBIS-DDSM", spelling) == patient_identity("cbis_ddsm", "P_00001")
    assert patient_share(spelling) == patient_share("P_00001")
    with pytest.raises(LeakageError):
        check_patients([("P_00001", "train", "row 1"), (spelling, "val", "row 2")])


@pytest.mark.parametrize("unseen", UNSEEN)
def test_characters_that_nobody_sees_make_no_other_patient(unseen: str) -> None:
    for spelling in (f"{unseen}P1", f"P{unseen}1", f"P1{unseen}"):
        assert patient_identity("a", spelling) == patient_identity("a", "P1")
        require_told_apart([("a", "P1", "row 2"), ("a", spelling, "row 3")])
    require_told_apart([("a", "12", "row 2"), ("a", f"1{unseen}2", "row 3")])


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_unicode_forms_are_one_name(form: str) -> None:
    spelt = unicodedata.normalize(form, ACCENTED)  # type: ignore[arg-type]
    assert normalised(spelt.upper()) == normalised(ACCENTED)


@pytest.mark.parametrize(
    ("one", "other"),
    [("P_00001", "P_00002"), ("P_1", "P_10"), ("P_1", "Q_1"), ("Müller", "Muller")],
)
def test_other_numbers_are_other_patients(one: str, other: str) -> None:
    assert patient_identity("a", one) != patient_identity("a", other)
    assert patient_identity("a", one) != patient_identity("b", one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0007", "7"),
        ("P_01", "P_1"),
        ("12", "12.0"),
        ("12", "12.0000"),
        ("1000", "1E3"),
        ("3.1", "3.10"),
        ("1", "\u0661\u066b\u0660"),  # with the decimal sign of Arabic
        ("\u0661\u0662", "12"),  # Arabic digits
        ("\u0967", "1"),  # Devanagari
        ("\u0130\u01311", "I i 1"),  # capital and small i of Turkish
        ("e\u200b\u0301", "\u00e9"),  # a character that nobody sees before an accent
        ("\u041c\u041a-0", "MK-0"),  # Cyrillic capitals
        ("\u0440-7", "p-7"),  # a small letter of Cyrillic
        ("\u0391\u039d7", "AN7"),  # Greek capitals
        ("\u0451", "\u00eb"),  # with its dots
    ],
)
def test_what_programs_add_to_numbers_makes_no_other_patient(one: str, other: str) -> None:
    """One table of a hospital has the zeros, another lost them."""
    assert patient_identity("a", one) == patient_identity("a", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1-11", "11-1"),
        ("7", "007"),
        ("P_1", "P_01"),
        ("12", "12.0"),
        ("120", "12.0"),
        ("1000", "1e3"),
        ("3.1", "3.10"),
        ("\u01311", "i1"),
    ],
)
def test_ids_that_could_be_of_one_patient_or_of_two_are_refused_where_they_meet(
    one: str, other: str
) -> None:
    with pytest.raises(ManifestError, match=r"^row 2 and row 4: patient ids that differ") as caught:
        require_told_apart([("a", one, "row 2"), ("a", "q", "row 3"), ("a", other, "row 4")])
    assert one not in str(caught.value).removeprefix("row 2 and row 4")
    require_told_apart([("a", one, "row 2"), ("b", other, "row 3"), ("", "", "row 4")])


@pytest.mark.parametrize(
    ("one", "other"), [("17", "17+"), ("17+", "17-"), ("17*", "17#"), ("#17", "17"), ("A(1)", "A1")]
)
def test_ids_that_differ_in_a_sign_alone_are_refused_where_they_meet(one: str, other: str) -> None:
    assert patient_identity("a", one) == patient_identity("a", other)
    with pytest.raises(ManifestError, match=r"^row 2 and row 4: patient ids that differ in a sign"):
        require_told_apart([("a", one, "row 2"), ("a", "q", "row 3"), ("a", other, "row 4")])
    require_told_apart([("a", one, "row 2"), ("b", other, "row 3")])
    require_told_apart([("a", one, "row 2"), ("a", f"{one}8", "row 3"), ("a", one, "row 4")])


def test_separators_tell_nobody_apart() -> None:
    ids = [f"P{one}1" for one in "-_./:,; \\\u2010\u2013\u2212\u00a0\u203f\u00b7"]
    require_told_apart([("a", name, f"row {at}") for at, name in enumerate(["P1", *ids], 2)])
    assert {patient_identity("a", name) for name in ids} == {patient_identity("a", "P1")}


@pytest.mark.parametrize(
    ("latin", "other"),
    [
        ("PAM-12", "\u0420\u0410\u041c-12"),  # Cyrillic capitals
        ("pac7", "\u0440\u0430\u04417"),  # small letters
        ("BX7", "\u0392\u03a77"),  # Greek capitals
        ("vo1", "\u03bd\u03bf1"),
        ("NO1", "\u039d\u039f1"),  # the same letters of Greek, in capitals
        ("\u00cb-1", "\u0401-1"),  # with two dots
        ("317", "\u041717"),  # a letter like a digit
    ],
)
def test_ids_that_look_alike_are_refused_where_they_meet(latin: str, other: str) -> None:
    """Keyboards of several alphabets have keys with one picture."""
    assert normalised(latin) != normalised(other)
    for one, two in ((latin, other), (other, latin)):
        with pytest.raises(ManifestError, match=r"^row 2 and row 4: patient ids that look alike"):
            require_told_apart([("a", one, "row 2"), ("a", "q", "row 3"), ("a", two, "row 4")])
    require_told_apart([("a", latin, "row 2"), ("b", other, "row 3")])


@pytest.mark.parametrize("mixed", ["\u0420AM-12", "PAM-\u0410", "P\u03911", "\u0391\u04101"])
def test_an_id_of_several_alphabets_is_refused(mixed: str) -> None:
    with pytest.raises(ManifestError, match=r"^row 2: a patient id with letters of [A-Z]+ and"):
        require_told_apart([("a", mixed, "row 2")])


def test_ids_of_one_alphabet_are_taken() -> None:
    cyrillic = [
        "\u0418\u0411-12",
        "\u0420\u0410\u041c-12",
        "\u0443\u043c1",
        "\u04af\u043c1",
        "\u2116 7",
    ]
    greek = ["\u0391\u03981", "\u03bd\u03bf\u03c32", "\u039d\u03a3\u03a37"]
    others = ["\u60a3\u8005A1", "\u0418\u0411 \u2116 14", "1\u00b5", "P1", "12"]
    ids = [*cyrillic, *greek, *others]
    require_told_apart([("a", name, f"row {at}") for at, name in enumerate(ids)])
    assert len({patient_identity("a", name) for name in ids}) == len(ids)


@pytest.mark.parametrize(
    "spelling",
    [
        "12.000",
        "12,000",
        "1.200",
        "1.000,00",
        "1,200.0",
        "P1.0",
        "P-12,00",
        "1.2E+05",
        "3e+2",
        "1.2e5",
    ],
)
def test_ids_that_a_program_made_of_a_number_are_refused(spelling: str) -> None:
    with pytest.raises(ManifestError, match=r"^row 2: a patient id that ends in zeros after"):
        require_told_apart([("a", spelling, "row 2")])


@pytest.mark.parametrize(
    "spelling",
    ["1.2.840.10008.0", "12.5", "12E5", "3f8e07a1", "A-1-0", "P3.10", "100", "1.20", "1.234"],
)
def test_other_ids_with_points_and_letters_are_taken(spelling: str) -> None:
    ids = [spelling, f"{spelling}7"]
    require_told_apart([("a", name, "row 2") for name in ids])
    assert len({patient_identity("a", name) for name in ids}) == 2


def test_two_patients_under_one_identity_share_a_clip_and_are_refused(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    """Each of them alone moves the common gradient by two clipping norms, not by one."""
    image = torch.tensor([[100.0, 0.0], [-10.0, 0.0]])
    net, total = nn.Linear(2, 1, bias=False), torch.zeros(2, 1, 2)
    for left_out in (0, 1):
        rows = torch.arange(left_out, 2)
        batch = CropBatch(image[rows], rows, rows, torch.zeros_like(rows))
        LoopSums(net, 8).accumulate(
            lambda batch: net(batch.image)[:, 0], batch, [total[left_out]], Clip(norm=1.0)
        )
    assert float((total[0] - total[1]).norm()) == pytest.approx(2)
    names = dict(
        zip(sorted({crop.patient_id for crop in cohort.crops}), ("1-11", "11-1"), strict=False)
    )
    crops = [replace(c, patient_id=names.get(c.patient_id, c.patient_id)) for c in cohort.crops]
    with pytest.raises(ManifestError, match=r"crops.csv, row .* and .*, row .*: patient ids that"):
        CropsManifest.write(tmp_path, crops)


@given(st.text(), st.sampled_from([str.upper, str.lower, str.swapcase, str.strip]))
@settings(derandomize=True)
def test_normal_form_is_its_own_normal_form(name: str, change: object) -> None:
    assert normalised(normalised(name)) == normalised(name)
    assert "/" not in normalised(name)


def test_a_name_of_separators_tells_nobody_apart() -> None:
    with pytest.raises(ManifestError, match="letter or a digit"):
        patient_identity("cbis-ddsm", "_-_")
    with pytest.raises(ManifestError, match=r"origin has no letter and no digit"):
        patient_identity("?", "P1")


def respelt(cohort: CropsManifest, folder: Path) -> CropsManifest:
    """The same crops; of each patient, every other one under another spelling."""
    (folder / "images").mkdir(parents=True)
    crops, seen = [], dict[str, int]()
    for crop in cohort.crops:
        (folder / crop.file).symlink_to(cohort.folder / crop.file)
        seen[crop.patient] = seen.get(crop.patient, 0) + 1
        if seen[crop.patient] % 2:
            other = f"p - {crop.patient_id[1:]}"
            crop = replace(crop, patient_id=other, origin="Phantom Archive")
        crops.append(crop)
    return CropsManifest.write(folder, crops)


def test_sampler_data_set_and_ledger_count_the_same_patients(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "a")
    mixed = respelt(cohort, tmp_path / "b")
    drawn = PoissonSampling.from_manifest(mixed, "train", rate=0.5)
    assert drawn == PoissonSampling.from_manifest(cohort, "train", rate=0.5)
    assert CropsDataset.unit_of(mixed) == CropsDataset.unit_of(cohort)
    counted = Cohort.of_manifest(mixed, "train")
    assert len(counted.patients or ()) == drawn.units == 4
    assert counted.patients == Cohort.of_manifest(cohort, "train").patients
    assert counted.private is not None
    assert counted.private.crops_of_patients[-1][0] == max(map(len, drawn.rows_of))


def test_colliding_numbers_are_two_patients_if_the_origin_says_so(tmp_path: Path) -> None:
    one = write_cohort(tmp_path / "one", seed=1)
    other = write_cohort(tmp_path / "other", seed=2, origin="inbreast")
    pooled = [
        replace(crop, file=f"{part.folder.name}/{crop.file}", split="train", image_id=f"{i}{j}")
        for i, part in enumerate((one, other))
        for j, crop in enumerate(part.crops)
    ]
    manifest = CropsManifest.write(tmp_path, pooled)
    drawn = PoissonSampling.from_manifest(manifest, "train", rate=0.5)
    assert drawn.units == len(Cohort.of_manifest(manifest, "train").patients or ()) == 12
    same = [
        replace(c, origin=("PHANTOM_archive", "phantom-archive")[c.origin < "j"]) for c in pooled
    ]
    manifest = CropsManifest.write(tmp_path, same)
    drawn = PoissonSampling.from_manifest(manifest, "train", rate=0.5)
    assert drawn.units == len(Cohort.of_manifest(manifest, "train").patients or ()) == 6


def test_a_spelling_does_not_open_a_second_split(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path)
    crops = list(cohort.crops)
    last = max(i for i, crop in enumerate(crops) if crop.patient == crops[0].patient)
    crops[last] = replace(crops[last], patient_id="p 000", split="val")
    with pytest.raises(LeakageError, match=f"rows 2 and {last + 2}"):
        CropsManifest.write(tmp_path, crops)
    # Another data set may number another patient alike.
    crops[last] = replace(crops[last], origin="inbreast")
    assert CropsManifest.write(tmp_path, crops).crops[last].split == "val"
