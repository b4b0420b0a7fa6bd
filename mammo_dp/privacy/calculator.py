# SPDX-License-Identifier: Apache-2.0
"""``privacy risk`` and ``privacy calibrate``: epsilon, noise and risk of a schedule."""

import json
from typing import Any, Literal

from mammo_dp.privacy.accounting import Mechanism, compose, rdp_epsilon
from mammo_dp.privacy.budget import PrivacyBudget
from mammo_dp.privacy.budget import calibrate as noise_for
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.risk import risk_of

Format = Literal["text", "json"]
KAPPAS = (1 / 1104, 0.01, 0.1)


def risk(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float = 1e-4,
    kappa: list[float] | None = None,
    format: Format = "text",
) -> None:
    """Prints epsilon and bounds on attacks for given noise.

    Args:
        noise_multiplier: Standard deviation of the noise / clipping norm, > 0.
        sampling_rate: Chance that a unit joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Chance that the bound of epsilon fails; below 1 / units.
        kappa: Chances of a correct guess without the release, for reconstruction robustness.
        format: "text" for people, "json" for programs.
    """
    mechanism = Mechanism(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps
    )
    print(_shown(_numbers(mechanism, delta, kappa), format))


def calibrate(
    *,
    target_epsilon: float,
    sampling_rate: float,
    steps: int,
    delta: float = 1e-4,
    kappa: list[float] | None = None,
    format: Format = "text",
) -> None:
    """Prints the noise that keeps a target epsilon, and what else it bounds.

    Args:
        target_epsilon: Epsilon per unit, > 0.
        sampling_rate: Chance that a unit joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Chance that the bound of epsilon fails; below 1 / units.
        kappa: Chances of a correct guess without the release, for reconstruction robustness.
        format: "text" for people, "json" for programs.
    """
    budget = PrivacyBudget(delta=delta, epsilon=target_epsilon)
    noise = noise_for(budget, sampling_rate=sampling_rate, steps=steps)
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)
    print(_shown(_numbers(mechanism, delta, kappa), format))


def _numbers(mechanism: Mechanism, delta: float, kappa: list[float] | None) -> dict[str, Any]:
    if not 0 < delta < 1:
        raise PrivacyError(f"{delta=}. Give a value between 0 and 1 / units.")
    curve = compose([mechanism])
    bounds = risk_of(curve, kappas=kappa or KAPPAS).as_json()
    return {
        "noise_multiplier": mechanism.noise_multiplier,
        "sampling_rate": mechanism.sampling_rate,
        "steps": mechanism.steps,
        "epsilon": curve.epsilon(delta),
        "delta": delta,
        "unit": "the unit that is sampled",
        "adjacency": "add-or-remove",
        "accountant": curve.source,
        "epsilon_rdp": rdp_epsilon([mechanism], delta),
        **bounds,
    }


def _shown(numbers: dict[str, Any], format: Format) -> str:
    if format == "json":
        return json.dumps(numbers, indent=2)
    lines = [
        f"epsilon = {numbers['epsilon']:.4g} at delta = {numbers['delta']:g} per sampled unit, "
        f"add-or-remove, by {numbers['accountant']}",
        f"by Renyi accounting: epsilon = {numbers['epsilon_rdp']:.4g}",
        f"noise multiplier {numbers['noise_multiplier']:g}, sampling rate "
        f"{numbers['sampling_rate']:g}, {numbers['steps']} steps",
        "an attacker who knows all other data and the release",
        f"  tells members from others with TPR - FPR at most {numbers['advantage']:.4f}",
    ]
    lines += [
        f"  recognises a member at FPR {fpr} with chance at most {value:.4f}"
        for fpr, value in numbers["tpr_at_fpr"].items()
    ]
    lines += [
        f"  reconstructs a unit, guessed with chance {kappa} without the release, with chance at "
        f"most {value:.4f}"
        for kappa, value in numbers["reconstruction_robustness"].items()
    ]
    return "\n".join(lines)
