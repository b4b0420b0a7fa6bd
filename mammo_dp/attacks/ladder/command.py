# SPDX-License-Identifier: Apache-2.0
"""``attack ladder``: fits one private classifier along a list of budgets and attacks each run."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.rule import Rule

from classifier.evaluate import Estimate
from classifier.features import SharedFeatures
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.command import BUDGETS
from mammo_dp.attacks.bounds.corridor import RESOLUTIONS, Questions, corridor
from mammo_dp.attacks.bounds.schedules import NONE, named, of_run
from mammo_dp.attacks.ladder import results
from mammo_dp.attacks.ladder.cells import KAPPA, Rung, findings
from mammo_dp.attacks.ladder.measurements import image_cells, list_cells, membership_cells
from mammo_dp.attacks.ladder.results import BudgetResult
from mammo_dp.attacks.membership.command import membership
from mammo_dp.attacks.membership.results import ATTACK
from mammo_dp.attacks.reconstruction.collect import Known, Targets, collect, known_at, targets_of
from mammo_dp.attacks.reconstruction.observer import SavedCandidates
from mammo_dp.attacks.reconstruction.results import score_signals
from mammo_dp.attacks.reconstruction.updates import LEAST_PX
from mammo_dp.attacks.statistics import LEVEL
from mammo_dp.privacy.statement.seals import sealed_content
from mammo_dp.runs import RunRecord, run_folder, write_text_atomically
from mammo_dp.training_cli import train

Config = dict[str, Any]
_PRIVATE = ("DPCropClassifier", "DPCropsDataModule")
_OPEN = ("CropClassifier", "CropsDataModule")
_DELTA = 1e-4  # of a fit that leaves it open; written out, so that fit and ladder cannot differ
_TARGETS = ("epsilon", "advantage", "tpr", "fpr", "reconstruction")


def read_private(path: str | Path) -> Config:
    """Reads the configuration of a private head on cached features of patients.

    Raises:
        AttackError: If it is another one: what a ladder attacks would not be there.
    """
    content, kinds = _read(path)
    trainable = content["model"]["init_args"].get("trainable", "all")
    unit = content["data"]["init_args"].get("unit", "patient")
    if kinds != _PRIVATE or (trainable, unit) != ("head", "patient"):
        raise AttackError(
            f"{path}: trains {kinds[0]} on {kinds[1]}, trainable {trainable}, unit {unit}. A "
            f"ladder attacks heads on cached features of patients: {' on '.join(_PRIVATE)}, "
            "trainable: head, unit: patient."
        )
    content["model"]["init_args"].setdefault("delta", _DELTA)
    return content


def read_open(path: str | Path) -> Config:
    """Reads the configuration of a classifier without privacy.

    Raises:
        AttackError: If it is another one.
    """
    content, kinds = _read(path)
    if kinds != _OPEN:
        raise AttackError(
            f"{path}: trains {kinds[0]} on {kinds[1]}. The budget none is for {' on '.join(_OPEN)},"
            " such as configs/classifier/baseline.yaml."
        )
    return content


def at_budget(config: Config, epsilon: float, *, crops: str, weights: str | None) -> Config:
    """The same fit at another budget.

    Args:
        config: Of the private classifier.
        epsilon: Target per patient.
        crops: Folder of crops.
        weights: Weights to start from; None leaves those of the configuration.
    """
    changed = on_crops(config, crops=crops, weights=weights)
    arguments = changed["model"]["init_args"]
    for target in (*(f"target_{name}" for name in _TARGETS), "kappa"):
        arguments.pop(target, None)
    arguments["target_epsilon"] = float(epsilon)
    return changed


def with_callbacks(config: Config, callbacks: Mapping[type[Callback], Mapping[str, str]]) -> Config:
    """The same fit with further callbacks, by class and arguments."""
    changed = copy.deepcopy(config)
    changed["trainer"]["callbacks"] = [
        *changed["trainer"].get("callbacks", []),
        *(
            {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": dict(args)}
            for kind, args in callbacks.items()
        ),
    ]
    return changed


def on_crops(config: Config, *, crops: str, weights: str | None) -> Config:
    """The same fit on given crops, from given weights; None leaves those of the configuration."""
    changed = copy.deepcopy(config)
    changed["data"]["init_args"]["crops"] = crops
    if weights is not None:
        changed["model"]["init_args"]["weights"] = weights
    return changed


def _read(path: str | Path) -> tuple[Config, tuple[str, str]]:
    """A configuration, and the names of its model and data."""
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    try:
        model, data = (str(content[part]["class_path"]) for part in ("model", "data"))
        content["model"]["init_args"], content["data"]["init_args"], content["trainer"]
    except (KeyError, TypeError) as error:
        raise AttackError(
            f"{path}: is no configuration of a classifier ({error!r}). Give one like those in "
            "configs/classifier/."
        ) from error
    return content, (model.rpartition(".")[2], data.rpartition(".")[2])


Budget = float | Literal["none"]


def ladder(
    *,
    fit: str,
    crops: str,
    out: str,
    fit_without_privacy: str | None = None,
    weights: str | None = None,
    prior: str | None = None,
    budgets: list[Budget] = list(BUDGETS),  # noqa: B006  jsonargparse copies it
    resolutions: list[int] = list(RESOLUTIONS),  # noqa: B006
    thumbnail: int = 16,
    correlation: float = 0.7,
    patients: int = 30,
    rescore: bool = False,
    seed: int = 0,
) -> None:
    """Fits a private classifier at each budget, attacks each run, and draws the risk corridor.

    Writes ladder.json, ladder.csv, ladder.txt, ladder.png and sheet.png, with images read at each
    budget. Runs lie below runs/, what attacks saw below signals/ and attacks/: private data, as is
    the sheet. An interrupted ladder resumes; what is finished is left alone. Fails if an attack
    refutes a guarantee.

    Args:
        fit: YAML configuration of a private head on cached features, patients drawn, such as
            configs/classifier/dp_finetune.yaml. Its budget is replaced.
        crops: Folder of the crops; train is fitted and attacked, val holds the others.
        out: Folder of everything.
        fit_without_privacy: YAML configuration of the same classifier for the budget "none", such
            as configs/classifier/baseline.yaml.
        weights: Weights that the body starts from.
        prior: Folder of crops of nobody under attack, such as phantoms: what an adversary with a
            prior on mammograms holds, and what blind guesses start from.
        budgets: Epsilons per patient, and "none" for training without privacy. Results say what was
            executed: beyond about 1e7 the smallest noise multiplier, .001, may fall short.
        resolutions: Edges of the images that a malicious server reads, in pixels; those that do
            not divide the edge of the crops are left out.
        thumbnail: The resolution whose probability of being read is shown in the corridor.
        correlation: An image is read from this correlation with the original on.
        patients: Patients whose images are read, one crop each, at least 2.
        rescore: Whether to score the saved signals of a finished ladder again, and write its
            results again.
        seed: Seed of bootstraps; noise comes from the system's entropy.

    Raises:
        AttackError: For input that cannot be attacked, and for a refuted guarantee.
    """
    plan = _plan(
        fit, crops, out, fit_without_privacy, weights, prior, budgets, patients, correlation, seed
    )
    plan.check(resolutions, thumbnail)
    files = {"weights": weights, "prior": prior}
    with run_folder(
        out,
        command="attack ladder",
        config={
            "budgets": [named(budget) for budget in plan.budgets],
            "fit": plan.private,
            "fit_without_privacy": plan.open,
            "resolutions": resolutions,
            "thumbnail": thumbnail,
            "correlation": correlation,
            "patients": patients,
        },
        inputs={"data": Path(crops)} | {k: Path(v) for k, v in files.items() if v is not None},
        seed=seed,
    ) as record:
        if record.is_finished and not rescore:
            print((plan.out / results.TABLE).read_text(encoding="utf-8"))
            _refuse(
                record,
                sealed_content((plan.out / results.LADDER).read_text(encoding="utf-8"))["refuted"],
            )
            return
        console, steps = Console(), []
        edges = plan.edges(resolutions)
        known = known_at(plan.targets, edges)
        for number, budget in enumerate(plan.budgets, start=1):
            title = f"[{number}/{len(plan.budgets)}] budget {named(budget)}"
            console.print(Rule(title, align="left"))
            steps.append(_attack_budget(plan, budget, known, edges))
        results.write(
            plan.out,
            steps,
            plan.targets,
            known.get(thumbnail),
            plan.questions,
            shown=(thumbnail, edges[0]),
            cohort=plan.manifest.sha256,
        )
        _refuse(record, findings(step.rung for step in steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is done at every budget."""

    out: Path
    manifest: CropsManifest
    crops: str
    private: Config
    open: Config | None
    weights: str | None
    budgets: tuple[Budget, ...]
    questions: Questions
    targets: Targets
    seed: int

    def edges(self, resolutions: Sequence[int]) -> list[int]:
        """Resolutions that fit the crops, largest first."""
        edge = self.targets.images.shape[-1]
        return sorted({r for r in resolutions if r >= LEAST_PX and edge % r == 0}, reverse=True)

    def check(self, resolutions: Sequence[int], thumbnail: int) -> None:
        """Refuses what would fail after the fits.

        Raises:
            AttackError: For budgets that are no epsilon, that are all open or that lack a
                configuration, or a thumbnail that is not read.
        """
        if odd := [b for b in self.budgets if not isinstance(b, str) and not 0 < b < math.inf]:
            raise AttackError(
                f"budgets: {', '.join(map(str, odd))}. Give finite epsilons above 0, or none."
            )
        if all(budget == NONE for budget in self.budgets):
            raise AttackError(
                f"budgets={list(self.budgets)}: none is private. Give at least one epsilon."
            )
        if NONE in self.budgets and self.open is None:
            raise AttackError(
                "budgets: none needs a configuration without privacy. Give --fit_without_privacy, "
                "such as configs/classifier/baseline.yaml, or leave none out."
            )
        if thumbnail not in (smaller := self.edges(resolutions)[1:]):
            raise AttackError(
                f"thumbnail={thumbnail}. Give one of the resolutions that divide the edge of the "
                f"crops, {self.targets.images.shape[-1]} px, but for the largest: "
                f"{', '.join(map(str, smaller)) or 'there is none'}."
            )


def _plan(
    fit: str,
    crops: str,
    out: str,
    fit_without_privacy: str | None,
    weights: str | None,
    prior: str | None,
    budgets: Sequence[Budget],
    patients: int,
    correlation: float,
    seed: int,
) -> _Plan:
    """Reads everything, so that bad input is refused before a fit."""
    if patients < 2:
        raise AttackError(f"{patients=}. Give at least 2, or intervals mean nothing.")
    private = read_private(fit)
    manifest = CropsManifest.read(crops)
    known = None if prior is None else CropsManifest.read(prior)
    targets = targets_of(manifest, "train", known, patients)
    return _Plan(
        out=Path(out),
        manifest=manifest,
        crops=crops,
        private=private,
        open=None if fit_without_privacy is None else read_open(fit_without_privacy),
        weights=weights,
        budgets=tuple(dict.fromkeys(budgets)),
        questions=Questions(
            delta=private["model"]["init_args"]["delta"],
            kappas=(KAPPA, 0.1),
            correlation=correlation,
            mean_square=float((targets.images**2).mean()),
        ),
        targets=targets,
        seed=seed,
    )


def _attack_budget(
    plan: _Plan, budget: Budget, known: Mapping[int, Known], edges: Sequence[int]
) -> BudgetResult:
    """Fits, tests and attacks one budget; what is there already is left alone."""
    name = f"eps{named(budget).replace('+', '')}" if budget != NONE else NONE
    run, signals, attacked = (plan.out / of / name for of in ("runs", "signals", "attacks"))
    train(["fit", "--config", str(_config(plan, budget, name)), "--run_dir", str(run)])
    train(["test", "--run", str(run)])
    membership(run=str(run), crops=plan.crops, out=str(attacked), seed=plan.seed)
    (schedule,) = of_run(run)
    mechanism, bound = schedule.mechanism, corridor(schedule.mechanism, plan.questions)
    collect(schedule, plan.targets, known, edges, signals)
    scored = score_signals(
        schedule,
        plan.targets,
        known,
        edges,
        (KAPPA,),
        signals,
        level=LEVEL,
        resamples=1000,
        seed=plan.seed,
    )
    cells = image_cells(scored, known, plan.questions.correlation)
    cells += membership_cells(attacked / ATTACK)
    if mechanism is not None:
        cells += list_cells(
            mechanism,
            epsilon=bound.epsilon,
            delta=plan.questions.delta,
            heads=signals / "candidates.npz",
            canaries=signals / "canaries.npz",
            budgets=len(plan.budgets),
        )
    (metrics,) = run.glob("test_*/metrics.json")
    utility = json.loads(metrics.read_text(encoding="utf-8"))
    rung = Rung(
        name=named(budget),
        noise_multiplier=mechanism.noise_multiplier if mechanism else 0.0,
        epsilon=bound.epsilon,
        accountant=bound.accountant,
        auroc=Estimate(**utility["auroc"]),
        patients=utility["patients"],
        perhaps_seen=utility["perhaps_seen"],
        bounds=bound.as_json(),
        cells=tuple(sorted(cells, key=lambda cell: cell.rung)),
    )
    return BudgetResult(rung=rung, schedule=schedule, scored=scored)


def _config(plan: _Plan, budget: Budget, name: str) -> Path:
    """Writes the configuration of one fit."""
    if isinstance(budget, str):
        assert plan.open is not None
        content = on_crops(plan.open, crops=plan.crops, weights=plan.weights)
    else:
        content = with_callbacks(
            at_budget(plan.private, budget, crops=plan.crops, weights=plan.weights),
            {
                SharedFeatures: {"folder": str((plan.out / "features").resolve())},
                SavedCandidates: {
                    "crops": plan.crops,
                    "file": str(plan.out / "signals" / name / "candidates.npz"),
                },
            },
        )
    path = plan.out / "configs" / f"{name}.yaml"
    write_text_atomically(path, yaml.safe_dump(content, sort_keys=False))
    return path


def _refuse(record: RunRecord, refuted: Sequence[str]) -> None:
    """Fails if a guarantee does not hold."""
    if refuted:
        raise AttackError(
            f"{record.folder}: {len(refuted)} attacks refute a guarantee. Do not release these "
            "runs; sampling, clip, noise or account is wrong.\n"
            + "\n".join(f"- {found}" for found in refuted)
        )
