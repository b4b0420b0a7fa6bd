# SPDX-License-Identifier: Apache-2.0
"""``attack bounds``: what adversaries achieve at most, along budgets or for a run.

Blind guesses, which use no update, stand beside the bounds as baselines.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from data_prep.copies import shared_rows
from data_prep.datamodule import FULL_SCALE
from data_prep.manifest import FILE_NAME, CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.corridor import RESOLUTIONS, Corridor, Questions, View, corridor
from mammo_dp.attacks.bounds.schedules import Schedule, of_budgets, of_run
from mammo_dp.privacy.accounting.account import common

_Images = NDArray[np.float64]  # shape (images, edge, edge), grey values in [0, 1]
TARGETS = 60  # their mean correlation is then known to about .03


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """Mean success of guesses at one resolution.

    Attributes:
        edge: Edge of the images, in pixels.
        blank_mse: Squared error of a black image, which has no correlation with anything.
        mean_mse: Squared error of the mean image of the reference.
        mean_ncc: Its correlation.
        nearest_mse: Squared error of the reference image nearest to the target: the best guess
            that the reference offers, chosen by who knows the target.
        nearest_ncc: Its correlation.
    """

    edge: int
    blank_mse: float
    mean_mse: float
    mean_ncc: float
    nearest_mse: float
    nearest_ncc: float

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def blind(targets: _Images, reference: _Images, edge: int) -> Blind:
    """Success of guesses.

    Args:
        targets: _Images to be guessed, shape ``(m, size, size)``.
        reference: _Images that do not depend on the targets' patients, shape ``(r, size, size)``.
        edge: Both are averaged to this edge, in pixels.
    """
    truth, known = _flat(targets, edge), _flat(reference, edge)
    mean = known.mean(axis=0)
    # |x - y|^2 without the m r n numbers of all differences
    distances = (truth**2).mean(1)[:, None] + (known**2).mean(1) - 2 * truth @ known.T / edge**2
    nearest = distances.argmin(axis=1)
    return Blind(
        edge=edge,
        blank_mse=float((truth**2).mean()),
        mean_mse=float(((truth - mean) ** 2).mean()),
        mean_ncc=float(_correlations(truth, np.broadcast_to(mean, truth.shape)).mean()),
        nearest_mse=float(((truth - known[nearest]) ** 2).mean()),
        nearest_ncc=float(_correlations(truth, known[nearest]).mean()),
    )


def require_apart(targets: CropsManifest, reference: CropsManifest) -> None:
    """Checks that a guess from the reference is blind.

    Raises:
        AttackError: If the two share patients, or synthetic crops.
    """
    if shared := len(shared_rows(reference, reference.rows(), targets, targets.rows())):
        raise AttackError(
            f"{reference.folder / FILE_NAME}: {shared} crops of the reference, or their patients, "
            "are among those to be guessed. Give phantoms or crops of other patients."
        )


def images(manifest: CropsManifest, most: int = TARGETS) -> _Images:
    """At most so many crops, spread evenly over the rows, as grey values in ``[0, 1]``.

    Raises:
        AttackError: If there is no crop.
    """
    rows = manifest.rows()
    if not rows:
        raise AttackError(f"{manifest.folder / FILE_NAME}: holds no crop. Give another folder.")
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return manifest.images([rows[place] for place in places]) / FULL_SCALE


def _flat(of: _Images, edge: int) -> NDArray[np.float64]:
    small = [cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA) for image in of]
    return np.stack(small).reshape(len(of), -1).astype(np.float64)


def _correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation over pixels, row by row; 0 where an image is constant."""
    a = one - one.mean(axis=1, keepdims=True)
    b = other - other.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("ij,ij->i", a, b)
    return np.where(lengths > 1e-12, products / np.maximum(lengths, 1e-12), 0.0)


ADVERSARIES = {
    "identification": (
        "1, guarantee: knows all other patients and how many there are, sees every noisy update, "
        "holds a list with the target in it; succeeds with probability kappa by guessing."
    ),
    "relaxed": ("2, assumption: as 1, but does not know the sign of the target's gradient."),
    "from_scratch": (
        "3, assumption: a malicious server that chooses model and weights, sees every update and "
        "knows nothing about mammograms."
    ),
    "final_weights": (
        "as 3, but sees the final weights alone, of plain gradient descent with the clip active."
    ),
    "membership": "5, guarantee: queries the release, or knows even more.",
}
CAVEATS = (
    "In parentheses, the from-scratch adversary does worse than a blank image (pixels x noise^2 / "
    "observations is above 1): there its value bounds nothing. Read the blind baselines beside it; "
    "only what exceeds them was learnt from the training.",
    "The from-scratch value depends on the resolution: a server whose first layer averages to r x "
    "r pixels faces r^2 of them, so a thumbnail is readable where the full image is not.",
    "An adversary with a prior on mammograms does better than the from-scratch value. Scaling "
    "each image to its own range, or picking the best of many reconstructions, flatters an "
    "attack: score blind guesses in the same way.",
)
_NO_BASELINE = (
    "Blind: a blank image has squared error {blank:.2f} and no correlation. The mean image and the "
    "nearest image of other patients are not computed: give --crops and --reference. On CBIS-DDSM "
    "crops the mean image of another cohort reaches correlation .50 to .54."
)


def show(
    results: Sequence[tuple[Schedule, Corridor]], questions: Questions, baselines: Sequence[Blind]
) -> None:
    """Prints all tables."""
    console = Console()
    console.print(
        f"Bounds per patient, {common(schedule.adjacency for schedule, _ in results)}, epsilon at "
        f"delta = {questions.delta:g}.",
        *(schedule.end_to_end for schedule, _ in results if schedule.end_to_end),
        sep="\n",
        highlight=False,
    )
    console.print(_guarantees(results, questions))
    console.print(_adversaries(results, questions))
    console.print(_from_scratch(results, questions))
    console.print(_by_resolution(results, questions, baselines))
    console.print(*(f"{n}: {text}" for n, text in ADVERSARIES.items()), sep="\n", highlight=False)
    if not baselines:
        console.print(_NO_BASELINE.format(blank=questions.mean_square), highlight=False)
    console.print(*CAVEATS, sep="\n", highlight=False)


def probability(value: float) -> str:
    """Four decimals; a value that only rounds to 1 is shown as above .9999."""
    return ">.9999" if 0.99995 <= value < 1 else f"{value:.4f}".removeprefix("0")


def _guarantees(results: Sequence[tuple[Schedule, Corridor]], questions: Questions) -> Table:
    table = Table(
        "budget",
        "epsilon",
        "noise",
        "rate",
        "steps",
        "advantage",
        *(f"TPR at FPR {fpr:g}" for fpr in questions.fprs),
        box=SIMPLE_HEAD,
        title="Rung 5, membership: guarantees",
        title_justify="left",
    )
    by: dict[str, list[str]] = {}
    for schedule, bound in results:
        mechanism = bound.mechanism
        if mechanism:
            by.setdefault(bound.accountant, []).append(schedule.name)
        table.add_row(
            schedule.name,
            "infinity" if math.isinf(bound.epsilon) else f"{bound.epsilon:.4g}",
            f"{mechanism.noise_multiplier:.4g}" if mechanism else "0",
            f"{mechanism.sampling_rate:.4g}" if mechanism else "-",
            f"{mechanism.steps}" if mechanism else "-",
            probability(bound.advantage),
            *(probability(value) for value in bound.tpr_at_fpr.values()),
        )
    table.caption = "; ".join(f"{', '.join(names)} by {source}" for source, names in by.items())
    table.caption_justify = "left"
    return table


def _adversaries(results: Sequence[tuple[Schedule, Corridor]], questions: Questions) -> Table:
    table = Table(
        "budget",
        *(f"kappa {kappa:.4g}" for kappa in questions.kappas),
        box=SIMPLE_HEAD,
        title="Rungs 1 and 2, identification by PLD (Edgeworth) / without sign, an assumption",
        title_justify="left",
    )

    def second(values: Mapping[float, float] | None, kappa: float) -> str:
        return probability(values[kappa]) if values else "-"

    for schedule, bound in results:
        cells = (
            f"{probability(bound.identification[kappa])} ({second(bound.edgeworth, kappa)}) / "
            f"{second(bound.relaxed, kappa)}"
            for kappa in questions.kappas
        )
        table.add_row(schedule.name, *cells)
    return table


def _from_scratch(results: Sequence[tuple[Schedule, Corridor]], questions: Questions) -> Table:
    table = Table(
        "budget",
        "one update",
        "final weights",
        "every update",
        Column("E[MSE]", no_wrap=True),
        "E[PSNR]",
        f"P(NCC >= {questions.correlation:g})",
        box=SIMPLE_HEAD,
        title=f"Rung 3, from scratch at {questions.resolutions[-1]} px: E[NCC], an assumption",
        title_justify="left",
        caption="error and probability of success are those of every update",
        caption_justify="left",
    )
    for schedule, bound in results:
        one, weights, every = (views[-1] for views in (bound.one, bound.weights, bound.every))
        table.add_row(
            schedule.name,
            *(_marked(f"{view.ncc:.3f}", view) for view in (one, weights, every)),
            _marked(f"{every.mse:.3g}", every),
            _marked(f"{every.psnr:.1f}", every),
            probability(every.success),
        )
    return table


def _by_resolution(
    results: Sequence[tuple[Schedule, Corridor]],
    questions: Questions,
    baselines: Sequence[Blind],
) -> Table:
    table = Table(
        "budget",
        *(f"{edge} px" for edge in questions.resolutions),
        box=SIMPLE_HEAD,
        title="Rung 3, E[NCC] by resolution if every step of the target is recognised",
        title_justify="left",
    )
    for schedule, bound in results:
        table.add_row(schedule.name, *(_marked(f"{view.ncc:.2f}", view) for view in bound.every))
    table.add_section()
    table.add_row("blind: blank image", *("0.00" for _ in questions.resolutions))
    if baselines:
        table.add_row("blind: mean image", *(f"{one.mean_ncc:.2f}" for one in baselines))
        table.add_row("best of reference*", *(f"{one.nearest_ncc:.2f}" for one in baselines))
        table.caption = "* the nearest image of other patients, chosen by who knows the target"
    return table


def _marked(text: str, view: View) -> str:
    return text if view.bounds_anything else f"({text})"


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
        budgets: Epsilons per patient, and "none" for training without privacy; with sampling_rate
            and steps.
        sampling_rate: Probability that a patient joins a step, above 0 and at most 1.
        steps: Number of steps.
        delta: Probability that the bound of epsilon fails; below 1 / patients. Of the statement,
            for a run.
        kappa: Probability, or probabilities, of naming the patient without the release, beyond .01
        and .1
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
        AttackError: For a probability outside (0, 1), or flags that do not belong together.
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
        show(results, questions, baselines)


def as_json(results: list[Result], questions: Questions, baselines: list[Blind]) -> dict[str, Any]:
    """Plain values, with what they mean."""
    return {
        "schema": 1,
        "unit": "patient",
        "adjacency": common(schedule.adjacency for schedule, _ in results),
        "delta": questions.delta,
        "correlation": questions.correlation,
        "mean_square": questions.mean_square,
        "adversaries": dict(ADVERSARIES),
        "caveats": list(CAVEATS),
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
