# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison on screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NAMES = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "ms_ssim": "MS-SSIM of pairs",
    "grid": "grid index",
    "slope": "spectral slope",
    "tstr_machine": "AUROC, synthetic → real, kernel machine",
    "trts_machine": "AUROC, real → synthetic, kernel machine",
    "tstr_descent": "AUROC, synthetic → real, default classifier",
    "trts_descent": "AUROC, real → synthetic, default classifier",
}


def print_table(result: Mapping[str, Any], folder: Path) -> None:
    """Prints the numbers, what they are taken in, and what no epsilon covers.

    Args:
        result: Content of ``fidelity.json``.
        folder: Where it lies.
    """
    sources: Mapping[str, Any] = result["sources"]
    table = Table("", "real, other patients", *sources, box=SIMPLE_HEAD)
    for measure, name in NAMES.items():
        scores = [source["scores"][measure] for source in sources.values()]
        table.add_row(name, shown(scores[0]["bound"]), *(shown(s["found"]) for s in scores))
    everyone = [result["real"], *sources.values()]
    for space in ("features", "pixels"):
        found = [one["copying"][space]["all"] for one in everyone]
        table.add_row(f"copying ratio, {space}", *(shown(one["ratio"]) for one in found))
        table.add_row("  at the 1 % nearest", *(shown(one["low_ratio"]) for one in found))
        table.add_row("  chance if not copying", *(f"{one['p_value']:.2g}" for one in found))
    flags = ["yes" if one["copying"]["copies"] else "no" for one in everyone]
    table.add_row("copies", *flags)
    half, agreement = result["crops_of_a_half"], result["agreement_crops"]
    console = Console()
    console.print(table)
    console.print(
        f"Features: {result['extractor']['name']}, d = {result['extractor']['dimension']}, sha256 "
        f"{result['extractor']['sha256'][:12]}. Each side {sum(half.values())} crops "
        f"({half['malignant']} malignant); agreement trained on {agreement['train']}, tested on "
        f"{agreement['test']} real crops of {agreement['patients of test']} patients. "
        f"{result['level']:.0%} intervals over patients and crops, {result['draws']} draws.",
        *(
            f"{NAMES[f'tstr_{student}']}, {pair}: {shown(value)}."
            for student, pairs in result["tstr_differences"].items()
            for pair, value in pairs.items()
        ),
        result["notice"],
        f"Result: {folder}",
        sep="\n",
        highlight=False,
        markup=False,
    )


def shown(value: Mapping[str, float | None]) -> str:
    """A value with its interval, three significant digits."""
    if value["value"] is None:
        return "—"
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
