# SPDX-License-Identifier: Apache-2.0
"""``attack audit``: repeats a private fit with canaries; the lower bound on epsilon they prove.

Threat model: that of :mod:`mammo_dp.attacks.audit.canaries`, the strongest that accounting allows.
The run itself is not touched: its data module, feature cache, classifier and training loop run
again on made-up patients, by :mod:`mammo_dp.attacks.audit.canary_fit`. A bound far above the stated
epsilon means that data, sampler, clip, noise or account are wrong; one below refutes nothing.
Bounds hold with a confidence of ``LEVEL``, as is usual in the field, and so stand above the truth
in some of many audits; a claim is refuted only by what an honest loop shows once in a million.
Beside the bounds, :mod:`mammo_dp.attacks.audit.loop_check` measures noise, the contribution of a
canary and updates themselves.

Source: audit of one run with tossed canaries, Steinke et al. 2023, arXiv 2305.08846.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import Unit
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.arrays import read_arrays, write_arrays
from mammo_dp.attacks.audit.canaries import canary_scores
from mammo_dp.attacks.audit.canary_fit import CONFIG, Observed, RunSettings, fit_canaries
from mammo_dp.attacks.audit.loop_check import SURE, LoopCheck, check_loop
from mammo_dp.attacks.lower_bounds import (
    LowerBound,
    composed,
    many_run,
    many_run_gaussian,
    one_run,
    one_run_curve,
)
from mammo_dp.attacks.statements import sealed_statement
from mammo_dp.attacks.statistics import (
    AUDIT_SCHEMA,
    FPRS,
    LEVEL,
    Bounds,
    Scores,
    audit,
    exceeds,
    rates_as_json,
)
from mammo_dp.privacy.accounting.account import Adjacency, Mechanism, compose, fits_of
from mammo_dp.privacy.accounting.risk import risk_of
from mammo_dp.privacy.statement.document import FILE_NAME as PRIVACY
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.seals import sealed_result
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import file_sha256, read_run, run_folder, write_text_atomically

AUDIT, CANARIES = "audit.json", "canaries.npz"
THREAT_MODEL = (
    "White-box canaries: the adversary plants a {} whose clipped gradient is one coordinate of the "
    "weights, sees the weights after every step, and knows noise, sampling rate and number of "
    "steps; it knows neither who is drawn nor the noise. No adversary does better."
)
LEAST = 20  # canaries; each bound has a ceiling that needs them
_TITLES = {  # of the bounds, for people
    "one_run": "one run",
    "canary_run": "all canaries",
    "curve_run": "one run, by the curve of subsampled noise",
    "gaussian_run": "all canaries, curve taken to be Gaussian",
}
_BOUNDS = 3  # of an audit, which share its error
_SIMULATED = 4  # audits of the claim, to choose how many canaries are guessed
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
    """What canaries show about a stage.

    Attributes:
        stage: What was claimed.
        canaries: Number of canaries, each included with probability 1/2.
        bounds: Lower bounds by their keys in ``audit.json``: ``one_run``, from guesses, and
            ``canary_run``, from rates over the canaries, which the noise treats independently, hold
            for any mechanism; where steps are subsampled, ``curve_run`` is as ``one_run`` by the
            whole trade-off curve; for full batches, ``gaussian_run`` is as ``canary_run`` by their
            Gaussian curve.
        measured: Rates of the attack beside the bounds of the stage's trade-off curve.
        exceeds_curve: Whether the rates lie above that curve, with a confidence of ``SURE``.
        refuted_by: Keys of the bounds that lie above the claim with that confidence, too.
        conduct: Noise, contributions and updates as measured.
    """

    stage: Stage
    canaries: int
    bounds: Mapping[str, LowerBound]
    measured: Mapping[str, Any]
    exceeds_curve: bool
    refuted_by: tuple[str, ...]
    conduct: LoopCheck

    @property
    def best(self) -> LowerBound:
        """The largest lower bound; each errs so rarely that the choice costs no confidence."""
        return max(self.bounds.values(), key=lambda found: found.epsilon)

    @property
    def findings(self) -> tuple[str, ...]:
        """What refutes the claim, in sentences; each errs with 1 - SURE."""
        found = [*self.conduct.findings]
        found += [
            f"{_TITLES[key]}: epsilon is {self.bounds[key].epsilon:.3g} or more, "
            f"{self.stage.epsilon:.3g} is stated"
            for key in self.refuted_by
        ]
        if self.exceeds_curve:
            found.append("canaries are recognised more often than the stated mechanism allows")
        return tuple(found)

    @property
    def refutes(self) -> bool:
        """Whether the claim is refuted."""
        return bool(self.findings)

    def lines(self) -> list[str]:
        """For the screen: each bound with its ceiling and with what is claimed, then findings."""
        stage, seen = self.stage, self.conduct
        claimed = (
            f"claimed {stage.epsilon:.3g} per {stage.unit} at delta {stage.delta:g}, "
            f"{stage.adjacency}, by {stage.accountant}, for this stage alone"
        )
        verdict = "The claim is not refuted; that is no proof of it. " + (
            "A bound lies above the claim, as in at most one of twenty audits of an honest loop: "
            "give another --out and audit again."
            if self.best.epsilon > stage.epsilon
            else "Near its ceiling, a bound asks for more canaries."
        )
        if self.refutes:
            verdict = "The claim is REFUTED: do not release."
        return [
            *(
                f"{_TITLES[key]}: epsilon >= {found.epsilon:.3g} (ceiling {found.ceiling:.3g}, "
                f"{claimed})"
                for key, found in self.bounds.items()
            ),
            f"{seen.updates} updates; noise multiplier {seen.noise.value:.3g} "
            f"(stated {stage.mechanism.noise_multiplier:.3g}); a canary moves a sum by "
            f"{seen.part.value:.3g} clipping norms on average (at most "
            f"{stage.mechanism.sampling_rate:.3g})",
            f"{self.canaries} canaries, {LEVEL:.0%} confidence. {verdict}",
            *(f"FINDING: {finding}." for finding in self.findings),
        ]

    def as_json(self) -> dict[str, Any]:
        """Content of ``audit.json``."""
        return {
            "schema": AUDIT_SCHEMA,
            "threat_model": THREAT_MODEL.format(self.stage.unit),
            "stage": asdict(self.stage),
            "canaries": self.canaries,
            "level": LEVEL,
            "level_of_each_test": _each(),
            **{key: asdict(found) for key, found in self.bounds.items()},
            "best": asdict(self.best),
            "white_box": dict(self.measured),
            "exceeds_curve": self.exceeds_curve,
            "refuted_by": list(self.refuted_by),
            "conduct": self.conduct.as_json(),
            "findings": list(self.findings),
            "refutes": self.refutes,
        }


def audit_run(*, run: str, out: str | None = None, canaries: int = 1000) -> None:
    """Audits a private fit by canaries: lower bounds on epsilon, and checks of its training loop.

    Repeats the fit on made-up patients of several crops each, half of them in by the toss of a
    coin, with the run's own data module, classifier and settings (config.yaml), and looks for each
    in every update. Prints each bound with its ceiling, the most that a perfect attack on so many
    canaries could show. Exits with status 1 and names each finding if the claim is refuted. Writes
    canaries.npz and audit.json; reads no patient data.

    Args:
        run: Folder with the ``privacy.json`` of a private training.
        out: Folder of the result; ``attack_audit`` in the run's folder if not given.
        canaries: Number of canaries, at least 20; at most 1 / (2 delta) and one per pixel are used.

    Raises:
        AttackError: If the claim is refuted.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no product tips
    result = attack_audit(run=Path(run), out=Path(out) if out else None, canaries=canaries)
    print("\n".join(result.lines()))
    if result.refutes:
        raise AttackError(
            f"FINDING: {run}: the claim is refuted ({len(result.findings)} findings, above). Do "
            "not release; look for what the findings name in data module, clip, noise and account."
        )


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
        PrivacyError: If a check of the training loop stops the fit.
    """
    stage, settings = stage_of(run), RunSettings.read(run)
    count = min(canaries, int(0.5 / stage.delta))  # as lower_bounds.one_run needs
    if count < LEAST:
        raise AttackError(
            f"{canaries=} at delta {stage.delta:g}, which allows {int(0.5 / stage.delta)}. Give at "
            f"least {LEAST}, or a run with a smaller delta."
        )
    count = min(count, settings.image_size**2)
    with run_folder(
        out or run / "attack_audit",
        command="attack audit",
        config={"run": str(run), "canaries": canaries},
        inputs={"privacy": run / PRIVACY, "settings": run / CONFIG},
    ) as record:
        saved = record.folder / CANARIES
        if not saved.exists():
            inside = np.random.default_rng().random(count) < 0.5
            observed = fit_canaries(
                settings, inside, noise=stage.mechanism.noise_multiplier, progress=progress
            )
            _write(saved, observed)
        result = audited(stage, _read(saved))
        if not record.is_finished:
            text = json.dumps(sealed_result(result.as_json(), record), indent=2, allow_nan=False)
            write_text_atomically(record.folder / AUDIT, text + "\n")
        return result


def stage_of(run: Path) -> Stage:
    """The private stage that a run's statement is about.

    Raises:
        AttackError: If there is none, the statement has no seal that holds, or it is about other
            weights than lie there.
    """
    stored = sealed_statement(run / PRIVACY)
    artefact = stored["artefact"]
    weights = None if artefact is None else run / artefact["path"]
    if weights and not (weights.is_file() and file_sha256(weights) == artefact["sha256"]):
        raise AttackError(
            f"{weights}: is not what {run / PRIVACY} is about, so an audit of its claim would say "
            "nothing of these weights. Restore the file."
        )
    if (run / RUN).exists() and (command := read_run(run).command) != "fit":
        raise AttackError(
            f"{run}: was made by {command!r}, whose noise is not that of the training loop. Give "
            "the run of a DPCropClassifier, DPMCGAN or DPLatentDiffusion."
        )
    for statement in map(PrivacyStatement.from_json, stored["statements"]):
        for own in fits_of(statement.own):
            mechanism = replace(own, crops_of_unit=1)  # what was drawn
            curve = compose([mechanism])
            return Stage(
                mechanism=mechanism,
                # where each crop of a patient is accounted for, this epsilon is that of a crop
                unit="crop" if own.crops_of_unit > 1 else statement.unit,
                epsilon=curve.epsilon(statement.delta),
                accountant=curve.source,
                delta=statement.delta,
                adjacency=statement.adjacency,
            )
    raise AttackError(
        f"{run}: its statement names no private training of its own, so there is no claim to "
        "audit. Give the run of a DPCropClassifier, DPMCGAN or DPLatentDiffusion."
    )


def audited(stage: Stage, observed: Observed) -> RunAudit:
    """Lower bounds and checks from the observed canaries; runs no model.

    Args:
        stage: What was claimed.
        observed: A fit with canaries, each in by the toss of a fair coin.
    """
    stated = stage.mechanism
    scores = canary_scores(
        observed.products,
        noise_multiplier=stated.noise_multiplier,
        sampling_rate=stated.sampling_rate,
    )
    groups = scores[observed.inside], scores[~observed.inside]
    risk = risk_of(composed(stated), fprs=FPRS)
    bounds = Bounds(
        epsilon=stage.epsilon,
        delta=stage.delta,
        advantage=risk.advantage,
        tpr_at_fpr=risk.tpr_at_fpr,
    )
    found = _lower_bounds(stage, *groups, level=_each())
    refuted_by = [key for key, bound in found.items() if bound.epsilon > stage.epsilon]
    if refuted_by:
        surely = _lower_bounds(stage, *groups, level=SURE)
        refuted_by = [key for key in refuted_by if surely[key].epsilon > stage.epsilon]
    return RunAudit(
        stage=stage,
        canaries=len(scores),
        bounds=found,
        measured=rates_as_json(audit(*groups, fprs=FPRS), bounds),
        exceeds_curve=exceeds(*groups, bounds, fprs=FPRS, level=SURE),
        refuted_by=tuple(refuted_by),
        conduct=check_loop(observed, stated, epsilon=stage.epsilon, delta=stage.delta),
    )


def _lower_bounds(
    stage: Stage, members: Scores, nonmembers: Scores, *, level: float
) -> dict[str, LowerBound]:
    """Each bound that applies to the stage, see :class:`RunAudit`, at a confidence of its own."""
    stated, delta = stage.mechanism, stage.delta
    some, others = best_guesses(stage, len(members) + len(nonmembers), level)
    one = one_run(
        members, nonmembers, guessed_in=some, guessed_out=others, delta=delta, level=level
    )
    found = {"one_run": one, "canary_run": many_run(members, nonmembers, delta=delta, level=level)}
    if stated.sampling_rate == 1:
        gaussian = many_run_gaussian(members, nonmembers, delta=delta, level=level)
        return found | {"gaussian_run": gaussian}
    curve = one_run_curve(
        members,
        nonmembers,
        guessed_in=some,
        guessed_out=others,
        stated=stated,
        delta=delta,
        level=level,
    )
    return found | {"curve_run": curve}


@lru_cache(maxsize=64)
def best_guesses(stage: Stage, canaries: int, level: float) -> tuple[int, int]:
    """Numbers of guesses "in" and "out" with the largest expected bound, by simulations.

    The numbers are fixed before the scores of the audit are seen.

    Args:
        stage: What was claimed.
        canaries: Number of canaries.
        level: Confidence of the bound.
    """
    rng = np.random.default_rng(0)
    mechanism, half = stage.mechanism, canaries // 2
    noise, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    counts = sorted({max(1, int(share * canaries)) for share in _SHARES})
    tried = [(n, n) for n in counts] + [(n, 0) for n in counts]
    found = np.zeros(len(tried))
    for _ in range(_SIMULATED):
        scores = []
        for present in (1, 0):
            drawn = present * (rng.random((mechanism.steps, half)) < rate)
            products = drawn + noise * rng.standard_normal(drawn.shape)
            scores.append(canary_scores(products, noise_multiplier=noise, sampling_rate=rate))
        found += [
            one_run(
                *scores, guessed_in=some, guessed_out=others, delta=stage.delta, level=level
            ).epsilon
            for some, others in tried
        ]
    return tried[int(np.argmax(found))]


def _each() -> float:
    """Level of each bound, so that all hold together at ``LEVEL``."""
    return 1 - (1 - LEVEL) / _BOUNDS


def _write(path: Path, observed: Observed) -> None:
    accounted = observed.accounted
    steps = [accounted.noise_multiplier, accounted.sampling_rate, accounted.steps]
    write_arrays(
        path,
        {
            "products": observed.products.astype(np.float32),
            "again": observed.again.astype(np.float32),
            "inside": observed.inside,
            "accounted": np.array(steps),
        },
    )


def _read(path: Path) -> Observed:
    stored = read_arrays(path, "products", "again", "inside", "accounted")
    noise, rate, steps = stored["accounted"].tolist()
    return Observed(
        products=stored["products"].astype(np.float64),
        again=stored["again"].astype(np.float64),
        inside=stored["inside"],
        accounted=Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=int(steps)),
    )
