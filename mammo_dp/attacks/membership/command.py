# SPDX-License-Identifier: Apache-2.0
"""Membership inference on a released classifier by a loss threshold, and `attack membership`.

Threat model (rung 5 of the ladder): the adversary holds labelled crops of one person, queries the
released model with them and reads its probabilities. It sees neither updates nor other patients,
trains nothing and knows no more than that members were fitted and others were not.

Source: Yeom et al. 2018, arXiv 1709.01604, with the logit-scaled confidence of Carlini et al. 2022,
arXiv 2112.03570, averaged over the crops of a patient, since the patient is what is protected.
"""

from pathlib import Path

from classifier.released import load_classifier
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks.membership.query import LOSS_THRESHOLD, query
from mammo_dp.attacks.scoring import (
    bounds_of,
    require_two_groups,
    score,
    statement_about,
    write_result,
)
from mammo_dp.attacks.signals import read_signals, write_signals
from mammo_dp.runs import close_run, open_run

SCORES = "scores.csv"
ATTACK = "attack.json"
_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def membership(
    *,
    run: str,
    crops: str,
    out: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Attacks the classifier of a run and compares the success with the bounds of its statement.

    Writes ``scores.csv`` (signals, private data) and ``attack.json`` (aggregates). An interrupted
    attack scores the saved signals again and does not query the model twice.

    Args:
        run: Folder of a classifier run; its ``checkpoints/last.ckpt`` is attacked.
        crops: Folder of the crops that the run was trained on.
        out: Folder of the result; ``attack_membership`` in the run's folder if not given.
        member_split: Split that the run was trained on.
        nonmember_split: Split that no stage of the run was trained on.
        resamples: Bootstrap resamples of patients, at least 100.
        seed: Seed of the bootstrap and of the random baseline.
    """
    require_two_groups(member_split, nonmember_split, resamples)
    folder = Path(run)
    target = Path(out) if out else folder / "attack_membership"
    record = open_run(
        target,
        command="attack membership",
        config={
            "run": run,
            "crops": crops,
            "member_split": member_split,
            "nonmember_split": nonmember_split,
            "resamples": resamples,
        },
        inputs={
            "checkpoint": folder / _CHECKPOINT,
            "data": Path(crops),
            "privacy": folder / "privacy.json",
        },
        seed=seed,
    )
    if record.is_finished:
        return
    manifest = CropsManifest.read(crops)
    statement = statement_about(folder / "privacy.json", manifest, member_split, nonmember_split)
    if (target / SCORES).exists():
        signals = read_signals(target / SCORES)
    else:
        model = load_classifier(folder / _CHECKPOINT)
        signals = query(model, manifest, member_split, nonmember_split)
        write_signals(target / SCORES, signals)
    result = score(
        signals,
        [LOSS_THRESHOLD],
        unit=statement["unit"],
        bounds=bounds_of(statement),
        resamples=resamples,
        seed=seed,
    )
    write_result(target / ATTACK, result, manifest, member_split, nonmember_split)
    close_run(record)
