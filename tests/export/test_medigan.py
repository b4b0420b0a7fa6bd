# SPDX-License-Identifier: Apache-2.0
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gan.generator
from data_prep.errors import LicenceError
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError, TrainedGenerator
from mammo_dp.export import ExportError, medigan_package
from mammo_dp.export.medigan import medigan
from mammo_dp.main import main
from mammo_dp.privacy.commands import verified
from tests.export.conftest import run_of_fit
from tests.fixtures import write_cohort

FILES = [
    *("LICENSE", "PRIVACY.md", "__init__.py", "generator.pt", "metadata.json", "generator.py"),
    *("privacy.json", "privacy_files.json", "requirements.txt", "samples", "test.sh"),
]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("medigan") / "out"
    words = ["--checkpoint", str(checkpoint), "--out", str(out), "--name", "MASSES"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        assert main(["export", "medigan", *words]) == 0
        assert main(["export", "medigan", *words]) == 0  # finished: nothing to do
    return out / "MASSES"


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metadata.json").read_text())["MASSES"]  # type: ignore[no-any-return]


def test_the_folder_is_what_medigan_expects(exported: Path, checkpoint: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(FILES)
    entry = metadata(exported)
    execution, selection = entry["execution"], entry["selection"]
    weights = execution["model_name"] + execution["extension"]
    assert (exported.parent / execution["package_name"] / weights).is_file()
    assert execution["image_size"] == [16, 16]
    assert execution["generate_method"]["args"]["custom"].keys() == {"condition", "z", "seed"}
    assert execution["dependencies"] == (exported / "requirements.txt").read_text().split()
    assert selection["dataset"] == ["cbis-ddsm"]
    assert "CC BY 3.0" in selection["license"]
    assert selection["privacy_preservation"].startswith("none: No guarantee, epsilon = infinity")
    assert TrainedGenerator.read(checkpoint).sha256 in entry["description"]["comment"]
    assert "Apache License" in (exported / "LICENSE").read_text()
    assert len(list((exported / "samples").glob("*.png"))) == 8


def test_the_statement_is_the_sealed_one_of_the_run(exported: Path, checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    assert (exported / "privacy.json").read_bytes() == (run / "privacy.json").read_bytes()
    checked = verified(exported).findings
    assert checked.found == []
    assert not any("not in privacy_files.json" in note for note in checked.notes)


def test_a_file_that_lies_in_an_unfinished_package_is_not_passed_on(
    checkpoint: Path, cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--name", "MASSES"]
    export, samples = ["export", "medigan", *words], tmp_path / "out" / "MASSES" / "samples"

    def killed(*of: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_dp.export.medigan._write_code", killed)
        assert main(export) == 130
    samples.mkdir()
    patient = cohort.folder / cohort.crops[0].file
    for name in ("patient.png", "0_benign.png"):
        shutil.copyfile(patient, samples / name)
    assert main(export) == 1
    assert "holds samples/patient.png, which this export did not" in capsys.readouterr().err
    (samples / "patient.png").unlink()
    assert main(export) == 0
    assert (samples / "0_benign.png").read_bytes() != patient.read_bytes()
    sealed = json.loads((samples.parent / "privacy_files.json").read_text())["files"]
    assert {name for name in sealed if name.startswith("samples/")} == {
        f"samples/{path.name}" for path in samples.iterdir()
    }


def test_weights_are_tensors_and_numbers_of_the_averaged_generator(
    exported: Path, checkpoint: Path
) -> None:
    stored = torch.load(exported / "generator.pt", weights_only=True)
    sizes = {"image_size": 16, "channels": 2, "latent": 8, "columns": 8}
    assert stored["settings"] == sizes | {"separability": 0.85}
    net = TrainedGenerator.read(checkpoint).net
    assert isinstance(net, torch.nn.Module)
    ours = net.state_dict()
    assert stored["generator"].keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in stored["generator"].items())


def test_the_code_imports_torch_numpy_and_pillow_alone(exported: Path) -> None:
    for name in ("__init__.py", "generator.py"):
        tops = set()
        for node in ast.walk(ast.parse((exported / name).read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops.add("." if node.level else (node.module or "").split(".")[0])
        assert tops - set(sys.stdlib_module_names) <= {"torch", "numpy", "PIL", "."}
    assert (exported / "generator.py").read_bytes() == Path(gan.generator.__file__).read_bytes()


ELSEWHERE = """
import sys
for name in ("mammo_dp", "gan", "data_prep", "classifier", "lightning"):
    sys.modules[name] = None  # an import of it fails
import importlib
package = importlib.import_module("MASSES")
package.generate("MASSES/generator.pt", 3, sys.argv[1], True, seed=0)
"""


def test_in_a_fresh_process_its_crops_equal_ours(
    exported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        cwd=exported.parent,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    names = ["0_benign.png", "1_malignant.png", "2_benign.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    generator = TrainedGenerator.read(checkpoint)
    asked = torch.stack(
        [
            generator.conditions.vector(malignant=number % 2 == 1, attributes={})
            for number in range(3)
        ]
    )
    ours = generator.crops(asked, start=0, seed=0, truncation=1.0)
    for name, crop in zip(names, ours, strict=True):
        with Image.open(tmp_path / name) as image:
            assert image.mode == "L"
            assert np.abs(np.array(image) - crop / 257).max() <= 0.51


def generate(exported: Path, count: int, output: Path, **settings: Any) -> Any:  # noqa: ANN401
    save = settings.pop("save", False)
    return medigan_package.generate(
        str(exported / "generator.pt"), count, str(output), save, **settings
    )


def test_crops_can_be_returned_and_classes_chosen(exported: Path, tmp_path: Path) -> None:
    pairs = generate(exported, 40, tmp_path / "none", seed=1)
    assert [label for _, label in pairs] == ["benign", "malignant"] * 20
    assert all(crop.shape == (16, 16) and crop.dtype == np.uint8 for crop, _ in pairs)
    assert len({crop.tobytes() for crop, _ in pairs}) == 40
    assert not (tmp_path / "none").exists()
    asked = generate(exported, 3, tmp_path, condition="malignant", seed=1)
    assert [label for _, label in asked] == ["malignant"] * 3
    assert np.array_equal(asked[1][0], pairs[1][0])
    assert not np.array_equal(asked[0][0], pairs[0][0])


def test_latent_vectors_can_be_given(exported: Path, tmp_path: Path) -> None:
    z = np.zeros((40, 8))
    one, other = (generate(exported, 40, tmp_path, z=z, seed=seed) for seed in (1, 1))
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    drawn = generate(exported, 40, tmp_path, seed=1)
    assert not np.array_equal(drawn[35][0], one[35][0])


def medigan_saves(exported: Path, count: int, output: Path, **settings: Any) -> list[Path]:
    """What medigan's executor does when it saves: batches, renamed, their folders removed."""
    size = 4  # 32 there
    for batch in range(count // size + 1):
        asked = size if batch < count // size else count % size
        folder = output / f"batch_{batch}"
        generate(exported, asked, folder, save=True, **settings)
        for path in folder.iterdir():
            path.rename(output / f"{folder.name}_{path.name}")
        folder.rmdir()
    return sorted(output.glob("*.png"))


def test_batches_of_one_seed_differ_and_an_empty_last_one_is_borne(
    exported: Path, tmp_path: Path
) -> None:
    paths = medigan_saves(exported, 8, tmp_path / "a", seed=5)
    assert len({path.read_bytes() for path in paths}) == len(paths) == 8
    again = medigan_saves(exported, 8, tmp_path / "b", seed=5)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert len(medigan_saves(exported, 7, tmp_path / "c", seed=5)) == 7
    fresh = medigan_saves(exported, 8, tmp_path / "d")
    assert {path.read_bytes() for path in fresh}.isdisjoint(path.read_bytes() for path in paths)


def test_what_medigan_saved_can_be_prepared(exported: Path, tmp_path: Path) -> None:
    medigan_saves(exported, 6, tmp_path / "saved", seed=5)
    words = ["--root", str(tmp_path / "saved"), "--out", str(tmp_path / "in"), "--name", "masses"]
    assert main(["prepare", "synthetic_folder", *words]) == 0
    assert (tmp_path / "in" / "crops.csv").read_text().count("synthetic:masses") == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition": 0}, "condition=0. Give 'malignant', 'benign' or none. Numbers are refused"),
        ({"condition": "Malignant"}, "condition='Malignant'"),
        ({"count": -1}, "num_samples=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"z": np.zeros((2, 7))}, r"z has shape \(2, 7\). Give rows of length 8"),
        ({"z": np.zeros((1, 8))}, "z has 1 rows for num_samples=2"),
    ],
)
def test_wrong_arguments_raise(
    exported: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    count = settings.pop("count", 2)
    with pytest.raises(ValueError, match=message):
        generate(exported, count, tmp_path / "out", save=True, **settings)
    assert not (tmp_path / "out").exists()


def test_missing_weights_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        medigan_package.generate(str(tmp_path / "none.pt"), 1, str(tmp_path), True)


def test_its_own_test_passes(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "MASSES")
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    subprocess.run(["sh", str(folder / "test.sh")], check=True, cwd="/", env=environment)
    assert len(list((folder / "test_images").glob("*.png"))) == 10


@pytest.mark.parametrize("name", ["", "a b", "../up", "7_MASSES", "a-b"])
def test_a_name_that_cannot_be_imported_is_refused(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ExportError, match="Give letters, digits and '_', no digit first"):
        medigan(checkpoint=str(checkpoint), out=str(tmp_path), name=name)
    assert list(tmp_path.iterdir()) == []


def test_what_may_not_leave_does_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    forbidden = run_of_fit(
        tmp_path / "a", write_cohort(tmp_path / "embed", crops=12, size=16, origin="embed")
    )
    with pytest.raises(LicenceError, match="the EMBED data use agreement forbids"):
        medigan(checkpoint=str(forbidden), out=str(out), name="M", licence_of_cohort="CC0")
    unknown = run_of_fit(
        tmp_path / "b", write_cohort(tmp_path / "own", crops=12, size=16, origin="own-clinic")
    )
    with pytest.raises(LicenceError, match=r"own-clinic: nobody knows here.*--licence_of_cohort"):
        medigan(checkpoint=str(unknown), out=str(out), name="M")
    assert not out.exists()
    medigan(checkpoint=str(unknown), out=str(out), name="MASSES", licence_of_cohort="CC0")
    stated = "own-clinic: CC0, as stated by whoever exported"
    assert stated in metadata(out / "MASSES")["selection"]["license"]


def test_what_is_no_generator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        medigan(checkpoint=str(tmp_path / "last.ckpt"), out=str(tmp_path / "out"), name="M")


def test_a_refused_export_leaves_its_folder_free_for_the_right_flags(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(["export", "medigan", *out, "--name", "a b"]) == 1
    assert "Give letters, digits and '_'" in capsys.readouterr().err
    assert main(["export", "medigan", *out, "--name", "A_B"]) == 0
    assert main(["export", "medigan", *out, "--name", "C"]) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
