# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.crop_image import save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.protocol import evaluation_sets, open_set, openings, said_of
from mammo_dp.benchmark.spec import BenchmarkError

Make = Callable[..., CropsManifest]


def all_test(manifest: CropsManifest) -> CropsManifest:
    """The same crops, all in the split test."""
    crops = [replace(crop, split="test") for crop in manifest.crops]
    return CropsManifest.write(manifest.folder, crops)


def test_val_is_for_research_and_other_patients_are_a_test(
    cohort: CropsManifest, make_cohort: Make
) -> None:
    other = all_test(make_cohort("elsewhere", seed=5, origin="another-archive"))
    val, external = evaluation_sets(cohort.folder, [other.folder], open_test=False)
    assert (val.name, val.purpose, val.split) == ("val", "research", "val")
    assert (external.name, external.purpose, external.split) == ("elsewhere", "test", "test")
    assert "no test" in said_of(val, [])


def test_a_patient_of_train_or_val_in_a_test_set_is_refused(
    cohort: CropsManifest, make_cohort: Make
) -> None:
    other = all_test(make_cohort("elsewhere", seed=5))  # other pixels, same origin and numbers
    with pytest.raises(BenchmarkError, match="24 of its crops, or their patients, stand"):
        evaluation_sets(cohort.folder, [other.folder], open_test=False)


def test_a_crop_of_train_or_val_under_another_name_is_refused(
    cohort: CropsManifest, make_cohort: Make
) -> None:
    other = all_test(make_cohort("elsewhere", seed=5, origin="another-archive"))
    row = len(other.crops) - 1
    pixels = np.ascontiguousarray(cohort.image(0)[:, ::-1] // 2)  # mirrored and dimmer
    sha256 = save_crop_image(other.folder / other.crops[row].file, pixels)
    copy = replace(other.crops[row], sha256=sha256, fingerprint=fingerprint(pixels))
    CropsManifest.write(other.folder, [*other.crops[:-1], copy])
    with pytest.raises(BenchmarkError, match=f"1 of its crops.*the first in row {row + 2}"):
        evaluation_sets(cohort.folder, [other.folder], open_test=False)


def test_crops_without_val_and_a_test_split_that_is_absent_are_refused(
    cohort: CropsManifest, make_cohort: Make
) -> None:
    with pytest.raises(BenchmarkError, match="split 'test'"):
        evaluation_sets(cohort.folder, [], open_test=True)
    with pytest.raises(BenchmarkError, match="split 'val'"):
        evaluation_sets(all_test(make_cohort("all-test")).folder, [], open_test=False)


def test_each_look_with_other_models_is_booked_and_said(
    cohort: CropsManifest, make_cohort: Make, tmp_path: Path
) -> None:
    other = all_test(make_cohort("elsewhere", seed=5, origin="another-archive"))
    _, external = evaluation_sets(cohort.folder, [other.folder], open_test=False)
    assert "was not opened" in said_of(external, openings(tmp_path))
    open_set(tmp_path, external, ["a", "b"])
    open_set(tmp_path, external, ["b", "a", "a"])  # a resumed run looks at the same
    assert [look.cells for look in openings(tmp_path)] == [2]
    assert "opened once" in said_of(external, openings(tmp_path))
    open_set(tmp_path, replace(external, name="renamed"), ["a", "c", "d"])
    assert "opened 2 times with different models" in said_of(external, openings(tmp_path))
    (tmp_path / "openings.json").write_text("[{}]")
    with pytest.raises(BenchmarkError, match="Restore it"):
        openings(tmp_path)
