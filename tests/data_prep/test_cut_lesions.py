# SPDX-License-Identifier: Apache-2.0
import csv
import errno
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep import cut_image
from data_prep import cut_lesions as module
from data_prep.crop_set import CropSet
from data_prep.cropping import Box, crop_square, grey_range, to_16_bit
from data_prep.cut_lesions import JOURNAL, cut_lesions
from data_prep.cutting import Cutting
from data_prep.dicom import Mammogram
from data_prep.errors import ArchiveError, DataError, LeakageError, ManifestError, RecordRejected
from data_prep.images import read_image
from data_prep.lesion_table import read_lesion_table
from data_prep.manifest import CropsManifest
from data_prep.splits import assign_split
from mammo_dp.main import main
from tests.data_prep.deadly import _deadly, dask_setup
from tests.data_prep.tiny_archive import film, write_dicom
from tests.started import Started, run_command

ROOT = Path(__file__).resolve().parents[2]
CUTTING = Cutting(size=16)
BOX = Box(50, 100, 80, 140)
HEADER = "file,patient,malignant,x0,y0,x1,y1"
MANY = module.IN_PROCESS + 4


def grey(seed: int) -> NDArray[np.uint16]:
    return film(np.random.default_rng(seed))


def line(name: str, i: int) -> str:
    return f"{name},P{i:03d},{i % 2},{BOX.x0},{BOX.y0},{BOX.x1},{BOX.y1}"


def folder_of(tmp_path: Path, names: list[str], *further: str) -> Path:
    """Images of the names, as 16-bit PNG, and a table with a row for each."""
    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(grey(i)).save(images / name, "PNG")
    lines = [HEADER, *(line(name, i) for i, name in enumerate(names)), *further]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return images


def cut(tmp_path: Path, out: str = "out", **settings: Any) -> CropsManifest:
    table = read_lesion_table(tmp_path / "t.csv", tmp_path / "images")
    known: dict[str, Any] = {"cutting": CUTTING, "origin": "own", "workers": 1}
    return cut_lesions(table, tmp_path / out, **(known | settings))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_crops_are_those_of_the_rule_in_order_of_the_table(tmp_path: Path) -> None:
    images = folder_of(tmp_path, ["b.png", "a.png"], "b.png,P000,0,60,20,90,60")
    manifest = cut(tmp_path, val_fraction=0.3, test_fraction=0.3)
    assert [(c.file, c.patient_id, c.image_id, c.lesion_id) for c in manifest.crops] == [
        ("images/own_row_0002.png", "P000", "row_0002", "1"),
        ("images/own_row_0003.png", "P001", "row_0003", "1"),
        ("images/own_row_0004.png", "P000", "row_0002", "2"),
    ]
    pixels = read_image(images / "a.png", where="").pixels
    known = grey_range(pixels)
    crop = crop_square(pixels, BOX, size=16, background=known.background)
    np.testing.assert_array_equal(manifest.image(1), to_16_bit(crop, known))
    for one in manifest.crops:
        split = assign_split(one.patient_id, val_fraction=0.3, test_fraction=0.3)
        assert one.split == split
    assert sorted(content(tmp_path / "out")) == [
        "card.html",
        "crops.csv",
        *(f"images/own_row_000{i}.png" for i in (2, 3, 4)),
        "rejected.csv",
    ]


def test_each_image_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, ["a.png", "b.png"], "a.png,P000,0,60,20,90,60")
    read: list[str] = []

    def counted(path: Path, **settings: Any) -> Mammogram:
        read.append(path.name)
        return read_image(path, **settings)

    monkeypatch.setattr(cut_image, "read_image", counted)
    cut(tmp_path)
    assert read == ["a.png", "b.png"]


@pytest.mark.usefixtures("forked_workers")
def test_workers_make_the_same_bytes(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(MANY)]
    images = folder_of(tmp_path, names, "5.png,P005,1,60,20,90,60", "0.png,P000,0,0,0,2,2")
    (images / "7.png").write_bytes(b"no picture")
    cut(tmp_path, "one", workers=1)
    cut(tmp_path, "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert [(row["record"], row["reason"]) for row in rejected(tmp_path / "one")] == [
        ("row_0009", "unreadable"),
        (f"row_{MANY + 3:04d}", "too_small"),
    ]


def test_whatever_an_image_does_to_its_reader_costs_its_lesions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["a.png", "bad.png"], "bad.png,P001,1,60,20,90,60")

    def read(path: Path, **settings: Any) -> Mammogram:
        if path.name == "bad.png":
            raise MemoryError
        return read_image(path, **settings)

    monkeypatch.setattr(cut_image, "read_image", read)
    assert len(cut(tmp_path).crops) == 1
    first, second = rejected(tmp_path / "out")
    assert first["message"].startswith("t.csv, row 3: its image cannot be read (MemoryError)")
    assert second["message"].startswith("t.csv, row 4: its image cannot be read (MemoryError)")


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_hangs_or_kills_costs_itself(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{i}.png" for i in range(MANY if workers > 1 else 3)] + ["hang.png"]
    names += ["die.png"] if workers > 1 else []  # in one process that is a matter of resuming
    folder_of(tmp_path, names)
    monkeypatch.setattr(cut_image, "read_image", _deadly)
    with dask.config.set({"distributed.worker.preload": [str(ROOT / "tests/data_prep/deadly.py")]}):
        manifest = cut(tmp_path, workers=workers, limit_s=1.0)
    assert len(manifest.crops) == len(names) - workers
    reasons = {row["reason"]: row["message"] for row in rejected(tmp_path / "out")}
    assert "takes more than 1 s, twice. Copy the file again" in reasons["timeout"]
    if workers > 1:
        assert "ends the process that reads it, twice" in reasons["worker_died"]
    assert len(reasons) == workers


def cut_deadly(folder: str) -> None:
    dask_setup(None)
    cut(Path(folder))


@pytest.mark.usefixtures("forked_workers")
def test_the_image_at_which_this_process_died_gets_one_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path, ["a.png", "die.png", "b.png"])
    assert Started(cut_deadly, str(tmp_path), log=tmp_path / "log.txt").wait() == 3
    with dask.config.set({"distributed.worker.preload": [str(ROOT / "tests/data_prep/deadly.py")]}):
        manifest = cut(tmp_path)
    assert [crop.file[-8:] for crop in manifest.crops] == ["0002.png", "0004.png"]
    assert [row["reason"] for row in rejected(tmp_path / "out")] == ["worker_died"]
    assert "1 of 3 images are read; resuming" in capsys.readouterr().out


def test_what_is_done_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(4)])
    whole = content(cut(tmp_path, "whole").folder)
    finish = CropSet.finish
    monkeypatch.setattr(CropSet, "finish", lambda self, card: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cut(tmp_path)
    monkeypatch.setattr(CropSet, "finish", finish)
    journal = tmp_path / "out" / JOURNAL
    # As workers leave it: in one process, the image of the cut-off line would be suspected.
    lines = [line for line in journal.read_text().splitlines() if "begun" not in line]
    assert not any("P00" in line for line in lines)  # nothing about patients
    read: list[str] = []

    def counted(path: Path, **settings: Any) -> Mammogram:
        read.append(path.name)
        return read_image(path, **settings)

    monkeypatch.setattr(cut_image, "read_image", counted)
    journal.write_text("\n".join(lines)[:-30])  # cut off in the last line
    (tmp_path / "out" / "images" / "own_row_0003.png").write_bytes(b"")  # after a loss of power
    cut(tmp_path)
    assert read == ["1.png", "3.png"]
    assert content(tmp_path / "out") == whole
    cut(tmp_path)
    assert len(read) == 2


def command(tmp_path: Path, out: str) -> list[str]:
    words = ["prepare", "lesions", "--table", str(tmp_path / "t.csv"), "--size", "16", "--images"]
    return [*words, str(tmp_path / "images"), "--workers", "1", "--out", str(tmp_path / out)]


def interrupted(tmp_path: Path, out: str) -> Path:
    """A folder of the command that was stopped after the last image; returns its journal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CropSet, "finish", lambda self, card: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert main(command(tmp_path, out)) == 130
    return tmp_path / out / JOURNAL


def rewrite(journal: Path, change: Callable[[dict[int, dict[str, Any]]], None]) -> None:
    """Changes the lines of images, by their number; without those of images that were begun.

    As workers leave it: an image that was begun and not ended is read by a process of its own.
    """
    lines = [json.loads(one) for one in journal.read_text().splitlines() if one]
    lines = [one for one in lines if "begun" not in one]
    change({one["image"]: one for one in lines if "image" in one})
    journal.write_text("".join(json.dumps(one) + "\n" for one in lines))


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes()
    shutil.copyfile(other, one)
    other.write_bytes(content)


def test_a_command_relies_on_no_line_that_it_did_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each patient would get the crop of another one, or lose it."""
    folder_of(tmp_path, [f"{i}.png" for i in range(4)])
    assert main(command(tmp_path, "whole")) == 0
    whole = {
        name: one for name, one in content(tmp_path / "whole").items() if "privacy" not in name
    }
    whole.pop("PRIVACY.md")
    read: list[str] = []

    def counted(path: Path, **settings: Any) -> Mammogram:
        read.append(path.name)
        return read_image(path, **settings)

    def swapped(lines: dict[int, dict[str, Any]]) -> None:
        lines[0]["lesions"], lines[1]["lesions"] = lines[1]["lesions"], lines[0]["lesions"]

    def renumbered(lines: dict[int, dict[str, Any]]) -> None:
        lines[0]["image"], lines[1]["image"] = 1, 0

    def without_codes(lines: dict[int, dict[str, Any]]) -> None:
        for line in lines.values():
            del line["code"]

    def rejected(lines: dict[int, dict[str, Any]]) -> None:
        lines[2]["lesions"] = [{"reason": "unreadable", "message": "row 4: gone"}]

    def others(lines: dict[int, dict[str, Any]]) -> None:
        pass  # those of the same command in another folder

    changes = (swapped, renumbered, without_codes, rejected, others)
    again = (["0.png", "1.png"], ["0.png", "1.png"], [f"{i}.png" for i in range(4)], ["2.png"])
    for at, (change, expected) in enumerate(zip(changes, (*again, again[2]), strict=True)):
        journal = interrupted(tmp_path, f"out{at}")
        images = journal.parent / "images"
        if change is others:
            shutil.copyfile(interrupted(tmp_path, "theirs"), journal)
        rewrite(journal, change)
        if change in (swapped, renumbered):
            exchange(images / "own_row_0002.png", images / "own_row_0003.png")
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(cut_image, "read_image", counted)
            assert main(command(tmp_path, f"out{at}")) == 0
        assert read == expected, change.__name__
        made = content(journal.parent)
        assert {name: made[name] for name in whole} == whole, change.__name__
        assert main(["privacy", "verify", str(journal.parent)]) == 0


def test_a_command_reads_no_image_again_that_it_has_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(3)])
    journal = interrupted(tmp_path, "out")
    Image.fromarray(grey(9)).save(journal.parent / "images" / "own_row_0003.png")  # of somebody
    read: list[str] = []

    def counted(path: Path, **settings: Any) -> Mammogram:
        read.append(path.name)
        return read_image(path, **settings)

    monkeypatch.setattr(cut_image, "read_image", counted)
    assert main(command(tmp_path, "out")) == 0
    assert read == ["1.png"]


def test_a_command_takes_no_table_that_an_unfinished_one_left(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(3)])
    words = command(tmp_path, "out")
    assert main(words) == 0
    out = tmp_path / "out"
    table = out / "crops.csv"
    whole = table.read_bytes()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"finished": None, "outputs": {}}))
    for statement in (*out.glob("privacy*"), out / "PRIVACY.md"):
        statement.unlink()
    table.write_bytes(whole.replace(b",own,", b",phantom,").replace(b",P00", b",X00"))
    assert main(words) == 0
    assert table.read_bytes() == whole
    assert main(["privacy", "verify", str(out)]) == 0


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).write_text(json.dumps({"key": "0123456789"}) + "\n")
    with pytest.raises(ManifestError, match=r"cutting\.jsonl: was begun for other images, another"):
        cut(tmp_path)


def test_an_interrupted_end_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after crops.csv: copies are left to be removed, and the journal."""
    images = folder_of(tmp_path, ["a.png", "b.png"])
    Image.fromarray(grey(0)).save(images / "copy.png")
    with (tmp_path / "t.csv").open("a") as file:
        file.write("copy.png,P000,0,50,100,80,140\n")
    whole = content(cut(tmp_path, "whole").folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cut(tmp_path)
    assert len(content(tmp_path / "out")) == len(whole) + 2
    cut(tmp_path)
    assert content(tmp_path / "out") == whole


def test_margins_have_one_unit_or_are_refused(tmp_path: Path) -> None:
    """If that of most images held, one patient more would take out the crops of all others."""
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for i, mm in enumerate([None, 0.1, 0.1]):
        spacing = {} if mm is None else {"ImagerPixelSpacing": [mm, mm]}
        write_dicom(images / f"{i}.dcm", grey(i), **spacing)
        lines.append(line(f"{i}.dcm", i))
    (tmp_path / "t.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    with pytest.raises(ArchiveError, match=r"row 2: its image states no pixel .*row 3 does, so"):
        cut(tmp_path, scanned_film=True)
    assert not (tmp_path / "out" / "crops.csv").exists()
    given = Cutting(size=16, spacing_mm=0.07)
    assert len(cut(tmp_path, "given", scanned_film=True, cutting=given).crops) == 3
    for i in range(3, 5):  # four of one kind and one of the other: no patient decides
        write_dicom(images / f"{i}.dcm", grey(i), ImagerPixelSpacing=[0.1, 0.1])
        lines.append(line(f"{i}.dcm", i))
    (tmp_path / "t.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    assert len(cut(tmp_path, "more", scanned_film=True).crops) == 4
    (row,) = rejected(tmp_path / "more")
    assert (row["record"], row["reason"]) == ("row_0002", "spacing")
    assert "row 2: its image states no pixel spacing, but most do" in row["message"]


@pytest.mark.usefixtures("forked_workers")
def test_strict_stops_at_the_first_row_whoever_is_first(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(MANY)]
    images = folder_of(tmp_path, names)
    for name in ("3.png", "9.png"):
        (images / name).write_bytes(b"")
    for workers in (1, 2):
        with pytest.raises(RecordRejected, match="row 5"):
            cut(tmp_path, f"out{workers}", workers=workers, strict=True)


def test_splits_are_checked_before_an_image_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    with pytest.raises(DataError, match="together below 1"):
        cut(tmp_path, val_fraction=0.5, test_fraction=0.5)
    text = (tmp_path / "t.csv").read_text().splitlines()
    splits = [text[0] + ",split", text[1] + ",train", text[2].replace("P001", "p-000") + ",val"]
    (tmp_path / "t.csv").write_text("\n".join(splits) + "\n")
    with pytest.raises(LeakageError):
        cut(tmp_path)


def test_a_full_disk_stops_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])

    def full(path: Path, pixels: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cut_image, "save_crop_image", full)
    with pytest.raises(OSError, match=r"No space left on device: .*own_row_0002\.png"):
        cut(tmp_path)


def test_where_no_lesion_becomes_a_crop_the_reasons_are_told(tmp_path: Path) -> None:
    images = folder_of(tmp_path, ["a.png"])
    (images / "a.png").write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"no record became a crop \(unreadable 1\)"):
        cut(tmp_path)


TEN = [  # name, whether it is damaged
    ("a.dcm", False), ("b.dcm", True), ("c.png", False), ("d.png", True), ("e.jpg", False),
    ("f.jpg", True), ("g.tif", False), ("h.tif", True), ("i", False), ("j.png", False),
]  # fmt: skip


def test_ten_lines_over_every_format_one_of_each_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, (name, damaged) in enumerate(TEN):
        path = images / name
        kind = path.suffix
        if kind in (".dcm", ""):
            write_dicom(path, grey(i), Modality="MG", PatientName="Secret^Name")
        elif kind == ".jpg":
            Image.fromarray((grey(i) // 256).astype(np.uint8)).save(path, quality=95)
        else:
            Image.fromarray(grey(i)).save(path)
        if damaged:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    lines = [HEADER, *(line(name, i) for i, (name, _) in enumerate(TEN))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    words = ["prepare", "lesions", "--table", str(tmp_path / "t.csv"), "--images", str(images)]
    words += ["--size", "16", "--out", str(tmp_path / "out"), "--scanned_film", "true"]
    assert main([*words, "--dry_run", "true"]) == 0
    assert not (tmp_path / "out").exists()
    told = capsys.readouterr().out
    assert "rows: 10, of which 10 are used, of 10 images" in told
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "found 10 = read 6 + rejected 4 (unreadable 4) + skipped 0" in told
    assert [row["record"] for row in rejected(tmp_path / "out")] == [
        f"row_{2 + i:04d}" for i, (_, damaged) in enumerate(TEN) if damaged
    ]
    everything = b"".join(content(tmp_path / "out").values())
    assert b"Secret" not in everything
    before = content(tmp_path / "out")
    assert main([*words, "--workers", "1"]) == 0  # how fast is no part of what is made
    assert "already finished" in capsys.readouterr().out
    assert content(tmp_path / "out") == before
    assert main([*words, "--margin_mm", "5"]) == 1


def test_columns_and_labels_are_flags_and_yaml(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "b.png"])
    text = (
        (tmp_path / "t.csv").read_text().replace("patient", "PatientID").replace(",1,50", ",M,50")
    )
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "columns.yaml").write_text("patient: PatientID\n")
    words = ["prepare", "lesions", "--table", str(tmp_path / "t.csv"), "--size", "16"]
    words += ["--images", str(tmp_path / "images"), "--labels.malignant", "M,1"]
    one = ["--columns.patient", "PatientID", "--out", str(tmp_path / "one")]
    assert main([*words, *one]) == 0
    other = ["--columns", str(tmp_path / "columns.yaml"), "--out", str(tmp_path / "other")]
    assert main([*words, *other]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "other")


def cut_slowly(*words: str) -> int:
    """The command with workers that take their time, or it ends before it can be killed."""
    with dask.config.set({"distributed.worker.preload": [str(ROOT / "tests/data_prep/deadly.py")]}):
        return run_command(words)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(tmp_path: Path) -> None:
    names = [f"{i}_slow.png" for i in range(24)]
    images = folder_of(
        tmp_path, names, "3_slow.png,P003,1,60,20,90,60", "0_slow.png,P000,0,0,0,2,2"
    )
    (images / "7_slow.png").write_bytes(b"damaged")
    words = ["prepare", "lesions", "--table", str(tmp_path / "t.csv"), "--images", str(images)]
    words += ["--size", "16", "--workers", "2", "--out"]

    def start(out: str) -> Started:
        log = tmp_path / f"{out}.txt"
        log.unlink(missing_ok=True)
        return Started(cut_slowly, *words, str(tmp_path / out), log=log)

    out = tmp_path / "killed"
    for written in (1, 12):  # lines in the journal
        process = start("killed")
        journal = out / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b'"image"') < written:
            assert process.poll() is None, process.said()
            time.sleep(0.005)
        assert process.kill() == -signal.SIGKILL, process.said()
        assert not (out / "crops.csv").exists()
    for name in ("killed", "whole"):
        process = start(name)
        assert process.wait() == 0, process.said()
        if name == "killed":
            assert "of 24 images are read; resuming" in process.said()
    assert content(out) == content(tmp_path / "whole")
    assert "card.html" in content(out)
