# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.cutting import Cutting
from data_prep.errors import DataError
from mammo_dp.crop_rule import TrainedCrops
from mammo_dp.runs import RunError, close_run, open_run
from tests.fixtures import write_cohort


def test_a_folder_that_was_cut_says_how_and_others_do_not(tmp_path: Path) -> None:
    cutting = Cutting(size=32, margin_mm=2.0, minimum_mm=5.0, spacing_mm=0.05)
    cut = {"size": 32, "margin_mm": 2.0, "minimum_mm": 5.0, "spacing_mm": 0.05}
    for command in ("prepare cbis_ddsm", "prepare lesions", "prepare crop_folder"):
        folder = tmp_path / command
        config = {"size": 32, "root": "x"} if command == "prepare crop_folder" else cut
        record = open_run(folder, command=command, config=config, inputs={})
        write_cohort(folder)
        close_run(record)
        found = TrainedCrops.of_folder(folder)
        assert (found.rule, found.size) == ("as-is", 32)
        assert found.cutting == (None if command == "prepare crop_folder" else cutting)
    assert TrainedCrops.of_folder(write_cohort(tmp_path / "bare").folder).cutting is None


def test_what_was_written_is_read_and_what_was_damaged_is_refused(tmp_path: Path) -> None:
    assert TrainedCrops.read(tmp_path) is None
    crops = TrainedCrops(rule="centred", size=64, cutting=Cutting(size=64))
    for written in (crops, replace(crops, cutting=None)):
        written.write(tmp_path)
        assert TrainedCrops.read(tmp_path) == written
    for text in (
        "[]",
        '{"rule": "centred", "size": 64}',
        "{",
        '{"rule":1,"size":2,"cutting":null}',
    ):
        (tmp_path / "crop_rule.json").write_text(text)
        with pytest.raises(RunError, match="is no crop rule"):
            TrainedCrops.read(tmp_path)


def test_settings_that_cut_nothing_are_refused() -> None:
    for wrong in ({"size": 7}, {"margin_mm": -1.0}, {"minimum_mm": -1.0}, {"spacing_mm": 0.0}):
        with pytest.raises(DataError, match="Give a size of 8 or more"):
            Cutting(**wrong)
