# SPDX-License-Identifier: Apache-2.0
import base64
import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import card as module
from data_prep import prepare
from data_prep.card import FILE_NAME
from data_prep.crop_set import Outcome
from data_prep.errors import ArchiveError, RecordRejected
from data_prep.files import Balance
from data_prep.manifest import CropsManifest
from tests.data_prep.archives import miniature
from tests.data_prep.test_cut_lesions import HEADER, content, cut, folder_of, grey, line
from tests.data_prep.tiny_archive import TinyArchive, film, lesion_mask


class _Page(HTMLParser):
    """Tables by label, pictures, rectangles, and everything that a page could load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.loaded: list[str] = []
        self.rects: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self._row: list[str] = []
        self._cell = False
        self._label = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.loaded += [known[name] or "" for name in ("src", "href", "srcset") if name in known]
        if tag == "rect":
            self.rects.append(known)
        if known.get("class") == "scroll":
            self._label = known["aria-label"] or ""
            self.tables[self._label] = []
        if tag == "tr":
            self._row = []
        if tag in ("th", "td"):
            self._cell = True
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._cell = False
        if tag == "tr":
            self.tables[self._label].append(self._row)

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._row[-1] += data


def page_of(folder: Path) -> tuple[str, _Page]:
    html = (folder / FILE_NAME).read_text(encoding="utf-8")
    return html, _Page(html)


def pixels_of(address: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))) as image:
        assert image.format in ("PNG", "JPEG")
        assert not image.getexif()
        return np.array(image)


def cbis(tmp_path: Path) -> CropsManifest:
    """Six crops of four patients, a mask of another shape, an inverted mask and a copy."""
    tiny = TinyArchive(tmp_path / "archive")
    tiny.add("P_00001")
    tiny.add("P_00001", view="MLO", pathology="BENIGN")  # one lesion, two labels
    tiny.add("P_00002", pathology="BENIGN", side="RIGHT")
    tiny.add("P_00003", "test", pathology="BENIGN_WITHOUT_CALLBACK")
    tiny.add("P_00004", "test")
    tiny.add("P_00005", mask=np.ones((90, 200), np.uint8) * np.eye(90, 200, dtype=np.uint8) * 255)
    tiny.add("P_00006", mask=255 - lesion_mask())
    same = film(np.random.default_rng(9))
    tiny.add("P_00007", view="CC", image=same)
    tiny.add("P_00007", view="MLO", image=same)
    root = str(tiny.write())
    out = str(tmp_path / "out")
    return prepare.cbis_ddsm(root=root, out=out, size=32, workers=1)


def test_counts_are_those_of_the_manifest(tmp_path: Path) -> None:
    manifest = cbis(tmp_path)
    html, page = page_of(tmp_path / "out")
    table = page.tables["Crops by split and class"]
    assert table[0] == [
        "Split", "Class", "Crops", "Patients", "Lesions", "Most crops of one patient"
    ]  # fmt: skip
    for row in table[1:]:
        some = [
            crop
            for crop in manifest.crops
            if crop.split == row[0] and crop.malignant == (row[1] == "malignant")
        ]
        patients = [crop.patient for crop in some]
        assert row[2:] == [
            str(len(some)),
            str(len(set(patients))),
            str(len({(crop.patient, crop.lesion_id) for crop in some})),
            str(max(map(patients.count, patients), default=0)),
        ]
    assert sum(int(row[2]) for row in table[1:]) == len(manifest.crops) == 6
    views = [["CC, L", "4"], ["CC, R", "1"], ["MLO, L", "1"]]
    assert page.tables["Crops by view and side"][1:] == views
    assert page.tables["Patients by number of crops"][1:] == [["1", "4"], ["2", "1"]]
    assert page.tables["Mammograms by format"][1:] == [["DICOM", "7"]]
    assert page.tables["Mammograms by source of the spacing"][1:] == [["unknown", "7", "unknown"]]
    assert [row[1] for row in page.tables["Copies and conflicts"][1:]] == ["1", "0", "0", "1"]
    with (tmp_path / "out" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    told = page.tables["Rows left out or rejected, by reason"][1:]
    assert {row[0]: int(row[1]) for row in told} == {r: reasons.count(r) for r in reasons}
    assert re.search(r"found \d+ = read 6 \+ rejected 3 \(duplicate 1, mask_mismatch 2\)", html)
    for words in ("CC BY 3.0", "Lee et al. 2017", module.PRIVATE, "pathology"):
        assert words in html


def bcdr(at: Path) -> CropsManifest:
    return prepare.bcdr(root=str(miniature.bcdr(at / "a")), out=str(at / "out"), size=32)


def vindr(at: Path) -> CropsManifest:
    root, out = str(miniature.vindr(at / "a")), str(at / "out")
    return prepare.vindr(root=root, out=out, label_source="birads", size=32)


def cmmd(at: Path) -> CropsManifest:
    root, annotations = miniature.cmmd(at / "a")
    return prepare.cmmd(root=str(root), annotations=str(annotations), out=str(at / "out"), size=32)


def embed(at: Path) -> CropsManifest:
    return prepare.embed(root=str(miniature.embed(at / "a")), out=str(at / "out"), size=32)


@pytest.mark.parametrize("prepared", [bcdr, vindr, cmmd, embed, cbis])
def test_no_identifier_stands_on_the_page_and_nothing_is_loaded(
    tmp_path: Path, prepared: Callable[[Path], CropsManifest]
) -> None:
    manifest = prepared(tmp_path)
    html, page = page_of(tmp_path / "out")
    words = re.sub(r'"data:[^"]*"', "", html)
    words = words.replace("such as D1-0001_MLO_L_Ann", "")  # how files are named, not a patient
    patients = {crop.patient_id for crop in manifest.crops}
    images = {crop.image_id for crop in manifest.crops}
    for secret in {*patients, *images, "Secret", "SECRET", str(tmp_path), "1.2.826"}:
        assert len(secret) < 4 or secret not in words
    assert not re.search(r"\b(19|20)\d\d-?[01]\d-?[0-3]\d\b|\b\d+(\.\d+){4,}", words)
    assert page.loaded
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert "@import" not in words
    assert "url(" not in words
    for address in page.loaded:
        assert max(pixels_of(address).shape[:2]) <= module.EDGE


def test_refused_masks_are_shown_with_what_they_say(tmp_path: Path) -> None:
    cbis(tmp_path)
    html, page = page_of(tmp_path / "out")
    refused = html[html.index("<h3>Refused: mask_mismatch") :]
    assert set(re.findall("train_000.", refused)) == {"train_0005", "train_0006"}
    boxes = [rect for rect in page.rects if rect["class"] == "lesion refused"]
    assert {(b["x"], b["y"], b["width"], b["height"]) for b in boxes} >= {("0", "0", "200", "260")}
    assert html.index("<h3>Refused: duplicate") < html.index("<h3>Refused: mask_mismatch")
    address = re.findall(r'<img src="([^"]+)" alt="mask of', refused)
    assert len(address) == 2
    inverted = next(p for p in map(pixels_of, address) if p.shape == (240, 185))
    assert inverted[0, -1] == 255
    assert inverted[round(105 * 240 / 260), round(55 * 185 / 200)] == 0


def test_the_box_is_where_the_lesion_is_and_the_crop_beside_it(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    manifest = cut(tmp_path)
    _, page = page_of(tmp_path / "out")
    for rect in page.rects:
        box = tuple(int(rect[name] or "") for name in ("x", "y", "width", "height"))
        if rect["class"] == "lesion":
            assert box == (50, 100, 30, 40)
        else:
            assert box == (65 - 80, 120 - 80, 160, 160)
    mammograms, crops = page.loaded[::2], page.loaded[1::2]
    shown = [pixels_of(address) for address in mammograms]
    assert {image.shape for image in shown} == {(240, 185)}
    inside = (slice(95, 126), slice(48, 72))
    assert all(image[inside].mean() > image[20:220, 10:130].mean() + 40 for image in shown)
    expected = [(manifest.image(row) / 257).round() for row in (0, 1)]
    for address in crops:
        assert any(np.array_equal(pixels_of(address), one) for one in expected)


@pytest.mark.usefixtures("forked_workers")
def test_pictures_are_few_and_the_same_whatever_the_order_of_the_table(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(module.PER_CLASS * 2 + 6)]
    folder_of(tmp_path, names)
    first = cut(tmp_path, "one")
    assert len(page_of(first.folder)[1].loaded) == 2 * 2 * module.PER_CLASS
    cut(tmp_path, "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_boxes_outside_are_shown_outside(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png", "c.png"], "c.png,P002,0,210,100,240,140")
    with (tmp_path / "t.csv").open("a") as file:
        file.write("b.png,P001,1,5000,100,5040,140\n")
        file.write("a.png,P000,0,60,100,62,140\n")
    cut(tmp_path)
    html, _ = page_of(tmp_path / "out")
    outside = html[html.index("Refused: box_outside") : html.index("Refused: too_small")]
    assert 'viewBox="0 0 240 260"' in outside  # the image has 200 columns
    assert "Its box lies outside of what is shown" in outside
    assert 'x="60" y="100" width="2" height="40"' in html


def test_what_hung_or_killed_a_worker_is_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = folder_of(tmp_path, ["a.png", "b.png", "c.png"])
    (images / "b.png").write_bytes(b"damaged")
    read: list[str] = []

    def counted(path: Path, **settings: object) -> object:
        read.append(path.name)
        raise RecordRejected("unreadable", "gone")

    monkeypatch.setattr(module, "read_image", counted)
    cut(tmp_path)
    assert sorted(read) == ["a.png", "c.png"]
    html, page = page_of(tmp_path / "out")
    assert html.count("could not be read again (unreadable)") == 2
    assert len(page.loaded) == 2  # the crops


def test_a_page_without_crops_says_why(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png"])
    (tmp_path / "t.csv").write_text(f"{HEADER}\na.png,P000,0,60,100,62,140\n")
    with pytest.raises(ArchiveError, match="no record became a crop"):
        cut(tmp_path)
    html, _ = page_of(tmp_path / "out")
    assert "Refused: too_small" in html
    assert module.PRIVATE in html


def test_the_page_is_there_before_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a whole folder has its page, whenever the command was interrupted."""
    folder_of(tmp_path, ["a.png", "b.png"])
    whole = content(cut(tmp_path, "whole").folder)
    with monkeypatch.context() as patch:
        patch.setattr(CropsManifest, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cut(tmp_path)
    assert (tmp_path / "out" / FILE_NAME).read_bytes() == whole[FILE_NAME]
    (tmp_path / "out" / FILE_NAME).write_bytes(b"<!doc")
    cut(tmp_path)
    assert content(tmp_path / "out") == whole


def test_the_flag_leaves_it_out(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    cut(tmp_path, card=False)
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_words_of_a_table_are_text(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(grey(0)).save(images / "a.png")
    (tmp_path / "t.csv").write_text(f"{HEADER},Jane Doe\n{line('a.png', 0)},secret\n")
    cut(tmp_path, origin="x")
    html, _ = page_of(tmp_path / "out")
    assert "not kept: 1 (by their places: 8)" in html
    assert not any(word in html for word in ("Jane", "secret"))


def test_a_name_of_a_data_set_is_text(tmp_path: Path) -> None:
    outcome = Outcome(
        folder=tmp_path,
        crops=(),
        rejected=(),
        balance=Balance(found=0, read=0),
        merged_patients=0,
    )
    module.write_card(outcome, name="<b>x")
    html, _ = page_of(tmp_path)
    assert "&lt;b&gt;x" in html
    assert "<b>x" not in html


def test_without_a_column_of_lesions_each_image_has_its_own(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    text = (tmp_path / "t.csv").read_text().replace("P001,1", "P000,0")
    (tmp_path / "t.csv").write_text(text)
    cut(tmp_path, "images")
    rows = [f"{row},{'lesion' if i == 0 else 'x'}" for i, row in enumerate(text.splitlines())]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    cut(tmp_path, "lesions")
    for name, lesions in (("images", "2"), ("lesions", "1")):
        table = page_of(tmp_path / name)[1].tables["Crops by split and class"]
        assert [row[2:5] for row in table[1:] if row[1] == "benign"] == [["2", "1", lesions]]


def test_imported_crops_have_a_page_too(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for i, word in enumerate(("benign", "malignant")):
        Image.fromarray((grey(i)[:64, :64] >> 8).astype(np.uint8)).save(root / f"{i}_{word}.png")
    prepare.synthetic_folder(root=str(root), out=str(tmp_path / "out"), name="made")
    html, page = page_of(tmp_path / "out")
    assert module.GENERATED in html
    assert len(page.loaded) == 2
    assert not page.rects
