# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from data_prep.errors import ArchiveError
from data_prep.files import Balance, find_files, without_names


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "own").mkdir(parents=True)
    outside.mkdir()
    (root / "own" / "a.png").touch()
    (outside / "b.PNG").touch()
    (root / "aaa").symlink_to(root / "own")  # sorts first, yet the folder's own path is kept
    (root / "first").symlink_to(outside)
    (root / "second").symlink_to(outside)
    (outside / "up").symlink_to(root)
    (root / "c.png").symlink_to(outside / "b.PNG")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    found = find_files(root, suffixes={".png"})
    assert [path.relative_to(root).as_posix() for path in found.paths] == [
        "c.png",
        "first/b.PNG",
        "own/a.png",
    ]
    assert found.skipped == {"link to a folder already read": 3, "broken link": 1}


def test_helper_files_other_suffixes_and_pipes_are_counted(tmp_path: Path) -> None:
    for name in ("1.dcm", "._1.dcm", ".DS_Store", "Thumbs.db", "desktop.ini", "table.csv"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "2.dcm").touch()
    os.mkfifo(tmp_path / "pipe.dcm")
    found = find_files(tmp_path, suffixes={".dcm"})
    assert [path.name for path in found.paths] == ["1.dcm"]
    assert found.skipped == {"helper file": 5, "another kind of file": 1, "no regular file": 1}
    assert [path.name for path in find_files(tmp_path).paths] == ["1.dcm", "table.csv"]


def test_a_name_that_is_no_text_stops_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"Doe_\xff.png")).touch()
    with pytest.raises(ArchiveError, match=r"is not UTF-8\. Rename it") as caught:
        find_files(tmp_path, suffixes={".png"})
    assert "Doe" not in str(caught.value)
    assert find_files(tmp_path, suffixes={".dcm"}).paths == ()


def test_positions_stand_for_names_that_are_not_of_the_layout(tmp_path: Path) -> None:
    for name in ("train/Doe", "train/Roe", "train/.cache"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.png", "b.csv", "Thumbs.db"):
        (tmp_path / "train" / "Roe" / name).touch()
    path = tmp_path / "train" / "Roe" / "b.csv"
    below = "train/<folder 2 of 2 by name>/<file 2 of 2 by name>"
    assert without_names(path, tmp_path, {"train"}) == f"{tmp_path}/{below}"
    assert without_names(tmp_path, tmp_path) == str(tmp_path)


def test_a_folder_that_cannot_be_listed_stops(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"cannot be listed \(No such file or directory\)"):
        find_files(tmp_path / "nowhere")


def test_a_balance_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ArchiveError, match="3 files or rows were found, but 2 are accounted for"):
        Balance(found=3, read=1, rejected={"unreadable": 1})
