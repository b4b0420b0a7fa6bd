# SPDX-License-Identifier: Apache-2.0
"""``attack ladder``: one private classifier fitted along a list of budgets, each run attacked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from rich.console import Console
from rich.rule import Rule

from classifier.evaluate import Estimate
from data_prep.manifest import CropsManifest
from mammo_dp.attacks.bounds.command import BUDGETS
from mammo_dp.attacks.bounds.corridor import RESOLUTIONS, Questions, corridor
from mammo_dp.attacks.bounds.from_scratch import expected_observations
from mammo_dp.attacks.bounds.schedules import NONE, Schedule, named, of_run
from mammo_dp.attacks.ladder import configs, figure, identify, readings, sheets, tables
from mammo_dp.attacks.ladder.cells import Rung, findings, membership_cells
from mammo_dp.attacks.ladder.curve import Curve, curve
from mammo_dp.attacks.ladder.readings import Reading, Targets
from mammo_dp.attacks.membership.command import ATTACK, membership
from mammo_dp.attacks.signals import AttackError
from mammo_dp.runs import close_run, open_run, write_text_atomically
from mammo_dp.training_cli import train

LADDER, FIGURE, SHEETS = "ladder.json", "ladder.png", "sheets"
_OBSERVERS = "mammo_dp.attacks.ladder.observers"
_REFERENCES = 500  # images behind a prior; more add little and take time


def ladder(
    *,
    fit: str,
    crops: str,
    out: str,
    weights: str | None = None,
    reference: str | None = None,
    budgets: list[float | Literal["none"]] = list(BUDGETS),  # noqa: B006  jsonargparse copies it
    resolutions: list[int] = list(RESOLUTIONS),  # noqa: B006
    thumbnail: int = 16,
    correlation: float = 0.7,
    targets: int = 30,
    seed: int = 0,
) -> None:
    """Fits a private classifier at each budget, attacks each run, and draws the risk corridor.

    Writes ladder.json, ladder.csv, ladder.txt, ladder.png and sheets of reconstructed images. Runs
    lie below runs/, what the attacks saw below signals/ and attacks/: private data, as are the
    sheets. An interrupted ladder goes on; what is finished is left alone. Fails if an attack
    refutes a guarantee.

    Args:
        fit: YAML configuration of a private classifier: a head on cached features, patients drawn,
            such as configs/classifier/dp_finetune.yaml. Its budget is replaced.
        crops: Folder of the crops; train is fitted and attacked, val holds the others.
        out: Folder of everything.
        weights: Weights that the body starts from.
        reference: Folder of crops of nobody under attack, such as phantoms: what an adversary with
            a prior on mammograms knows, and what blind guesses start from.
        budgets: Epsilons per patient, and none for training without privacy.
        resolutions: Edges of the images that a malicious server reads, in pixels; those that the
            edge of the crops is no multiple of are left out.
        thumbnail: The resolution whose chance of being read is drawn in the corridor.
        correlation: An image is read from this correlation with the original on.
        targets: Patients whose images are read, at least 2.
        seed: Seed of bootstraps and of draws from the prior; noise comes from the system's entropy.

    Raises:
        AttackError: For input that cannot be attacked, and for a refuted guarantee.
    """
    config = configs.read_config(fit)
    attacked = _targets(crops, reference, correlation, targets)
    plan = _Plan(
        out=Path(out),
        crops=crops,
        config=config,
        weights=weights,
        budgets=tuple(dict.fromkeys(budgets)),
        questions=_questions(config, attacked),
        targets=attacked,
        resolutions=resolutions,
        thumbnail=thumbnail,
        seed=seed,
    )
    optional = {"weights": weights, "reference": reference}
    record = open_run(
        out,
        command="attack ladder",
        config={
            "budgets": [named(budget) for budget in plan.budgets],
            "fit": plan.config,
            "resolutions": plan.edges,
            "thumbnail": thumbnail,
            "correlation": correlation,
            "targets": targets,
        },
        inputs={"data": Path(crops)} | {k: Path(v) for k, v in optional.items() if v is not None},
        seed=seed,
    )
    if record.is_finished:
        print((plan.out / "ladder.txt").read_text())
        return
    console, steps = Console(), []
    for number, budget in enumerate(plan.budgets, start=1):
        console.print(Rule(f"[{number}/{len(plan.budgets)}] budget {named(budget)}", align="left"))
        steps.append(_climb(plan, budget))
    refuted = _write(plan, steps, console)
    if refuted:
        raise AttackError(
            f"{out}: {len(refuted)} attacks refute a guarantee. Do not release these runs; "
            "sampling, clip, noise or account is wrong.\n"
            + "\n".join(f"- {found}" for found in refuted)
        )
    close_run(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is done at every budget."""

    out: Path
    crops: str
    config: configs.Config
    weights: str | None
    budgets: tuple[float | Literal["none"], ...]
    questions: Questions
    targets: Targets
    resolutions: Sequence[int]
    thumbnail: int
    seed: int

    def __post_init__(self) -> None:
        """Refuses what would fail after the fits.

        Raises:
            AttackError: For budgets without privacy only, or a thumbnail that is no resolution.
        """
        if not any(isinstance(budget, float | int) for budget in self.budgets):
            raise AttackError(
                f"budgets={list(self.budgets)}: none is private. Give at least one epsilon."
            )
        edge = self.edges[-1]
        if self.thumbnail not in self.edges or self.thumbnail == edge:
            raise AttackError(
                f"thumbnail={self.thumbnail}. Give one of the resolutions below {edge}: "
                f"{', '.join(map(str, self.edges[:-1]))}."
            )

    @property
    def edges(self) -> list[int]:
        """Resolutions that fit the crops."""
        return readings.resolutions_of(self.targets.images.shape[-1], self.resolutions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One budget, attacked."""

    rung: Rung
    schedule: Schedule
    readings: Mapping[int, Reading]


def _targets(crops: str, reference: str | None, correlation: float, most: int) -> Targets:
    if most < 2:
        raise AttackError(f"targets={most}. Give at least 2 patients.")
    known = None if reference is None else readings.first_crops(reference, None, _REFERENCES)
    images = readings.first_crops(crops, "train", most)
    if known is not None and known.shape[1:] != images.shape[1:]:
        raise AttackError(
            f"{reference}: crops of {known.shape[-1]} px, those under attack have "
            f"{images.shape[-1]} px. Prepare both at one size."
        )
    return Targets(images=images, reference=known, correlation=correlation)


def _questions(config: configs.Config, attacked: Targets) -> Questions:
    delta: float = config["model"]["init_args"].get("delta", 1e-4)
    return Questions(
        delta=delta,
        kappas=(identify.KAPPA, 0.1),
        correlation=attacked.correlation,
        mean_square=float((attacked.images**2).mean()),
    )


def _climb(plan: _Plan, budget: float | Literal["none"]) -> _Step:
    """Fits, tests and attacks one budget; what is there already is left alone."""
    name = named(budget)
    folder = "none" if budget == NONE else f"eps{name.replace('+', '')}"
    run, signals = plan.out / "runs" / folder, plan.out / "signals" / folder
    train(["fit", "--config", str(_config(plan, budget, folder)), "--run_dir", str(run)])
    train(["test", "--run", str(run)])
    attacked = plan.out / "attacks" / folder
    membership(run=str(run), crops=plan.crops, out=str(attacked), seed=plan.seed)
    (schedule,) = of_run(run)
    bound = corridor(schedule.mechanism, plan.questions)
    mechanism = schedule.mechanism
    cells = []
    if mechanism is not None:
        cells += identify.cells(
            mechanism,
            epsilon=bound.epsilon,
            delta=plan.questions.delta,
            heads=signals / "candidates.npz",
            canaries=signals / "canaries.npz",
            budgets=len(plan.budgets),
        )
    read = {
        edge: readings.read_images(
            plan.targets,
            noise_multiplier=mechanism.noise_multiplier if mechanism else 0.0,
            observations=expected_observations(mechanism) if mechanism else 1.0,
            resolution=edge,
            file=signals / f"updates_{edge}px.npz",
            seed=plan.seed,
        )
        for edge in plan.edges
    }
    cells += [cell for reading in read.values() for cell in readings.cells(reading, plan.targets)]
    cells += membership_cells(attacked / ATTACK)
    (metrics,) = run.glob("test_*/metrics.json")
    rung = Rung(
        name=name,
        noise_multiplier=mechanism.noise_multiplier if mechanism else 0.0,
        epsilon=bound.epsilon,
        accountant=bound.accountant,
        auroc=Estimate(**json.loads(metrics.read_text())["auroc"]),
        bounds=bound.as_json(),
        cells=tuple(sorted(cells, key=lambda cell: cell.rung)),
    )
    return _Step(rung=rung, schedule=schedule, readings=read)


def _config(plan: _Plan, budget: float | Literal["none"], folder: str) -> Path:
    """Writes the configuration of one fit."""
    if isinstance(budget, str):
        content = configs.without_privacy(plan.config, crops=plan.crops, weights=plan.weights)
    else:
        content = configs.with_callbacks(
            configs.private(plan.config, budget, crops=plan.crops, weights=plan.weights),
            {
                f"{_OBSERVERS}.SharedFeatures": {"folder": str(plan.out / "features")},
                f"{_OBSERVERS}.SavedCandidates": {
                    "crops": plan.crops,
                    "file": str(plan.out / "signals" / folder / "candidates.npz"),
                },
            },
        )
    path = plan.out / "configs" / f"{folder}.yaml"
    write_text_atomically(path, yaml.safe_dump(content, sort_keys=False))
    return path


def _write(plan: _Plan, steps: Sequence[_Step], console: Console) -> list[str]:
    """Writes tables, figure and sheets.

    Returns:
        What refutes a guarantee, in sentences.
    """
    rungs = [step.rung for step in steps]
    mechanisms = [step.schedule.mechanism for step in steps if step.schedule.mechanism]
    full = plan.edges[-1]
    between = curve(
        mechanisms[0],
        [mechanism.noise_multiplier for mechanism in mechanisms],
        plan.targets,
        (plan.thumbnail, full),
        plan.seed,
    )
    conditions = _conditions(plan, rungs)
    refuted = findings(rungs)
    _write_json(plan, steps, between, conditions, refuted)
    shown = tables.columns(rungs, plan.thumbnail, full)
    made = tables.table(rungs, shown, conditions)
    tables.write_text(plan.out / "ladder.txt", made)
    tables.write_csv(plan.out / "ladder.csv", rungs)
    figure.draw(plan.out / FIGURE, rungs, between, conditions)
    (plan.out / SHEETS).mkdir(exist_ok=True)
    rows = [
        sheets.Row(
            name=step.rung.name if step.schedule.mechanism is None else f"ε {step.rung.name}",
            readings={edge: reading.found for edge, reading in step.readings.items()},
        )
        for step in steps
    ]
    sheets.draw(plan.out / SHEETS / "all.png", rows, (plan.thumbnail, full))
    for step, row in zip(steps, rows, strict=True):
        sheets.draw(plan.out / SHEETS / f"{step.rung.name}.png", [row], (plan.thumbnail, full))
    console.print(made)
    console.print(f"Figure: {plan.out / FIGURE}. {sheets.NOTICE}", highlight=False)
    return refuted


def _write_json(
    plan: _Plan, steps: Sequence[_Step], between: Curve, conditions: str, refuted: Sequence[str]
) -> None:
    content: dict[str, Any] = {
        "schema": 1,
        "unit": "patient",
        "adjacency": "add-or-remove",
        "delta": plan.questions.delta,
        "conditions": conditions,
        "cohort": CropsManifest.read(plan.crops).sha256,
        "correlation": plan.targets.correlation,
        "targets": len(plan.targets.images),
        "resolutions": plan.edges,
        "refuted": list(refuted),
        "budgets": [
            {**step.rung.as_json(), "end_to_end": step.schedule.end_to_end} for step in steps
        ],
        "between": between.as_json(),
    }
    text = json.dumps(content, indent=2, allow_nan=False, default=np.ndarray.tolist)
    write_text_atomically(plan.out / LADDER, text + "\n")


def _conditions(plan: _Plan, rungs: Sequence[Rung]) -> str:
    """Unit, delta, adjacency and accountant of every epsilon."""
    by: dict[str, list[str]] = {}
    for rung in rungs:
        if rung.accountant:
            by.setdefault(rung.accountant, []).append(rung.name)
    sources = list(by)
    others = "".join(f"; {', '.join(by[name])} by {name}" for name in sources[1:])
    return f"per patient, δ = {plan.questions.delta:g}, add-or-remove, by {sources[0]}{others}"
