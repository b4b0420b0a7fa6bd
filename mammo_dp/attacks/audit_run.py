# SPDX-License-Identifier: Apache-2.0
"""``attack audit``: canaries in a fit with a run's own noise, and the epsilon that they refute.

Threat model: that of :mod:`mammo_dp.attacks.canaries`, the strongest that accounting allows. The
run itself is not touched: its noise multiplier, sampling rate and number of steps are used again,
by the same training loop, on made-up units. A bound above the stated epsilon means that sampler,
clip, noise or account are wrong; one below refutes nothing.

Source: audit of one run with tossed canaries, Steinke et al. 2023, arXiv 2305.08846.
"""

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Unit
from mammo_dp.attacks.audit import LEVEL, SCHEMA, Bounds, Scores, audit, exceeds
from mammo_dp.attacks.canaries import canary_scores
from mammo_dp.attacks.canary_fit import fit_canaries
from mammo_dp.attacks.lower_bounds import LowerBound, many_run, many_run_gaussian, one_run
from mammo_dp.attacks.scoring import FPRS, measured
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting import Adjacency, Mechanism, compose
from mammo_dp.privacy.risk import risk_of
from mammo_dp.privacy.statement import FILE_NAME as PRIVACY
from mammo_dp.privacy.statement import read_statement
from mammo_dp.runs import close_run, open_run, write_text_atomically

AUDIT, CANARIES = "audit.json", "canaries.npz"
THREAT_MODEL = (
    "White-box canaries: the adversary plants a {} whose clipped gradient is one coordinate of the "
    "weights, sees the weights after every step, and knows noise, sampling rate and number of "
    "steps; it knows neither who is drawn nor the noise. No adversary does better."
)
LEAST = 20  # canaries; each bound has a ceiling that needs them
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the canaries that are guessed "in", or "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A private training that can be audited.

    Attributes:
        mechanism: As executed.
        unit: What it protects.
        epsilon: Of this stage alone, by the accountant.
        accountant: Where epsilon comes from.
        delta: Of epsilon.
        adjacency: What neighbouring cohorts differ by.
    """

    mechanism: Mechanism
    unit: Unit
    epsilon: float
    accountant: str
    delta: float
    adjacency: Adjacency = "zero-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAudit:
    """What canaries prove about a stage.

    Attributes:
        stage: What was claimed.
        canaries: Number of canaries, each in with chance 1/2.
        one_run: Lower bound from guesses; holds for any mechanism.
        canary_run: Lower bound from rates over the canaries, which the noise treats independently.
        gaussian_run: As ``canary_run``, by the Gaussian trade-off curve that full batches have;
            none where steps are subsampled.
        measured: Rates of the attack beside the bounds of the stage's trade-off curve.
        exceeds_curve: Whether the rates lie above that curve.
    """

    stage: Stage
    canaries: int
    one_run: LowerBound
    canary_run: LowerBound
    gaussian_run: LowerBound | None
    measured: Mapping[str, Any]
    exceeds_curve: bool

    @property
    def bounds(self) -> dict[str, LowerBound]:
        """Each lower bound by what it is from, for people."""
        found = {"one run": self.one_run, "all canaries": self.canary_run}
        if self.gaussian_run is not None:
            found["all canaries, curve taken to be Gaussian"] = self.gaussian_run
        return found

    @property
    def best(self) -> LowerBound:
        """The largest lower bound; each errs so rarely that the choice costs no confidence."""
        return max(self.bounds.values(), key=lambda found: found.epsilon)

    @property
    def refutes(self) -> bool:
        """Whether the claim is refuted; all questions together err with chance 1 - LEVEL."""
        return self.best.epsilon > self.stage.epsilon or self.exceeds_curve

    def lines(self) -> list[str]:
        """For the screen: each bound with its ceiling and with what is claimed."""
        stage = self.stage
        claimed = (
            f"claimed {stage.epsilon:.3g} per {stage.unit} at delta {stage.delta:g}, "
            f"{stage.adjacency}, by {stage.accountant}"
        )
        verdict = (
            "The claim is REFUTED: do not release."
            if self.refutes
            else "The claim is not refuted; that is no proof of it. Near its ceiling, a bound asks "
            "for more canaries."
        )
        return [
            f"{name}: epsilon >= {found.epsilon:.3g} (ceiling {found.ceiling:.3g}, {claimed})"
            for name, found in self.bounds.items()
        ] + [f"{self.canaries} canaries, {LEVEL:.0%} confidence. {verdict}"]

    def as_json(self) -> dict[str, Any]:
        """Content of ``audit.json``."""
        return {
            "schema": SCHEMA,
            "threat_model": THREAT_MODEL.format(self.stage.unit),
            "stage": asdict(self.stage),
            "canaries": self.canaries,
            "level": LEVEL,
            "level_of_each_test": _each(self.stage),
            "one_run": asdict(self.one_run),
            "canary_run": asdict(self.canary_run),
            "gaussian_run": self.gaussian_run and asdict(self.gaussian_run),
            "best": asdict(self.best),
            "white_box": dict(self.measured),
            "exceeds_curve": self.exceeds_curve,
            "refutes": self.refutes,
        }


def audit_run(*, run: str, out: str | None = None, canaries: int = 1000) -> None:
    """Audits the noise of a private run by canaries: a lower bound under its stated epsilon.

    Repeats the run's private steps on made-up units, half of them in by the toss of a coin, and
    looks for each in every update. Prints each bound with its ceiling, the most that a perfect
    attack on so many canaries could show. Writes ``canaries.npz`` and ``audit.json``.

    Args:
        run: Folder with the ``privacy.json`` of a private training.
        out: Folder of the result; ``attack_audit`` in the run's folder if not given.
        canaries: Number of canaries, at least 20; at most 1 / (2 delta) are used.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no product tips
    result = attack_audit(run=Path(run), out=Path(out) if out else None, canaries=canaries)
    print("\n".join(result.lines()))


def attack_audit(
    *, run: Path, out: Path | None = None, canaries: int = 1000, progress: bool = True
) -> RunAudit:
    """As :func:`audit_run`, with the result; a finished folder is scored again.

    Args:
        run: Folder of the run.
        out: Folder of the result.
        canaries: Number of canaries.
        progress: Whether to show a bar.

    Raises:
        AttackError: If the run had no private stage, or there are too few canaries.
    """
    stage = stage_of(run)
    count = min(canaries, int(0.5 / stage.delta))  # as lower_bounds.one_run needs
    if count < LEAST:
        raise AttackError(
            f"{canaries=} at delta {stage.delta:g}, which allows {int(0.5 / stage.delta)}. Give at "
            f"least {LEAST}, or a run with a smaller delta."
        )
    record = open_run(
        out or run / "attack_audit",
        command="attack audit",
        config={"run": str(run), "canaries": canaries},
        inputs={"privacy": run / PRIVACY},
    )
    saved = record.folder / CANARIES
    if saved.exists():
        scores, inside = _read(saved)
    else:
        inside = np.random.default_rng().random(count) < 0.5
        scores = fit_canaries(
            stage.mechanism,
            inside,
            unit=stage.unit,
            epsilon=stage.epsilon,
            delta=stage.delta,
            progress=progress,
        )
        with saved.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, scores=scores, inside=inside)
        saved.with_suffix(".part").replace(saved)
    result = audited(stage, scores, inside)
    if not record.is_finished:
        text = json.dumps(result.as_json(), indent=2, allow_nan=False)
        write_text_atomically(record.folder / AUDIT, text + "\n")
        close_run(record)
    return result


def stage_of(run: Path) -> Stage:
    """The private stage that a run's statement speaks of.

    Raises:
        AttackError: If there is none.
    """
    stored = read_statement(run)
    if stored["run"] is not None and stored["run"]["command"] != "fit":
        raise AttackError(
            f"{run}: was made by {stored['run']['command']!r}, whose noise is not that of the "
            "training loop. Give the run of a DPCropClassifier or DPMCGAN."
        )
    for statement in stored["statements"]:
        if statement["noise_multiplier"] is not None:
            mechanism = Mechanism(
                noise_multiplier=statement["noise_multiplier"],
                sampling_rate=statement["sampling_rate"],
                steps=statement["steps"],
            )
            curve = compose([mechanism])
            return Stage(
                mechanism=mechanism,
                # where a patient pays for each crop, what was drawn and has this epsilon is a crop
                unit="crop" if statement["crops_of_unit"] > 1 else statement["unit"],
                epsilon=curve.epsilon(statement["delta"]),
                accountant=curve.source,
                delta=statement["delta"],
                adjacency=statement["adjacency"],
            )
    raise AttackError(
        f"{run}: its statement names no private training of its own, so there is no claim to "
        "audit. Give the run of a DPCropClassifier or DPMCGAN."
    )


def audited(stage: Stage, scores: Scores, inside: NDArray[np.bool_]) -> RunAudit:
    """Scores of canaries into bounds; runs no model.

    Args:
        stage: What was claimed.
        scores: One per canary.
        inside: Whether each took part, by the toss of a fair coin.
    """
    each = _each(stage)
    members, others = scores[inside], scores[~inside]
    guesses = best_guesses(stage, len(scores), each)
    risk = risk_of(compose([stage.mechanism]), fprs=FPRS)
    bounds = Bounds(
        epsilon=stage.epsilon,
        delta=stage.delta,
        advantage=risk.advantage,
        tpr_at_fpr=risk.tpr_at_fpr,
    )
    return RunAudit(
        stage=stage,
        canaries=len(scores),
        one_run=one_run(
            members, others, guessed_in=guesses, guessed_out=guesses, delta=stage.delta, level=each
        ),
        canary_run=many_run(members, others, delta=stage.delta, level=each),
        gaussian_run=many_run_gaussian(members, others, delta=stage.delta, level=each)
        if stage.mechanism.sampling_rate == 1
        else None,
        measured=measured(audit(members, others, fprs=FPRS), bounds),
        exceeds_curve=exceeds(members, others, bounds, fprs=FPRS, level=each),
    )


def best_guesses(stage: Stage, canaries: int, level: float) -> int:
    """How many guesses on either side promise most, by a simulation of the claim.

    The number is fixed before the scores of the audit are seen.

    Args:
        stage: What was claimed.
        canaries: Number of canaries.
        level: Confidence of the bound.
    """
    rng = np.random.default_rng(0)
    mechanism, half = stage.mechanism, canaries // 2
    noise, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    scores = []
    for present in (1, 0):
        drawn = present * (rng.random((mechanism.steps, half)) < rate)
        products = drawn + noise * rng.standard_normal(drawn.shape)
        scores.append(canary_scores(products, noise_multiplier=noise, sampling_rate=rate))
    tried = sorted({max(1, int(share * canaries)) for share in _SHARES})
    found = [
        one_run(*scores, guessed_in=n, guessed_out=n, delta=stage.delta, level=level).epsilon
        for n in tried
    ]
    return tried[int(np.argmax(found))]


def _each(stage: Stage) -> float:
    """Level of each question: two bounds, a third where batches are full, and the curve."""
    return 1 - (1 - LEVEL) / (4 if stage.mechanism.sampling_rate == 1 else 3)


def _read(path: Path) -> tuple[Scores, NDArray[np.bool_]]:
    try:
        with np.load(path) as stored:
            return stored["scores"], stored["inside"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise AttackError(
            f"{path}: holds no scores of canaries ({error!r}). Remove it; the audit makes it again."
        ) from error
