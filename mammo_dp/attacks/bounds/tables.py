# SPDX-License-Identifier: Apache-2.0
"""The bounds on screen, with what an adversary is, and what a number does not say."""

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mammo_dp.attacks.bounds.blind import Blind
from mammo_dp.attacks.bounds.corridor import Corridor, Questions, View
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.privacy.accounting.account import common

ADVERSARIES = {
    "identification": (
        "1, guarantee: knows all other patients and how many there are, sees every noisy update, "
        "holds a list with the target in it; succeeds with chance kappa by guessing."
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


def chance(value: float) -> str:
    """Four decimals, and no 1 that is not one."""
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
            chance(bound.advantage),
            *(chance(value) for value in bound.tpr_at_fpr.values()),
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
        return chance(values[kappa]) if values else "-"

    for schedule, bound in results:
        cells = (
            f"{chance(bound.identification[kappa])} ({second(bound.edgeworth, kappa)}) / "
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
        "E[MSE]",
        "E[PSNR]",
        f"P(NCC >= {questions.correlation:g})",
        box=SIMPLE_HEAD,
        title=f"Rung 3, from scratch at {questions.resolutions[-1]} px: E[NCC], an assumption",
        title_justify="left",
        caption="error and chance of success are those of every update",
        caption_justify="left",
    )
    for schedule, bound in results:
        one, weights, every = (views[-1] for views in (bound.one, bound.weights, bound.every))
        table.add_row(
            schedule.name,
            *(_marked(f"{view.ncc:.3f}", view) for view in (one, weights, every)),
            _marked(f"{every.mse:.3g}", every),
            _marked(f"{every.psnr:.1f}", every),
            chance(every.success),
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
