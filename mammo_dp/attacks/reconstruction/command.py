# SPDX-License-Identifier: Apache-2.0
"""``attack reconstruction``: images of patients out of noisy updates, along budgets."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.manifest import CropsManifest, Split
from data_prep.progress import watched
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.command import BUDGETS
from mammo_dp.attacks.bounds.corridor import RESOLUTIONS
from mammo_dp.attacks.bounds.identification import require_probability
from mammo_dp.attacks.bounds.schedules import Schedule, of_budgets, of_run
from mammo_dp.attacks.reconstruction.collect import (
    Targets,
    collect,
    known_at,
    noise_of,
    targets_of,
)
from mammo_dp.attacks.reconstruction.isolated import ATTACKERS, BLIND
from mammo_dp.attacks.reconstruction.results import Scored, draw_sheet, lines_of, score_signals
from mammo_dp.attacks.reconstruction.updates import LEAST_PX
from mammo_dp.attacks.statements import sealed_statement
from mammo_dp.attacks.statistics import LEVEL
from mammo_dp.privacy.accounting.account import Adjacency, compose
from mammo_dp.privacy.statement.seals import with_seal
from mammo_dp.runs import RunRecord, run_folder, write_text_atomically

RESULT, SHEET, SIGNALS = "reconstruction.json", "sheet.png", "signals"
THREATS = {
    "isolated": (
        "A malicious server chooses model, loss and weights, sends the same in every round, sees "
        "every noisy update, knows in which rounds the target took part and the norm of what it "
        "sent, and has rows that answer to this target alone. Clip and noise are the client's. "
        "`prior` also holds images of others. An assumption about the adversary, no guarantee."
    ),
    "search": (
        "A curious server knows a small model that it did not tamper with and the label, and "
        "searches for an image with the same gradient."
    ),
    "rows": (
        "As isolated, in one round: one of M rows divided by its bias, as published traps do, "
        "against the mean of the M rows."
    ),
    "traps": (
        "A malicious server plants a trap in a classifier and sees one update of a batch. Each "
        "original is compared with its best candidate, which flatters: see blind_best_match."
    ),
    "lists": (
        "The adversary of the guarantee: all other patients, every noisy update, a list with the "
        "target on it. Worst case: gradients at the clipping norm that nobody else has. Bound: "
        "1 - f(kappa), by PLD. `recognised` attains it; `named`, the best of a list, need not."
    ),
}
CAVEATS = (
    "Above n sigma^2 / rounds = 1 the unbiased reconstruction is worse than a blank image; it "
    "bounds nothing there. Read NCC, and the blind guesses, first.",
    "An attack that fails shows what this attack cannot do. Better priors go further.",
    "A server that averages down first reads thumbnails where it reads no full image.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Epsilon of the attacked steps for a patient, as executed.

    Attributes:
        epsilon: At ``delta``; ``"infinity"`` without privacy.
        delta: Of the command, or of the statement of a run.
        adjacency: What neighbouring cohorts differ by.
        accountant: Where epsilon comes from; empty without privacy.
        end_to_end: Epsilon of all stages of a run together, in a sentence; empty for a budget.
    """

    epsilon: float | Literal["infinity"]
    delta: float
    adjacency: Adjacency
    accountant: str
    end_to_end: str

    @property
    def title(self) -> str:
        """``"epsilon 6"`` or ``"no privacy"``."""
        return "no privacy" if self.epsilon == "infinity" else f"epsilon {self.epsilon:.3g}"


def reconstruction(
    *,
    crops: str,
    out: str,
    prior: str | None = None,
    run: str | None = None,
    budgets: list[float | Literal["none"]] = list(BUDGETS),  # noqa: B006  jsonargparse copies it
    sampling_rate: float = 1 / 9,
    steps: int = 2700,
    delta: float = 1e-4,
    resolutions: list[int] = list(RESOLUTIONS),  # noqa: B006
    kappa: float | list[float] = 0.01,
    patients: int = 48,
    split: Split = "train",
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Reconstructs images from the updates of a private training, and names patients from lists.

    Attacks, with what each adversary sees and knows written beside its numbers: a malicious server
    that isolates each patient, without a prior and with a Gaussian one; traps in a classifier that
    a batch passes; a search for images by gradients; candidate lists. Clipping and noise are those
    of the training code, at the noise of each budget. Guesses that saw no update stand beside
    every number.

    Writes signals/ (what was seen), reconstruction.json and sheet.png. Signals are private, and so
    is the sheet where crops are real: no epsilon covers them. Where signals lie, they are scored
    again and no model runs. Fails if a list is read better than the guarantee allows.

    Args:
        crops: Folder of the crops under attack.
        out: Folder of the result.
        prior: Folder of crops that the adversary holds, such as phantoms, another cohort, or
            released synthetic crops; not given for an adversary who knows nothing, without traps.
        run: Folder of a private run whose noise, rate and steps are taken instead of budgets.
        budgets: Epsilons per patient at delta, zero-out; "none" for no privacy. Results say what
            was executed: beyond about 1e7 the smallest noise multiplier, .001, may fall short.
        sampling_rate: Probability that a patient joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Probability that the bound of epsilon fails; below 1 / patients. Of the statement,
            for a run.
        resolutions: Edges that the server averages images down to before it reads them, in pixels;
            those that do not divide the edge of the crops are left out.
        kappa: Probability, or probabilities, of naming the patient without the release, each above
        0 and
            below 1.
        patients: Patients attacked, one crop each, at least 2.
        split: Split that is attacked.
        resamples: Bootstrap resamples of patients, at least 100.
        seed: Seed of the bootstrap; noise comes from the system's entropy.

    Raises:
        AttackError: For input that cannot be attacked, and for a refuted guarantee.
    """
    kappas = kappa if isinstance(kappa, list) else [kappa]
    _check(kappas, patients, resamples)
    with run_folder(
        out,
        command="attack reconstruction",
        config={
            "crops": crops,
            "prior": prior,
            "run": run,
            "budgets": budgets,
            "sampling_rate": sampling_rate,
            "steps": steps,
            "delta": delta,
            "resolutions": resolutions,
            "kappa": kappas,
            "patients": patients,
            "split": split,
            "resamples": resamples,
        },
        inputs={"data": Path(crops)}
        | ({} if prior is None else {"prior": Path(prior)})
        | ({} if run is None else {"privacy": Path(run) / "privacy.json"}),
        seed=seed,
    ) as record:
        if record.is_finished_as_said():
            return
        if run is None:
            schedules = of_budgets(budgets, sampling_rate=sampling_rate, steps=steps, delta=delta)
        else:
            sealed_statement(Path(run) / "privacy.json")  # or its noise is anybody's
            schedules = of_run(run)
        for schedule in schedules:
            noise_of(schedule)  # refuses before anything runs
        delta = next((schedule.delta for schedule in schedules if schedule.delta), delta)
        manifest = CropsManifest.read(crops)
        others = None if prior is None else CropsManifest.read(prior)
        targets = targets_of(manifest, split, others, patients)
        edges = _dividing(resolutions, targets.images.shape[-1])
        known = known_at(targets, edges)
        folders = [
            record.folder / SIGNALS / f"{place}_{schedule.name}"
            for place, schedule in enumerate(schedules)
        ]
        for schedule, folder in watched(list(zip(schedules, folders, strict=True)), "attacks"):
            collect(schedule, targets, known, edges, folder)
        level = 1 - (1 - LEVEL) / max(1, len(schedules) * (1 + len(kappas)))  # Bonferroni
        scored = [
            score_signals(
                schedule,
                targets,
                known,
                edges,
                kappas,
                folder,
                level=level,
                resamples=resamples,
                seed=seed,
            )
            for schedule, folder in zip(schedules, folders, strict=True)
        ]
        costs = [_cost(schedule, delta) for schedule in schedules]
        _write(record, scored, costs, targets, manifest, others, level=level)
        if broken := [one.schedule.name for one in scored if one.exceeds_bound]:
            raise AttackError(
                f"{record.folder / RESULT}: at {', '.join(broken)} a list was read better than the "
                "guarantee allows. Sampling, clip or noise are not what is accounted: release "
                "nothing."
            )
        _show(scored, costs)


def _check(kappas: Sequence[float], patients: int, resamples: int) -> None:
    for one in kappas:
        require_probability("kappa", one)
    if patients < 2 or resamples < 100:
        raise AttackError(
            f"{patients=}, {resamples=}. Give at least 2 patients and 100 resamples, or intervals "
            "mean nothing."
        )


def _dividing(resolutions: Sequence[int], edge: int) -> list[int]:
    found = sorted(
        {one for one in resolutions if one >= LEAST_PX and edge % one == 0}, reverse=True
    )
    if not found:
        raise AttackError(
            f"resolutions={list(resolutions)}: none divides the {edge} px of the crops. Give "
            f"divisors, at least {LEAST_PX}."
        )
    return found


def _write(
    record: RunRecord,
    scored: Sequence[Scored],
    costs: Sequence[Cost],
    targets: Targets,
    manifest: CropsManifest,
    others: CropsManifest | None,
    *,
    level: float,
) -> None:
    result: dict[str, Any] = {
        "schema": 1,
        "unit": "patient",
        "adjacency": " or ".join(dict.fromkeys(cost.adjacency for cost in costs)),
        "delta": costs[0].delta,
        "cohort": manifest.sha256,
        "split": record.config["split"],
        "patients": len(targets.images),
        "prior": others and others.sha256,
        "threat_models": THREATS,
        "attackers": dict(ATTACKERS),
        "blind": dict(BLIND),
        "caveats": list(CAVEATS),
        "level": LEVEL,
        "level_of_lists": level,
        "budgets": [
            one.as_json()
            | {"epsilon": cost.epsilon, "accountant": cost.accountant}
            | {"end_to_end": cost.end_to_end}
            for one, cost in zip(scored, costs, strict=True)
        ],
    }
    draw_sheet(
        record.folder / SHEET,
        lines_of(scored, [cost.title for cost in costs]),
        title=textwrap.fill(f"Crops read from updates. {_conditions(costs)}", 60 + 15 * len(costs)),
        real=targets.real,
    )
    text = json.dumps(with_seal(result), indent=2, allow_nan=False)
    write_text_atomically(record.folder / RESULT, text + "\n")


def _cost(schedule: Schedule, delta: float) -> Cost:
    curve = None if schedule.mechanism is None else compose([schedule.mechanism])
    return Cost(
        epsilon="infinity" if curve is None else curve.epsilon(delta),
        delta=delta,
        adjacency=schedule.adjacency,
        accountant="" if curve is None else curve.source,
        end_to_end=schedule.end_to_end,
    )


def _conditions(costs: Sequence[Cost]) -> str:
    """What every epsilon that is shown means."""
    accountants = dict.fromkeys(cost.accountant for cost in costs if cost.accountant)
    if not accountants:
        return "Without privacy."
    adjacencies = dict.fromkeys(cost.adjacency for cost in costs)
    return (
        f"Each epsilon: of the attacked steps, per patient, delta {costs[0].delta:g}, "
        f"{' or '.join(adjacencies)}, by {' or '.join(accountants)}."
    )


def _show(scored: Sequence[Scored], costs: Sequence[Cost]) -> None:
    """One line per budget: correlation at each resolution; then the success of lists."""
    print(_conditions(costs))
    for one, cost in zip(scored, costs, strict=True):
        parts = []
        for resolution, found in one.reconstructions.items():
            best = found.attacks.get("prior", found.attacks["centred"]).quality.ncc
            blind = found.blind.get("mean", found.blind["blank"]).quality.ncc
            alone = found.attacks["centred"].quality.ncc
            parts.append(
                f"{resolution} px {alone.value:.2f} / {best.value:.2f} ({blind.value:.2f})"
            )
        print(f"{cost.title}: NCC without / with prior (blind) " + ", ".join(parts))
        for name, found_list in one.lists.items():
            rate = found_list.success
            print(
                f"  {name}: {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}], bound "
                f"{found_list.bound:.3f}, guess {found_list.kappa:.3g}"
            )
        if cost.end_to_end:
            print(f"  end to end: {cost.end_to_end}")
