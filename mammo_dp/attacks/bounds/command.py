# SPDX-License-Identifier: Apache-2.0
"""``attack bounds``: what adversaries achieve at most, along budgets or for a run."""

import json
from typing import Any, Literal

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.bounds import tables
from mammo_dp.attacks.bounds.blind import Blind, blind, images, require_apart
from mammo_dp.attacks.bounds.corridor import RESOLUTIONS, Corridor, Questions, corridor
from mammo_dp.attacks.bounds.schedules import Schedule, of_budgets, of_run
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting.account import common

BUDGETS: tuple[float | Literal["none"], ...] = (1.0, 6.0, 20.0, 60.0, 1e3, 1e6, 1e9, "none")
KAPPAS = (0.01, 0.1)  # always shown, beside one over the number of patients if that is known
Result = tuple[Schedule, Corridor]


def bounds(
    *,
    run: str | None = None,
    budgets: list[float | Literal["none"]] = list(BUDGETS),  # noqa: B006  jsonargparse copies it
    sampling_rate: float | None = None,
    steps: int | None = None,
    delta: float = 1e-4,
    kappa: float | list[float] | None = None,
    resolutions: list[int] = list(RESOLUTIONS),  # noqa: B006
    correlation: float = 0.7,
    mean_square: float = 0.31,
    crops: str | None = None,
    reference: str | None = None,
    format: Literal["text", "json"] = "text",
) -> None:
    """Prints what adversaries of several strengths achieve at most, per patient.

    Either for the last stage of a run, or for budgets along a schedule. Identification and
    membership are guarantees; the relaxed and the from-scratch adversary are assumptions, and
    their numbers hold only for adversaries as weak as described.

    Args:
        run: Folder of a run; noise, rate, steps and delta come from its statement.
        budgets: Epsilons per patient, and none for training without privacy; with sampling_rate
            and steps.
        sampling_rate: Chance that a patient joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Chance that the bound of epsilon fails; below 1 / patients. Of the statement, for a
            run.
        kappa: Chance, or chances, of naming the patient without the release, beyond .01 and .1
            and, for a run, 1 / patients.
        resolutions: Edges of the images that a malicious server reads, in pixels.
        correlation: A reconstruction succeeds from this correlation with the image on.
        mean_square: Mean squared grey value of an image in [0, 1]; .31 for CBIS-DDSM mass crops.
            Taken from the crops, where given.
        crops: Folder of crops to be guessed blindly, as baselines; with reference.
        reference: Folder of crops of other patients, phantoms or synthetic crops: what a blind
            guess starts from.
        format: "text" for people, "json" for programs.

    Raises:
        AttackError: For a chance outside (0, 1), or flags that do not belong together.
    """
    schedules = _schedules(run, budgets, sampling_rate, steps, delta)
    delta = next((s.delta for s in schedules if s.delta is not None), delta)
    guesses = [1 / s.patients for s in schedules if s.patients and s.patients > 1]
    asked = [kappa] if isinstance(kappa, float) else kappa or []
    baselines = _baselines(crops, reference, resolutions)
    if baselines:
        mean_square = baselines[-1].blank_mse
    questions = Questions(
        delta=delta,
        kappas=tuple(sorted({*KAPPAS, *guesses, *asked})),
        resolutions=tuple(sorted(set(resolutions))),
        correlation=correlation,
        mean_square=mean_square,
    )
    results = [(schedule, corridor(schedule.mechanism, questions)) for schedule in schedules]
    if format == "json":
        print(json.dumps(as_json(results, questions, baselines), indent=2, allow_nan=False))
    else:
        tables.show(results, questions, baselines)


def as_json(results: list[Result], questions: Questions, baselines: list[Blind]) -> dict[str, Any]:
    """Plain values, with what they mean."""
    return {
        "schema": 1,
        "unit": "patient",
        "adjacency": common(schedule.adjacency for schedule, _ in results),
        "delta": questions.delta,
        "correlation": questions.correlation,
        "mean_square": questions.mean_square,
        "adversaries": dict(tables.ADVERSARIES),
        "caveats": list(tables.CAVEATS),
        "blind": [one.as_json() for one in baselines],
        "budgets": [
            {"name": schedule.name, "end_to_end": schedule.end_to_end, **bound.as_json()}
            for schedule, bound in results
        ],
    }


def _schedules(
    run: str | None,
    budgets: list[float | Literal["none"]],
    sampling_rate: float | None,
    steps: int | None,
    delta: float,
) -> list[Schedule]:
    if run is not None:
        if sampling_rate is not None or steps is not None:
            raise AttackError(
                f"{run=} with {sampling_rate=}, {steps=}: the schedule of a run stands in its "
                "statement. Give a run, or sampling_rate and steps."
            )
        return of_run(run)
    if sampling_rate is None or steps is None:
        raise AttackError(
            f"{sampling_rate=}, {steps=}: budgets need a schedule. Give both, or --run FOLDER."
        )
    return of_budgets(budgets, sampling_rate=sampling_rate, steps=steps, delta=delta)


def _baselines(crops: str | None, reference: str | None, resolutions: list[int]) -> list[Blind]:
    if (crops is None) != (reference is None):
        raise AttackError(
            f"{crops=}, {reference=}: blind baselines need both, crops to guess and crops of "
            "others to guess from. Give both or neither."
        )
    if crops is None or reference is None:
        return []
    own, others = CropsManifest.read(crops), CropsManifest.read(reference)
    require_apart(own, others)
    targets, known = images(own), images(others, most=500)
    return [blind(targets, known, edge) for edge in sorted(set(resolutions))]
