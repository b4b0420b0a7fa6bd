# SPDX-License-Identifier: Apache-2.0
"""``privacy risk`` and ``privacy calibrate``: epsilon, noise and risk of a schedule."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from data_prep.manifest import Unit
from mammo_dp.privacy.accounting.account import (
    Adjacency,
    Law,
    Mechanism,
    Noisy,
    Selection,
    compose,
    rdp_epsilon,
)
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.accounting.budget import calibrate as noise_for
from mammo_dp.privacy.accounting.risk import adversary, risk_of
from mammo_dp.privacy.errors import PrivacyError

Format = Literal["text", "json"]
ADJACENCY: Adjacency = "zero-out"  # the same numbers hold for add-or-remove, see accounting
KAPPAS = (1 / 1104, 0.01, 0.1)  # always shown; 1104 crops train in arXiv 2407.12669


def risk(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float = 1e-4,
    unit: Unit = "patient",
    crops_per_patient: int | None = None,
    repeats_mean: float | None = None,
    repeats_law: Law = "logarithmic",
    kappa: float | list[float] | None = None,
    format: Format = "text",
) -> None:
    """Prints epsilon and bounds on attacks for given noise.

    Neighbours differ in one unit whose data are blanked (zero-out); their number is public. Where a
    fit declares ``public_size``, the same numbers hold for adding or removing a unit.
    With repeats_mean it is the release of the best of a random number of equal fits, of which the
    others and their number stay private; see docs/selection.md.

    Args:
        noise_multiplier: Standard deviation of the noise / clipping norm, > 0.
        sampling_rate: Probability that a unit joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Probability that the bound of epsilon fails; below 1 / units.
        unit: What is drawn and clipped: "patient", with all crops, or "crop", each alone.
        crops_per_patient: Most crops of one patient, for unit crop: adds what patients have.
        repeats_mean: Mean number of fits, of which the best is released, at least 1.
        repeats_law: Law of their number: "logarithmic" costs least, "geometric" stops at a single
            fit less often.
        kappa: Probability, or probabilities, of a correct guess without the release, for
            reconstruction robustness; beyond 1/1104, .01 and .1.
        format: "text" for people, "json" for programs.
    """
    mechanism = Mechanism(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps
    )
    released: Noisy = mechanism
    if repeats_mean is not None:
        released = Selection(mechanisms=(mechanism,), law=repeats_law, mean=repeats_mean)
    numbers = _numbers(mechanism, released, delta, unit, crops_per_patient, _listed(kappa))
    print(_shown(numbers, format))


def calibrate(
    *,
    sampling_rate: float,
    steps: int,
    target_epsilon: float | None = None,
    target_advantage: float | None = None,
    target_tpr: float | None = None,
    target_fpr: float = 0.01,
    target_reconstruction: float | None = None,
    delta: float = 1e-4,
    unit: Unit = "patient",
    crops_per_patient: int | None = None,
    kappa: float | list[float] | None = None,
    format: Format = "text",
) -> None:
    """Prints the least noise that keeps a target per unit, and what else it bounds.

    Exactly one target is given; the epsilon and the attacks it speaks of are those of one unit,
    whose data are blanked in a neighbour (zero-out), the number of units being public. Where a fit
    declares ``public_size``, the same numbers hold for adding or removing a unit.

    Args:
        sampling_rate: Probability that a unit joins a step, above 0 and at most 1.
        steps: Number of steps.
        target_epsilon: Epsilon at delta, > 0.
        target_advantage: Largest true minus false positive rate of a membership test.
        target_tpr: Largest probability to recognise a member at a false positive rate of
            target_fpr.
        target_fpr: False positive rate that target_tpr refers to.
        target_reconstruction: Largest probability to reconstruct a unit that is guessed with
            probability kappa without the release.
        delta: Probability that the bound of epsilon fails; below 1 / units.
        unit: What is drawn and clipped: "patient", with all crops, or "crop", each alone.
        crops_per_patient: Most crops of one patient, for unit crop: adds what patients have.
        kappa: Probability, or probabilities, of a correct guess without the release, for
            reconstruction robustness; beyond 1/1104, .01 and .1. With target_reconstruction
            exactly one.
        format: "text" for people, "json" for programs.
    """
    kappas = _listed(kappa)
    if target_reconstruction is not None and len(kappas) != 1:
        raise PrivacyError(
            f"target_reconstruction={target_reconstruction} with {len(kappas)} values of kappa. "
            "Give the one probability of a guess that it refers to, such as --kappa 0.0009."
        )
    budget = PrivacyBudget(
        delta=delta,
        epsilon=target_epsilon,
        advantage=target_advantage,
        tpr=target_tpr,
        fpr=target_fpr,
        reconstruction=target_reconstruction,
        kappa=kappas[0] if target_reconstruction is not None else None,
    )
    noise = noise_for(budget, sampling_rate=sampling_rate, steps=steps)
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)
    numbers = _numbers(mechanism, mechanism, delta, unit, crops_per_patient, kappas)
    print(_shown({"target": f"{budget.target} per {unit}", **numbers}, format))


def _listed(kappa: float | list[float] | None) -> list[float]:
    if kappa is None:
        return []
    return kappa if isinstance(kappa, list) else [kappa]


def _numbers(
    mechanism: Mechanism,
    released: Noisy,
    delta: float,
    unit: Unit,
    crops_per_patient: int | None,
    kappas: Sequence[float],
) -> dict[str, Any]:
    if not 0 < delta < 1:
        raise PrivacyError(f"{delta=}. Give a value between 0 and 1 / units.")
    if crops_per_patient is not None and unit == "patient":
        raise PrivacyError(
            f"{crops_per_patient=} with unit patient: a patient is drawn and clipped as a whole, "
            "so the number of crops changes nothing. Leave it out, or give --unit crop."
        )
    if crops_per_patient is not None and crops_per_patient < 1:
        raise PrivacyError(f"{crops_per_patient=}. Give at least 1.")
    shown = sorted({*KAPPAS, *kappas})
    repeats: dict[str, Any] = {}
    if isinstance(released, Selection):
        repeats = {"repeats_law": released.law, "repeats_mean": released.mean}
    numbers = {
        "noise_multiplier": mechanism.noise_multiplier,
        "sampling_rate": mechanism.sampling_rate,
        "steps": mechanism.steps,
        "delta": delta,
        "adjacency": ADJACENCY,
        "unit": unit,
        **repeats,
        **_of_unit(released, delta, shown),
    }
    if crops_per_patient is not None:
        patient = _of_unit(released.on_crops(crops_per_patient), delta, shown)
        numbers |= {"crops_per_patient": crops_per_patient}
        numbers |= {f"{name}_patient": value for name, value in patient.items()}
    return numbers


def _of_unit(mechanism: Noisy, delta: float, kappas: Sequence[float]) -> dict[str, Any]:
    curve = compose([mechanism])
    return {
        "epsilon": curve.epsilon(delta),
        **({"epsilon_note": note} if (note := curve.too_small(delta)) else {}),
        "accountant": curve.source,
        "epsilon_rdp": rdp_epsilon([mechanism], delta),
        **risk_of(curve, kappas=kappas).as_json(),
    }


def _shown(numbers: dict[str, Any], format: Format) -> str:
    if format == "json":
        words = {name: "infinity" if v == math.inf else v for name, v in numbers.items()}
        return json.dumps(words, indent=2, allow_nan=False)
    unit, crops = numbers["unit"], numbers.get("crops_per_patient")
    lines = [f"least noise for {numbers['target']}"] if "target" in numbers else []
    lines += [
        f"noise multiplier {numbers['noise_multiplier']:g}, sampling rate "
        f"{numbers['sampling_rate']:g}, {numbers['steps']} steps, {unit}s drawn at random",
        *(
            [
                f"the best of a random number of such fits, {numbers['repeats_law']} law, mean "
                f"{numbers['repeats_mean']:g}; the number and the others stay private"
            ]
            if "repeats_law" in numbers
            else []
        ),
        *_lines(numbers, f"per {unit}", ""),
    ]
    if crops is not None:
        lines += _lines(numbers, f"per patient with {crops} crops", "_patient")
    elif unit == "crop":
        lines += ["per patient: weaker for all who have several crops; give --crops_per_patient"]
    return "\n".join(lines)


def _lines(numbers: dict[str, Any], per: str, key: str) -> list[str]:
    """What one kind of unit may rely on; equal words for each."""
    noun: Unit = "patient" if key else numbers["unit"]
    lines = [
        f"{per}: epsilon = {numbers[f'epsilon{key}']:.4g} at delta = {numbers['delta']:g}, "
        f"{ADJACENCY}, by {numbers[f'accountant{key}']} "
        f"({numbers[f'epsilon_rdp{key}']:.4g} by Renyi accounting)",
        *([f"  {note}"] if (note := numbers.get(f"epsilon_note{key}")) else []),
        f"  an attacker who knows {adversary(ADJACENCY, noun)}, and the release",
        f"    tells members from others with TPR - FPR at most {numbers[f'advantage{key}']:.4f}",
    ]
    lines += [
        f"    recognises a member at FPR {fpr} with probability at most {value:.4f}"
        for fpr, value in numbers[f"tpr_at_fpr{key}"].items()
    ]
    lines += [
        f"    reconstructs a {noun}, guessed with probability {kappa} without the release, with "
        f"probability at most {value:.4f}"
        for kappa, value in numbers[f"reconstruction_robustness{key}"].items()
    ]
    return lines
