# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from classifier.module import CropClassifier
from classifier.released import ReleasedClassifier, ReleasedError
from classifier.token_transformer import TokenTransformer
from classifier.whitened import WhitenedFeatures
from data_prep.datamodule import model_input
from data_prep.errors import LicenceError
from data_prep.manifest import CropsManifest
from data_prep.phantoms.crops import write_phantom_crops
from data_prep.transforms import pipeline
from mammo_dp.export import ExportError
from mammo_dp.export import classifier as onnx_model
from mammo_dp.export.classifier import classifier
from mammo_dp.export.shared_classifier import SharedClassifier
from mammo_dp.main import main
from mammo_dp.privacy.commands import explain, verify
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.runs import RunError, file_sha256
from tests.export.classifiers import run_of_classifier
from tests.fixtures import write_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        cohort = write_cohort(folder / "real", origin="cbis-ddsm")
        return run_of_classifier(folder / "dp", cohort, calibration=(0.5, -1.0))


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "hf"
    words = ["export", "classifier", "--run", str(run), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        assert main(words) == 0
        assert main(words) == 0  # finished: nothing to do
    return out / "classifier"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    folder = tmp_path_factory.mktemp("phantoms")
    manifest = write_phantom_crops(folder, per_class=3, size=32, seed=0)
    return torch.stack(
        [model_input(manifest.image(row), pipeline("none", 16)) for row in manifest.rows()]
    )


@torch.inference_mode()
def logits(shared: SharedClassifier, images: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = shared.released.model(images)
    return found


def test_the_folder_holds_what_hubs_expect_and_no_path(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        *("PRIVACY.md", "README.md", "config.json", "model.safetensors"),
        *("preprocessor_config.json", "privacy.json", "privacy_files.json"),
    ]
    for path in exported.iterdir():
        assert str(exported.parent.parent).encode() not in path.read_bytes()
    preprocessor = json.loads((exported / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"height": 16, "width": 16}
    assert preprocessor["crop"]["cutting"]["margin_mm"] == 3.0


def test_the_folder_scores_as_the_run(run: Path, exported: Path, phantoms: torch.Tensor) -> None:
    one, other = SharedClassifier.read(run), SharedClassifier.read(exported)
    assert torch.equal(logits(one, phantoms), logits(other, phantoms))
    assert one.released.calibration == other.released.calibration is not None
    assert one.crops == other.crops is not None
    assert one.statement_sha256 == other.statement_sha256
    assert one.checkpoint_sha256 == other.checkpoint_sha256


def test_timm_alone_reads_the_folder(run: Path, exported: Path, phantoms: torch.Tensor) -> None:
    net = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    with torch.inference_mode():
        found = net(phantoms).squeeze(-1)
    assert torch.equal(found, logits(SharedClassifier.read(run), phantoms))


def test_adapters_are_merged(tmp_path: Path, cohort: CropsManifest, phantoms: torch.Tensor) -> None:
    lora = run_of_classifier(tmp_path / "run", cohort, trainable="lora", lora_rank=2)
    classifier(run=str(lora), out=str(tmp_path / "out"))
    there = SharedClassifier.read(tmp_path / "out" / "classifier")
    here = logits(SharedClassifier.read(lora), phantoms)
    assert torch.allclose(logits(there, phantoms), here, atol=1e-5)
    assert not any("lora" in key for key in there.released.model.state_dict())


def test_onnx_scores_as_the_run_for_any_number_of_crops(
    run: Path, tmp_path: Path, phantoms: torch.Tensor
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    classifier(run=str(run), out=str(tmp_path / "out"), format="onnx")
    folder = tmp_path / "out" / "classifier"
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    shared = SharedClassifier.read(run)
    expected = logits(shared, phantoms).double().numpy()
    for count in (1, len(phantoms)):
        found = session.run(None, {"image": phantoms[:count].numpy()})
        wanted = expected, 1 / (1 + np.exp(-expected)), 1 / (1 + np.exp(1 - 0.5 * expected))
        for column, value in zip(found, wanted, strict=True):
            np.testing.assert_allclose(column, value[:count], atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert (
        facts["statement_sha256"] == shared.statement_sha256 == file_sha256(folder / "privacy.json")
    )
    assert facts["checkpoint_sha256"] == shared.checkpoint_sha256
    assert b"classifier.py" not in (folder / "model.onnx").read_bytes()  # of whose machine
    with pytest.raises(ExportError, match=r"holds model\.onnx, which other programs run"):
        SharedClassifier.read(folder)


def test_without_the_packages_onnx_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "_PACKAGES", ("onnx_that_is_missing",))
    with pytest.raises(ExportError, match=r"onnx_that_is_missing: not installed.*\[export\]"):
        classifier(run=str(run), out=str(tmp_path / "out"), format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_statement_goes_along_unchanged_and_the_export_can_be_verified(
    run: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("privacy.json", "PRIVACY.md"):
        assert (exported / name).read_bytes() == (run / name).read_bytes()
    verify(str(exported.parent))
    assert "all that was checked agrees" in capsys.readouterr().out
    explain(str(exported))
    in_place = capsys.readouterr().out
    explain(str(run))
    assert in_place.startswith(capsys.readouterr().out.split("Note:")[0].rstrip())
    verify(str(exported))
    summary = json.loads((run / "privacy.json").read_text())["summary"]
    assert f"{exported}: all that was checked agrees" in (said := capsys.readouterr().out)
    assert summary in said


@pytest.mark.parametrize("check", [explain, verify])
def test_an_export_with_other_weights_says_nothing_of_its_statement(
    exported: Path, tmp_path: Path, check: Callable[[str], None]
) -> None:
    altered = shutil.copytree(exported, tmp_path / "altered")
    (altered / "model.safetensors").write_bytes(b"of a fit without DP")
    with pytest.raises(PrivacyError, match=r"model\.safetensors: was altered"):
        check(str(altered))


def test_the_card_says_who_is_protected_how_it_is_used_and_what_belongs_together(
    run: Path, exported: Path
) -> None:
    card, shared = (exported / "README.md").read_text(), SharedClassifier.read(run)
    for part in (
        "library_name: timm",
        "malignancy, differential-privacy]",
        "trained under a privacy guarantee",
        "sigmoid(0.5 x logit -1)",
        json.loads((run / "privacy.json").read_text())["summary"],
        "cbis-ddsm: CC BY 3.0",
        "3 mm larger on each side and at least 6.4 mm wide",
        "Not for diagnosis",
        shared.statement_sha256,
        shared.checkpoint_sha256,
        file_sha256(exported / "model.safetensors"),
    ):
        assert part in card, part
    assert "no guarantee (see Privacy)" not in card


def test_the_card_of_a_classifier_without_privacy_claims_none(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    plain = run_of_classifier(tmp_path / "run", cohort, mechanism=None)
    classifier(run=str(plain), out=str(tmp_path / "out"))
    card = (tmp_path / "out" / "classifier" / "README.md").read_text()
    assert "epsilon = infinity" in card
    assert "have no guarantee (see Privacy)" in card
    for claim in ("differential-privacy", "under a privacy guarantee", "the guarantee covers"):
        assert claim not in card


def edit_calibration(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"slope": 0.5', '"slope": 5.0'))


def edit_statement(folder: Path) -> None:
    path = folder / "privacy.json"
    path.write_text(path.read_text().replace("epsilon = ", "epsilon = 0."))


def edit_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def forget_seal(folder: Path) -> None:
    path = folder / "privacy_files.json"
    content = json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps(content))


def edit_list(folder: Path) -> None:
    edit_calibration(folder)
    path = folder / "privacy_files.json"
    content = json.loads(path.read_text())
    content["files"]["config.json"] = file_sha256(folder / "config.json")
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_calibration, r"config\.json differ from what privacy_files\.json lists"),
        (forget_seal, "is no sealed list of files"),
        (edit_list, "does not fit its seal"),
        (edit_statement, r"privacy\.json differ from what privacy_files\.json lists"),
        (edit_weights, r"model\.safetensors differ from"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors differ"),
        (lambda folder: (folder / "privacy.json").unlink(), "no readable privacy statement"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is no config of an exported"),
    ],
)
def test_what_was_altered_on_the_way_is_refused(
    exported: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    received = shutil.copytree(exported, tmp_path / "received")
    SharedClassifier.read(received)
    change(received)
    with pytest.raises((ExportError, PrivacyError), match=message):
        SharedClassifier.read(received)


def test_an_export_can_be_relied_on_in_place_and_elsewhere(exported: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(exported, tmp_path / "received")
    for folder in (exported, elsewhere):
        assert SharedClassifier.read(folder).doubt == ""


def test_what_may_not_leave_does_not(
    tmp_path: Path, exported: Path, checkpoint: Path, cohort: CropsManifest
) -> None:
    out = str(tmp_path / "out")
    embed = write_cohort(tmp_path / "embed", origin="embed")
    forbidden = run_of_classifier(tmp_path / "run", embed)
    with pytest.raises(LicenceError, match="the EMBED data use agreement forbids"):
        classifier(run=str(forbidden), out=out)
    with pytest.raises(ReleasedError, match="is no crop classifier; it holds average"):
        classifier(run=str(checkpoint.parent.parent), out=out)
    with pytest.raises(RunError, match="is an export already"):
        classifier(run=str(exported), out=out)
    with pytest.raises(RunError, match="is no readable run record"):
        classifier(run=str(cohort.folder), out=out)
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("backbone", "more"),
    [("crop_features", {}), ("crop_tokens", {"grid": 2, "width": 48})],
)
def test_graphs_of_whitened_bodies_are_exact_on_flat_and_faint_crops(
    backbone: str, more: dict[str, Any], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    public = {"public": "test_byobnet", "stages": [1], "public_size": 64, "symmetries": 1}
    model = CropClassifier(
        backbone=backbone,
        backbone_args={"components": 8, **public, **more},
        image_size=64,
        trainable="head",
    )
    body = model.net
    assert isinstance(body, WhitenedFeatures)
    torch.nn.init.normal_(body.head.weight)
    random = torch.Generator().manual_seed(0)
    crops = (
        torch.randn(24, 1, 64, 64, generator=random)
        * torch.logspace(-4, -0.5, 24)[:, None, None, None]
    )
    crops[:4, :, :32] = 1.0  # saturated halves
    crops[4] = -1.0
    with torch.no_grad():
        if isinstance(body, TokenTransformer):
            body.standardise_maps(body.maps(crops))
        body.whiten(body.numbers(crops))
        expected = model.eval()(crops)
    onnx_model.write_onnx(
        tmp_path / "m.onnx", ReleasedClassifier(model=model, calibration=None), {}
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": crops.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)
