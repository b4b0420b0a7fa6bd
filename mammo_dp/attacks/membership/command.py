# SPDX-License-Identifier: Apache-2.0
"""``attack membership``: every black-box membership attack that a released classifier allows.

Each attack states its threat model where it is computed, in ``scores``. Signals are saved, so that
scoring runs no model.
"""

from collections.abc import Sequence
from pathlib import Path

from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.results import Result, bounds_of, score, write_result
from mammo_dp.attacks.membership.scores import (
    ATTACKS,
    Observed,
    completed,
    controls,
    read_observed,
    with_ratios,
    write_observed,
)
from mammo_dp.attacks.membership.shadows import (
    TrainedRun,
    query,
    reference_runs,
    shadow_heads,
)
from mammo_dp.attacks.membership.signals import (
    Signals,
    read_signals,
    require_patients,
    require_two_groups,
    statement_about,
    write_signals,
)
from mammo_dp.runs import RELEASED, input_sha256, run_folder

SHADOWS = 64
GONE = "the logits of own models that it needs are not here any more. Give another --out."
SCORES, MODELS = "scores.csv", "models.npz"


def membership(
    *,
    run: str,
    crops: str,
    out: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    shadows: int | None = None,
    references: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Attacks the classifier of a run and compares the success with the bounds of its statement.

    A loss threshold always; RMIA and LiRA (offline, online) with shadow heads, trained here on
    random halves of the patients, where the body is frozen; and beside each, as control, the same
    attack on some of these heads. Where the body is not frozen, RMIA and offline LiRA compare with
    reference runs.

    Writes ``scores.csv`` and ``models.npz`` (signals, private data) and ``attack.json``
    (aggregates). An interrupted attack resumes from what was saved.

    Args:
        run: Folder of a classifier run; its ``checkpoints/last.ckpt`` is attacked.
        crops: Folder of the crops that the run was trained on.
        out: Folder of the result; ``attack_membership`` in the run's folder if not given.
        member_split: Split that the run was trained on.
        nonmember_split: Split that no stage of the run was trained on.
        shadows: Shadow heads, an even number; 0 tries the loss threshold alone. If not given, 64
            where the body is frozen, else none.
        references: Folders of runs of the same configuration on other patients, such as a
            ``fit`` with ``--data.init_args.train_split test``; instead of shadow heads.
        seed: Seed of halves, shadow heads and the random baseline.
    """
    result = attack_membership(
        run=Path(run),
        crops=Path(crops),
        out=Path(out) if out else None,
        member_split=member_split,
        nonmember_split=nonmember_split,
        shadows=shadows,
        references=[Path(folder) for folder in references or ()],
        seed=seed,
        progress=True,
    )
    print("\n".join(result.lines()))


def attack_membership(
    *,
    run: Path,
    crops: Path,
    out: Path | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    shadows: int | None = None,
    references: Sequence[Path] = (),
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = False,
) -> Result:
    """As :func:`membership`, with the result; a finished folder is scored again from its signals.

    Args:
        run: See :func:`membership`, as all others.
        crops: Folder of crops.
        out: Folder of the result.
        member_split: Split of the members.
        nonmember_split: Split of the others.
        shadows: Shadow heads.
        references: Runs on other patients.
        seed: Seed.
        cache: Folder of cached features; that of the run if not given. Runs with one body can
            share it.
        progress: Whether to show bars.

    Raises:
        AttackError: If the attack would not measure what it claims.
    """
    require_two_groups(member_split, nonmember_split)
    manifest = CropsManifest.read(crops)
    splits = (member_split, nonmember_split)
    for split in splits:
        require_patients(manifest, manifest.rows(split), split)
    attacked = input_sha256(run / RELEASED)
    statement = statement_about(run / "privacy.json", attacked, manifest, *splits)
    _require_different(attacked, references)
    trained = TrainedRun.read(run, statement)
    count, why_not = how_many(trained, shadows, references)
    with run_folder(
        out or run / "attack_membership",
        command="attack membership",
        config={
            "run": str(run),
            "crops": str(crops),
            "member_split": member_split,
            "nonmember_split": nonmember_split,
            "shadows": shadows,
            "references": [str(folder) for folder in references] or None,
        },
        inputs={"checkpoint": run / RELEASED, "data": crops, "privacy": run / "privacy.json"}
        | {f"reference {place}": folder / RELEASED for place, folder in enumerate(references)},
        seed=seed,
    ) as record:
        saved, models = record.folder / SCORES, record.folder / MODELS
        if saved.exists():
            logits = read_observed(models) if models.is_file() else None
            signals = completed(read_signals(saved), logits)
        else:
            signals = query(trained.released, manifest, *splits)
            if count or references:
                observed = _observed(
                    trained,
                    manifest,
                    signals,
                    references,
                    splits,
                    saved=models,
                    count=count,
                    cache=cache or run / "features",
                    seed=seed,
                    progress=progress,
                )
                signals = with_ratios(signals, observed)
            write_signals(saved, signals)
        result = score(
            signals,
            [ATTACKS[name] for name in signals.columns],
            unit=statement.unit,
            bounds=bounds_of(statement),
            models=count or len(references),
            control=controls(signals, read_observed(models), statement.unit)
            if count and models.is_file()
            else {},
            not_tried={name: why_not or GONE for name in ATTACKS if name not in signals.columns},
            seed=seed,
        )
        if not record.is_finished:
            write_result(record, result, manifest, member_split, nonmember_split)
        return result


def _require_different(attacked: str, references: Sequence[Path]) -> None:
    """Checks that each reference is a model of its own: what is usual is told by others.

    Args:
        attacked: SHA-256 of what is attacked.
        references: Folders of runs.

    Raises:
        AttackError: If one is the attacked model, or another reference once more.
    """
    met = {attacked: "the attacked model"}
    for folder in references:
        sha256 = input_sha256(folder / RELEASED)
        if sha256 in met:
            raise AttackError(
                f"references: {folder} holds the same weights as {met[sha256]}, and says nothing "
                "about how other models answer. Give runs that were trained apart."
            )
        met[sha256] = str(folder)


def how_many(run: TrainedRun, asked: int | None, references: Sequence[Path]) -> tuple[int, str]:
    """Number of shadow heads, and why some attacks cannot be tried.

    Raises:
        AttackError: For a number that cannot be had.
    """
    if references:
        if asked:
            raise AttackError(f"shadows={asked} and {len(references)} references. Give one.")
        return 0, "the references do not have two models on either side of each patient"
    remedy = (
        "Train the same configuration on patients of another split or data set "
        "(--data.init_args.train_split test) and give these runs as --references"
    )
    if asked is None:
        return (0, f"{run.no_shadows}. {remedy}.") if run.no_shadows else (SHADOWS, "")
    if asked and run.no_shadows:
        raise AttackError(f"shadows={asked}: {run.no_shadows}. {remedy}, or --shadows 0.")
    if asked % 2 or asked < 0 or asked == 2:
        raise AttackError(
            f"shadows={asked}. Give an even number from 4 on (each patient is in one half of "
            "them), or 0."
        )
    return asked, "" if asked else "no shadow heads were asked for"


def _observed(
    run: TrainedRun,
    manifest: CropsManifest,
    signals: Signals,
    runs: Sequence[Path],
    splits: tuple[Split, Split],
    *,
    saved: Path,
    count: int,
    cache: Path,
    seed: int,
    progress: bool,
) -> Observed:
    """What the models say, from an interrupted attack or asked now."""
    if saved.exists():
        return read_observed(saved)
    observed = (
        reference_runs(manifest, signals, runs, *splits)
        if runs
        else shadow_heads(
            run, manifest, signals, count=count, cache=cache, seed=seed, progress=progress
        )
    )
    write_observed(saved, observed)
    return observed
