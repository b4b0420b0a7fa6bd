# SPDX-License-Identifier: Apache-2.0
"""`attack synthetic`: all attacks on one released set, into one folder."""

from pathlib import Path

from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks.groups import require_two_groups, statement_about
from mammo_dp.attacks.scoring import (
    bounds_of,
    score,
    write_result,
)
from mammo_dp.attacks.signals import read_signals, write_signals
from mammo_dp.attacks.synthetic.look import look, require_independent
from mammo_dp.attacks.synthetic.methods import methods
from mammo_dp.attacks.synthetic.spaces import SPACES
from mammo_dp.runs import close_run, open_run

SCORES = "scores.csv"
ATTACK = "attack.json"


def synthetic(
    *,
    synthetic: str,
    crops: str,
    out: str,
    reference: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Attacks a synthetic set and compares the success with the bounds of its statement.

    Distance to the nearest sample, Monte Carlo share and authenticity; with a reference also the
    calibrated distance and the density ratio (DOMIAS). Each in pixels and in fixed measurements.
    Writes ``scores.csv`` (signals, private data) and ``attack.json`` (aggregates). An interrupted
    attack scores the saved signals again and does not look twice.

    Args:
        synthetic: Folder of synthetic crops with their ``privacy.json``.
        crops: Folder of the crops that their generator was trained on.
        out: Folder of the result.
        reference: Folder of crops that do not depend on the cohort, such as phantoms or another
            cohort.
        member_split: Split that the generator was trained on.
        nonmember_split: Split that no stage was trained on.
        resamples: Bootstrap resamples of patients, at least 100.
        seed: Seed of the bootstrap and of the random baseline.

    Raises:
        AttackError: If the attack would not measure what it claims.
    """
    require_two_groups(member_split, nonmember_split, resamples)
    privacy = Path(synthetic) / "privacy.json"
    record = open_run(
        out,
        command="attack synthetic",
        config={
            "member_split": member_split,
            "nonmember_split": nonmember_split,
            "resamples": resamples,
        },
        inputs={"synthetic": Path(synthetic), "data": Path(crops), "privacy": privacy}
        | ({} if reference is None else {"reference": Path(reference)}),
        seed=seed,
    )
    if record.is_finished:
        print(f"{record.folder}: already finished; nothing to do.")
        return
    manifest = CropsManifest.read(crops)
    statement = statement_about(privacy, manifest, member_split, nonmember_split)
    saved = record.folder / SCORES
    if not saved.exists():
        released = CropsManifest.read(synthetic)
        other = None if reference is None else CropsManifest.read(reference)
        require_independent(manifest, released, other)
        write_signals(saved, look(manifest, released, other, member_split, nonmember_split))
    result = score(
        read_signals(saved),
        [
            method.in_space(space)
            for space in SPACES
            for method in methods(with_reference=reference is not None)
        ],
        unit=statement.unit,
        bounds=bounds_of(statement),
        resamples=resamples,
        seed=seed,
    )
    write_result(record.folder / ATTACK, result, manifest, member_split, nonmember_split)
    close_run(record)
    print(*result.lines(), sep="\n")
