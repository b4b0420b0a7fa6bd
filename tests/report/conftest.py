# SPDX-License-Identifier: Apache-2.0
"""A tree of run folders as the commands write them, with made-up numbers."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from classifier.predictions import Predictions, read_predictions, write_predictions
from classifier.stress import write_stress
from data_prep.manifest import CropsManifest, View
from mammo_dp.attacks.membership.results import score
from mammo_dp.attacks.membership.scores import LOSS_THRESHOLD
from mammo_dp.attacks.membership.signals import Signals, write_signals
from mammo_dp.attacks.statistics import Bounds
from mammo_dp.privacy.statement.document import SCHEMA, write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.seals import identity_of_run, seal
from mammo_dp.runs import close_run, file_sha256, open_run, read_run
from tests.fixtures import write_cohort

NOISE = {1: 20.3, 6: 4.33, 60: 0.961}  # rate 1/9, 2700 steps, delta 1e-4
RISK = {  # PLD epsilon, advantage, TPR at 1 % FPR, reconstruction robustness at 1/578
    1: (0.901, 0.113, 0.021, 0.0042),
    6: (5.48, 0.499, 0.164, 0.058),
    60: (56.1, 0.9995, 1.0, 1.0),
}
BECAUSE = (
    "Patients of phantom-archive/train have no guarantee: the generator was trained on them "
    "without DP."
)
EXCLUSIONS = ["metrics and predictions on private data", "choice of the learning rate"]


PRIVACY = """# Privacy statement

What is said of `last.ckpt`, where 1 < 2.

## Who is covered

| an attacker | at most |
| --- | --- |
| tells members from others | 0.5 |

## What is not covered

- metrics and predictions on private data

## Randomness

- draws: the system's entropy.
"""


def write_sealed(path: Path, content: Mapping[str, object]) -> None:
    """A statement as this machine's key seals it."""
    plain = {name: value for name, value in content.items() if name != "seal"}
    path.write_text(json.dumps({**plain, "seal": seal(plain)}))


@dataclass(frozen=True)
class Tree:
    """Folders of the fixture."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def data(self, name: str) -> Path:
        return self.root / "data" / name

    def prepare(self, name: str, origin: str, seed: int = 0) -> None:
        folder = self.data(name)
        record = open_run(folder, command=f"prepare {name}", config={}, inputs={}, seed=seed)
        manifest = write_cohort(
            folder,
            patients=30,
            crops=60 if name == "cohort" else 12,
            size=16,
            origin=origin,
            seed=seed,
        )
        views: tuple[View, ...] = ("CC", "MLO")
        written = CropsManifest.write(
            folder,
            [replace(c, view=views[i % 2]) for i, c in enumerate(manifest.crops)],
        )
        if origin == "phantom":
            write_statement(folder, PrivacyLedger(), artefact=folder / "crops.csv")
        elif (folder / "privacy.json").exists():
            write_statement(folder, PrivacyLedger(), about=written.sha256)
        close_run(record)

    def fit(
        self, name: str, data: str, *, weights: str | None = None, epsilon: int | None = None
    ) -> Path:
        folder = self.runs / name
        inputs = {"data": self.data(data)}
        if weights:
            inputs["weights"] = self.runs / weights / "checkpoints" / "last.ckpt"
        record = open_run(
            folder,
            command="fit",
            config={"model": {"class_path": "mammo_dp.CropClassifier"}, "epsilon": epsilon},
            inputs=inputs,
            seed=42,
        )
        checkpoint = folder / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text(f"weights of {name}")
        (folder / "config.yaml").write_text("seed_everything: 42\n")
        voided = bool(weights and "gan" in weights)
        statements = []
        if data == "cohort":
            cohort = record.inputs["data"].sha256
            statements = [self.statement(cohort, epsilon, voided) | {"own": True}]
        privacy = {
            "schema": SCHEMA,
            "artefact": {"path": "checkpoints/last.ckpt", "sha256": file_sha256(checkpoint)},
            "summary": f"Summary of {name}.",
            "statements": statements,
            "accesses": [],
            "exclusions": EXCLUSIONS + (["the body was chosen by eye"] if voided else []),
            "randomness": {},
            "precision": "32-true",
            "text_sha256": hashlib.sha256(PRIVACY.encode()).hexdigest(),
        }
        write_sealed(folder / "privacy.json", privacy)
        (folder / "PRIVACY.md").write_text(PRIVACY)
        close_run(record)
        return folder

    @staticmethod
    def statement(cohort: str, epsilon: int | None, voided: bool) -> dict[str, object]:
        infinite = epsilon is None or voided
        stated, advantage, tpr, rero = RISK.get(epsilon or 0, (0.0, 1.0, 1.0, 1.0))
        bound = (lambda value: 1.0) if infinite else (lambda value: value)
        mechanism = {
            "noise_multiplier": NOISE[epsilon] if epsilon else None,
            "sampling_rate": 1 / 9 if epsilon else None,
            "steps": 2700 if epsilon else None,
            "crops_of_unit": 1 if epsilon else None,
        }
        return {
            "cohort": cohort,
            "cohort_name": "phantom-archive/train",
            "split": "train",
            "own": False,
            "unit": "patient",
            "units": 578,
            "crops_per_patient": None,
            "epsilon": "infinity" if infinite else stated,
            "delta": 1e-4,
            "adjacency": "zero-out",
            "accountant": "" if infinite else "PLD, dp-accounting 0.6.0",
            "epsilon_rdp": "infinity" if infinite else stated + 0.5,
            "epsilon_by_crops": [],
            "mechanisms": [{**mechanism, "stage": "fit"}] if epsilon else [],
            "selection": None,
            "risk": {
                "advantage": bound(advantage),
                "tpr_at_fpr": {"0.01": bound(tpr), "0.001": bound(tpr / 5)},
                "reconstruction_robustness": {"0.00173010": bound(rero), "0.1": bound(0.6)},
            },
            "because": BECAUSE
            if voided
            else ("Noisy steps on Poisson samples." if epsilon else "It was trained without DP."),
            "covers": "the final weights",
            "exclusions": EXCLUSIONS,
            **mechanism,
        }

    def test(self, name: str, auroc: float) -> Path:
        folder = self.runs / name / "test_val"
        record = open_run(
            folder,
            command="test",
            config={"data": {"init_args": {"evaluate_split": "val"}}},
            inputs={
                "data": self.data("cohort"),
                "checkpoint": self.runs / name / "checkpoints" / "last.ckpt",
            },
            seed=42,
        )

        def cell(value: float, half: float = 0.05) -> dict[str, float]:
            return {"value": value, "low": value - half, "high": value + half}

        metrics = {
            "auroc": cell(auroc),
            "auprc": cell(auroc - 0.05),
            "sensitivity_at_90_specificity": cell(0.2),
            "brier": cell(0.24, 0.02),
            "calibration_slope": {"value": 0.8, "low": None, "high": None},
            "calibration_intercept": cell(0.1),
            "crops": 201,
            "patients": 102,
            "malignant": 80,
            "level": 0.95,
            "resamples": 2000,
            "split": "val",
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
        manifest = CropsManifest.read(self.data("cohort"))
        rows = manifest.rows("val")
        patients = {manifest.crops[row].patient_id for row in manifest.rows()}
        place = {patient: position for position, patient in enumerate(sorted(patients))}
        malignant = np.array([manifest.crops[row].malignant for row in rows], np.int64)
        noise = np.random.default_rng(len(name)).standard_normal(len(rows))
        predictions = Predictions(
            row=np.array(rows),
            patient=np.array([place[manifest.crops[row].patient_id] for row in rows]),
            malignant=malignant,
            logit=malignant - 0.5 + noise,
        )
        write_predictions(folder / "predictions.csv", predictions)
        close_run(record)
        return folder

    def stress(self, name: str) -> Path:
        """Made-up distortions: noise on the scores of ``test``, and twice the scores."""
        tested = read_run(self.runs / name / "test_val")
        folder = self.runs / name / "stress_val"
        record = open_run(
            folder,
            command="test",
            config=dict(tested.config) | {"stress": True},
            inputs={role: Path(entry.path) for role, entry in tested.inputs.items()},
            seed=42,
        )
        plain = read_predictions(tested.folder / "predictions.csv")
        noise = np.random.default_rng(1).standard_normal(len(plain.row))
        scored = {
            "none": plain,
            "noise": replace(plain, logit=plain.logit + 2 * noise),
            "gain": replace(plain, logit=2 * plain.logit),
        }
        write_stress(folder, scored, split="val")
        close_run(record)
        return folder

    def attack(self, name: str, *, shift: float) -> Path:
        run = self.runs / name
        folder = run / "attack_membership"
        checkpoint = run / "checkpoints" / "last.ckpt"
        record = open_run(
            folder,
            command="attack membership",
            config={"run": str(run), "crops": str(self.data("cohort"))},
            inputs={"checkpoint": checkpoint, "data": self.data("cohort")},
            seed=0,
        )
        rng = np.random.default_rng(len(name))
        member = np.arange(680) < 578
        signals = Signals(
            row=np.arange(680),
            patient=np.arange(680),
            member=member,
            malignant=rng.integers(0, 2, 680),
            columns={LOSS_THRESHOLD.name: rng.normal(0, 1, 680) + shift * member},
        )
        write_signals(folder / "scores.csv", signals)
        stored = json.loads((run / "privacy.json").read_text())["statements"][0]
        risk = stored["risk"]
        bounds = Bounds(
            epsilon=float(stored["epsilon"]),
            delta=stored["delta"],
            advantage=risk["advantage"],
            tpr_at_fpr={float(k): v for k, v in risk["tpr_at_fpr"].items()},
        )
        result = score(signals, [LOSS_THRESHOLD], unit="patient", bounds=bounds)
        found = result.as_json() | {"run": identity_of_run(record)}
        write_sealed(folder / "attack.json", found)
        close_run(record)
        return folder


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The usual tree, for tests that only read it."""
    return build_tree(tmp_path_factory.mktemp("tree"), (6,), ("phantom", "gan"), leak=False)


@pytest.fixture(scope="session")
def built_trees() -> dict[object, Tree]:
    """Trees that were built before, by what they hold."""
    return {}


@pytest.fixture
def make_tree(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, built_trees: dict[object, Tree]
) -> Callable[..., Tree]:
    """Makes data folders, two pre-trainings and any private runs on them, free to be changed."""

    def make(
        epsilons: tuple[int, ...] = (6,),
        starts: tuple[str, ...] = ("phantom", "gan"),
        leak: bool = False,
    ) -> Tree:
        wanted = (epsilons, starts, leak)
        if wanted not in built_trees:
            root = tmp_path_factory.mktemp("built")
            built_trees[wanted] = build_tree(root, epsilons, starts, leak=leak)
        first, copy = built_trees[wanted].root, tmp_path / "tree"
        shutil.copytree(first, copy)
        for record in copy.rglob("run.json"):
            record.write_text(record.read_text().replace(str(first), str(copy)))
        return Tree(copy)

    return make


def build_tree(
    root: Path, epsilons: tuple[int, ...], starts: tuple[str, ...], *, leak: bool
) -> Tree:
    tree = Tree(root)
    tree.prepare("cohort", "phantom-archive")
    tree.prepare("phantoms", "phantom", seed=1)
    tree.prepare("synthetic", "gan:" + "0" * 64, seed=2)
    tree.fit("pretrain_phantom", "phantoms")
    tree.fit("pretrain_gan", "synthetic")
    tree.fit("baseline", "cohort", weights="pretrain_phantom")
    tree.test("baseline", 0.752)
    tree.attack("baseline", shift=0.9)
    for number, epsilon in enumerate(epsilons):
        for start in starts:
            name = f"dp/eps{epsilon}_{start}"
            tree.fit(name, "cohort", weights=f"pretrain_{start}", epsilon=epsilon)
            tree.test(name, 0.61 + 0.04 * number + 0.02 * (start == "gan"))
            tree.attack(name, shift=3.0 if leak else 0.03)
            tree.stress(name)
    return tree
