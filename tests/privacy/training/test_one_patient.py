# SPDX-License-Identifier: Apache-2.0
"""Cohorts that differ by one patient: what is released and not noisy is the same.

Zero-out: the same patients, one of them with black crops, other labels, or fewer crops. With a
declared size also a cohort that lacks the patient.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from classifier.module import CropClassifier
from data_prep.crop_image import save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest, Unit
from mammo_dp.benchmark.mixture import mix
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.lineage import loose_delta
from mammo_dp.privacy.training.calibration import CalibrationError, DPCalibration
from mammo_dp.privacy.training.module import DPTraining
from tests.fixtures import write_cohort
from tests.privacy.statement.verify.chain import DP
from tests.privacy.training.fits import BODY, data, model, quiet, trainer
from tests.privacy.training.generators import gan

pytestmark = quiet
SAME_NUMBER = ("black", "labels", "fewer")
CHANGES = (*SAME_NUMBER, "absent")
# Four patients train. Five are declared, and 40 crops.
BY_PATIENT = [*((change, None) for change in SAME_NUMBER), *((change, 5) for change in CHANGES)]
BY_CROP = [("black", None), ("labels", None), *((change, 40) for change in CHANGES)]
STEPS = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=3)
Pair = tuple[CropsManifest, CropsManifest]


def changed(manifest: CropsManifest, change: str) -> CropsManifest:
    """The cohort, in its folder, with its first patient changed."""
    patient, rng = manifest.crops[0].patient_id, np.random.default_rng(0)
    kept: list[Crop] = []
    for crop in manifest.crops:
        if crop.patient_id != patient or (change == "fewer" and not kept):
            kept.append(crop)
        elif change == "black":
            black = rng.integers(0, 300, (32, 32)).astype(np.uint16)  # of 65,535; none twice
            sha256 = save_crop_image(manifest.folder / crop.file, black)
            kept.append(replace(crop, sha256=sha256, fingerprint=fingerprint(black)))
        elif change == "labels":
            kept.append(replace(crop, malignant=not crop.malignant))
    return CropsManifest.write(manifest.folder, kept)


@pytest.fixture
def pair(change: str, tmp_path: Path) -> Pair:
    return write_cohort(tmp_path / "one"), changed(write_cohort(tmp_path / "other"), change)


def classifier_planned(folder: Path) -> DPTraining:
    return model(optimizer="descent", learning_rate=None, trainable="head")


def classifier_scheduled(folder: Path) -> DPTraining:
    return model(warmup_steps=2, ema_decay=0.9)


def generator(folder: Path) -> DPTraining:
    return gan()


def calibration(folder: Path) -> DPTraining:
    torch.manual_seed(0)
    torch.save({"state_dict": CropClassifier(**BODY).state_dict()}, folder / "body.ckpt")
    weights = str(folder / "body.ckpt")
    return DPCalibration(**BODY, weights=weights, target_epsilon=1e5, delta=1e-3)


FITS: dict[Callable[[Path], DPTraining], dict[str, Any]] = {
    classifier_planned: {},
    classifier_scheduled: {},
    generator: {"image_size": 16},
    calibration: {"rate": 1.0},
}


def without_values(content: Any) -> Any:  # noqa: ANN401  any part of a checkpoint
    """A part of a checkpoint with the shapes of tensors in place of their values."""
    if isinstance(content, Tensor):
        return tuple(content.shape)
    if isinstance(content, dict):
        return {key: without_values(value) for key, value in content.items()}
    return content


def shown(
    make: Callable[[Path], DPTraining], cohort: CropsManifest, folder: Path, **settings: Any
) -> dict[str, Any]:
    """All that a finished fit shows but for the values of its weights."""
    folder.mkdir()
    net, module = make(folder), data(cohort, **(FITS[make] | settings))
    run = trainer(folder, max_steps=3)
    run.fit(net, module)
    run.save_checkpoint(folder / "last.ckpt", weights_only=True)
    public = net.public_gradients()
    return {
        "checkpoint": without_values(torch.load(folder / "last.ckpt", weights_only=True)),
        "noise multiplier": net.noise_multiplier,
        "account": net.executed,
        "divisor": module.sampling.expected_units,
        "draws": len(module.train_dataloader()),
        "learning rate": getattr(net, "learning_rate", None),
        "public gradients": {p.shape: g.shape for p, g in public.items()},
    }


def both(make: Callable[[Path], DPTraining], pair: Pair, folder: Path, **settings: Any) -> Any:  # noqa: ANN401
    return (
        shown(make, cohort, folder / f"fit_{cohort.folder.name}", **settings) for cohort in pair
    )


@pytest.mark.parametrize("make", FITS)
@pytest.mark.parametrize(("change", "size"), BY_PATIENT)
def test_a_fit_shows_nothing_of_a_patient(
    make: Callable[[Path], DPTraining],
    size: int | None,
    pair: Pair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, printed = [], []
    for cohort in pair:
        folder = tmp_path / f"fit_{cohort.folder.name}"
        found.append(shown(make, cohort, folder, public_size=size))
        printed.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert printed[0] == printed[1]  # the planned rate stands there


@pytest.mark.parametrize(("change", "size"), BY_CROP)
def test_a_fit_per_crop_shows_nothing_of_a_patient(
    size: int | None, pair: Pair, tmp_path: Path
) -> None:
    settings = {"unit": "crop", "public_size": size, "crops_per_patient": 20}
    one, other = both(classifier_planned, pair, tmp_path, **settings)
    assert one == other


@pytest.mark.parametrize("change", ["absent"])
def test_without_a_declared_size_the_number_of_patients_shows(pair: Pair, tmp_path: Path) -> None:
    """Which is what zero-out says, and what tells the comparisons above from empty ones."""
    one, other = both(classifier_planned, pair, tmp_path)
    assert one["divisor"] / other["divisor"] == pytest.approx(4 / 3)
    assert one["learning rate"] / other["learning rate"] == pytest.approx(4 / 3)


@pytest.mark.parametrize(("change", "size"), BY_PATIENT)
def test_the_prior_of_a_calibration_and_its_refusal_count_declared_patients(
    size: int | None, pair: Pair, tmp_path: Path
) -> None:
    found = []
    for cohort in pair:
        net, module = calibration(tmp_path), data(cohort, rate=1.0, public_size=size)
        trainer(tmp_path, max_steps=3).fit(net, module)
        slope, intercept = (p for p in net.net.parameters() if p.requires_grad)
        with torch.no_grad():
            slope.fill_(3.0)
            intercept.fill_(-1.0)
        prior = net.public_gradients()
        weak = DPCalibration(
            **BODY, weights=str(tmp_path / "body.ckpt"), target_epsilon=0.1, delta=1e-3
        )
        with pytest.raises(CalibrationError) as refused:
            trainer(tmp_path, max_steps=3).fit(weak, module)
        found.append((prior[slope].item(), prior[intercept].item(), str(refused.value)))
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(2 / (size or 4))


@pytest.mark.parametrize(("change", "size"), BY_PATIENT)
def test_evolved_crops_show_nothing_of_a_patient_but_through_votes(
    size: int | None, pair: Pair, tmp_path: Path
) -> None:
    found = []
    for cohort in pair:
        folder = tmp_path / f"evolved_{cohort.folder.name}"
        flags = ["--target_epsilon=8", "--delta=1e-3", "--candidates=4", "--rounds=2"]
        flags += ["--per_class=3"] + ([f"--public_size={size}"] if size else [])
        crops = ["--crops", str(cohort.folder), "--out", str(folder)]
        assert main(["evolve", *crops, *flags]) == 0
        first, second = (
            json.loads((folder / "rounds" / f"{number:03d}.json").read_text())
            for number in range(2)
        )
        (statement,) = json.loads((folder / "privacy.json").read_text())["statements"]
        assert statement.pop("cohort")  # of the crops themselves
        found.append(
            {
                "account": json.loads((folder / "account.json").read_text())["mechanism"],
                "first candidates": first["candidates"],
                "votes": [np.shape(one["votes"]) for one in (first, second)],
                "numbers": [len(of_class) for of_class in second["candidates"]],
                "crops": [(c.file, c.malignant) for c in CropsManifest.read(folder).crops],
                "stated": (statement["units"], statement["adjacency"], statement["delta"]),
            }
        )
    assert found[0] == found[1]
    adjacency = "zero-out" if size is None else "add-or-remove"
    assert found[0]["stated"][:2] == (size or 4, adjacency)


@pytest.mark.parametrize(("change", "size"), BY_PATIENT)
def test_released_means_show_nothing_of_a_patient_but_through_sums(
    size: int | None, pair: Pair, tmp_path: Path
) -> None:
    body = CropClassifier(**BODY)
    stored = {"state_dict": body.state_dict(), "hyper_parameters": dict(body.hparams)}
    torch.save(stored, tmp_path / "body.ckpt")
    found = []
    for cohort in pair:
        folder = tmp_path / f"means_{cohort.folder.name}"
        line = ["release-means", "--crops", str(cohort.folder), "--out", str(folder)]
        line += ["--checkpoint", str(tmp_path / "body.ckpt"), "--allow_unbounded", "true"]
        line += ["--target_epsilon=8", "--delta=1e-3"] + ([f"--public_size={size}"] if size else [])
        assert main(line) == 0
        content = torch.load(folder / "means.pt", weights_only=True)
        sums = content.pop("sums")
        assert sums.isfinite().all()
        net = {name: tensor.tolist() for name, tensor in content.pop("net").items()}
        found.append((content, net, sums.shape))
    assert found[0] == found[1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_mixture_takes_the_same_synthetic_crops(pair: Pair, tmp_path: Path) -> None:
    made = write_cohort(tmp_path / "made", origin="gan:0", crops=60, seed=3)
    ledger = PrivacyLedger(accesses=(Access.of_unknown("A generator", "another"),))
    write_statement(made.folder, ledger, artefact=made.folder / "crops.csv")
    found = []
    for cohort in pair:
        out = tmp_path / f"mixed_{cohort.folder.name}"
        mix(str(cohort.folder), str(made.folder), 8, str(out))
        crops = CropsManifest.read(out).crops
        found.append([crop for crop in crops if crop.is_synthetic])
    assert found[0] == found[1]
    assert len(found[0]) == 16


@pytest.mark.parametrize("unit", ["patient", "crop"])
@pytest.mark.parametrize("change", CHANGES)
def test_numbers_and_words_of_a_statement_show_nothing_of_a_patient(unit: Unit, pair: Pair) -> None:
    found = []
    for cohort in pair:
        access = Access.of_training(
            "fit",
            cohort,
            "train",
            unit=unit,
            mechanism=STEPS,
            public_size=40,
            crops_per_patient=20,
        )
        ledger = PrivacyLedger().plus(access)
        (statement,) = ledger.statements(1e-3)
        stored = statement.as_json()
        assert stored.pop("cohort")  # of the crops themselves
        shared = access.as_json()
        assert shared["cohort"].pop("tag")  # a keyed hash
        found.append((stored, shared, statement.sentence, loose_delta(ledger)))
    assert found[0] == found[1]


@pytest.mark.parametrize("change", SAME_NUMBER)
def test_so_does_zero_out_at_a_number_of_patients_that_is_public(pair: Pair) -> None:
    found = []
    for cohort in pair:
        ledger = PrivacyLedger().plus(Access.of_training("fit", cohort, "train", mechanism=STEPS))
        (statement,) = ledger.statements(1e-3)
        stored = statement.as_json()
        assert stored.pop("cohort")
        found.append((stored, statement.sentence, loose_delta(ledger)))
    assert found[0] == found[1]


# The number of patients itself: section 1 of the note on privacy.


def one_step(patients: int, folder: Path, **settings: Any) -> Tensor:
    """Noise that one plain step leaves in each weight, nobody being drawn."""
    manifest = write_cohort(folder / f"{patients}", patients=66, crops=66)
    train = list(dict.fromkeys(c.patient_id for c in manifest.crops if c.split == "train"))
    gone = set(train[patients:])
    kept = [crop for crop in manifest.crops if crop.patient_id not in gone]
    manifest = CropsManifest.write(manifest.folder, kept)
    torch.manual_seed(0)
    net = model(optimizer="sgd", learning_rate=1e4, target_epsilon=0.5)
    before = torch.cat([p.detach().flatten().clone() for p in net.net.parameters()]).double()
    module = data(manifest, rate=1e-9, insecure_seed=1, **settings)
    trainer(folder, max_steps=1).fit(net, module)
    after = torch.cat([p.detach().flatten() for p in net.net.parameters()]).double()
    assert module.sampling.units == patients
    return after - before


def test_the_noise_of_41_patients_and_of_40_differs_unless_the_divisor_is_declared(
    tmp_path: Path,
) -> None:
    for size, ratio in ((None, 41 / 40), (41, 1.0), (600, 1.0)):
        more, fewer = (
            float(one_step(patients, tmp_path / f"{size}", public_size=size).std())
            for patients in (41, 40)
        )
        assert more > 0
        assert fewer / more == pytest.approx(ratio, rel=1e-4)


def test_the_default_says_zero_out_and_a_declared_size_add_or_remove(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dp.json").write_text(json.dumps(DP))
    fit = ["fit", "--config", "dp.json", "--data.init_args.crops", str(cohort.folder)]
    for flags, adjacency, counted in (
        ([], "zero-out", "(4 patients)"),
        (["--data.init_args.public_size=50"], "add-or-remove", "(50 patients, declared)"),
        (
            ["--data.init_args.unit=crop", "--data.init_args.crops_per_patient=20"],
            "zero-out",
            "(4 patients, up to 20 crops each)",
        ),
    ):
        assert main([*fit, "--run_dir", f"run{len(flags)}{adjacency}", *flags]) == 0
        folder = Path(f"run{len(flags)}{adjacency}")
        (statement,) = json.loads((folder / "privacy.json").read_text())["statements"]
        assert statement["adjacency"] == adjacency
        text = (folder / "PRIVACY.md").read_text()
        assert counted in text
        knows = "all other patients" + " and how many there are" * (adjacency == "zero-out")
        assert f"an attacker who knows {knows}, and the release" in text
        assert main(["privacy", "verify", str(folder)]) == 0


@pytest.mark.parametrize("size", [0, -3])
def test_no_patients_cannot_be_declared(size: int, cohort: CropsManifest) -> None:
    with pytest.raises(PrivacyError, match=f"public_size={size} is no number of patients"):
        data(cohort, public_size=size).sampling  # noqa: B018  checks


def test_more_crops_than_declared_are_refused(cohort: CropsManifest) -> None:
    most = max(map(len, cohort.units(cohort.rows("train"), "patient")))
    assert data(cohort, unit="crop", crops_per_patient=most).sampling.unit == "crop"
    with pytest.raises(
        PrivacyError, match=rf"crops_per_patient={most - 1}, but a patient .*{most}"
    ):
        data(cohort, unit="crop", crops_per_patient=most - 1).sampling  # noqa: B018  checks
    assert data(cohort, crops_per_patient=1).sampling.unit == "patient"  # of no account there


def test_delta_is_below_one_over_the_declared_size_and_over_the_true_one(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match=r"delta=0.001 is not below 1/2000"):
        trainer(tmp_path).fit(model(), data(cohort, public_size=2000))
    with pytest.raises(PrivacyError, match=r"delta=0.5 is not below 1/4"):
        trainer(tmp_path).fit(model(delta=0.5), data(cohort, public_size=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"public_size": 5}, "ran with public_size None, now 5"),
        ({"unit": "crop", "crops_per_patient": 20}, "ran with unit patient, now crop"),
    ],
)
def test_a_resumed_run_keeps_its_unit_and_divisor(
    cohort: CropsManifest, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = trainer(tmp_path, max_steps=2)
    run.fit(model(trainable="head"), data(cohort, rate=1.0))
    run.save_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(PrivacyError, match=message):
        trainer(tmp_path, max_steps=2).fit(
            model(trainable="head"),
            data(cohort, rate=1.0, **change),
            ckpt_path=tmp_path / "half.ckpt",
        )
