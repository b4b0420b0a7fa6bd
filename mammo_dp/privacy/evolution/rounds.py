# SPDX-License-Identifier: Apache-2.0
"""Rounds of voting on disk: each is recorded before its noise is drawn, then its result is saved.

``account.json`` holds the mechanism as executed so far, the configuration and inputs of the run,
and a name that no other account has, sealed under the cohort key. ``rounds/`` has the candidates of
each round and their noisy votes, sealed together with that name, so that no round of another run
counts as one of this; exact votes are never written.
A process that dies between the two leaves a recorded round without a result: it stays accounted
for, and the run resumes with one round less.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.population import Candidates, Histogram
from mammo_dp.privacy.evolution.simulators import Genome
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, stage_name
from mammo_dp.privacy.statement.lineage import PHANTOMS, inputs_ledger
from mammo_dp.privacy.statement.recompute import RESTORE
from mammo_dp.privacy.statement.seals import identity_of_run, seal_doubt, with_seal
from mammo_dp.privacy.statement.verify import RUN_AGAIN, Evidence, StageCheck
from mammo_dp.privacy.training.sampling import FRESH_KEY
from mammo_dp.runs import RunRecord, file_sha256, read_run, write_text_atomically

ACCOUNT, ROUNDS, IMAGES = "account.json", "rounds", "images"
_NAME_BYTES = 16  # of an account


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is known of one round, all of it behind the noise.

    Attributes:
        candidates: What was voted on.
        votes: Noisy, shape ``(2, K)``.
    """

    candidates: Candidates
    votes: Histogram

    def as_json(self) -> dict[str, Any]:
        """Plain values from which :meth:`from_json` makes an equal round."""
        genomes = [[asdict(genome) for genome in of_class] for of_class in self.candidates]
        return {"candidates": genomes, "votes": self.votes.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        candidates = tuple(
            tuple(
                Genome(malignant=one["malignant"], steps=tuple(map(tuple, one["steps"])))
                for one in of_class
            )
            for of_class in stored["candidates"]
        )
        return cls(candidates=candidates, votes=np.array(stored["votes"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsAccount:
    """The rounds of one run folder.

    Attributes:
        folder: Run folder.
        planned: All rounds of the run as one mechanism.
    """

    folder: Path
    planned: Mechanism

    @property
    def recorded(self) -> int:
        """Rounds that are accounted for.

        Raises:
            PrivacyError: If they were run with other noise than is planned.
        """
        done = executed(self.folder)
        if done is None:
            return 0
        if replace(done, steps=self.planned.steps) != self.planned:
            raise PrivacyError(
                f"{self.folder / ACCOUNT}: rounds were run with noise multiplier "
                f"{done.noise_multiplier}, planned is {self.planned.noise_multiplier}. Another "
                "version calibrates otherwise; resume with the version that began, or take a new "
                "folder."
            )
        return done.steps

    def require_rounds_of_crops(self) -> None:
        """Refuses other rounds than those of crops that an earlier start wrote.

        The first of them may have been seen, so no round follows it. Nothing else is taken from
        them: what the crops are follows from the last round.

        Raises:
            PrivacyError: If crops were written and rounds are left, or they name another round.
        """
        path = self.folder / CROPS
        if not path.exists() and not any((self.folder / IMAGES).glob("*")):
            return
        made_by = {crop.origin for crop in _crops(path)}
        if self.recorded < self.planned.steps or made_by - {origin(self.folder)}:
            raise PrivacyError(
                f"{self.folder}: an earlier start wrote crops, and {ACCOUNT} and {ROUNDS}/ are not "
                "those of that time. Whoever may have seen these crops, the same command would "
                "make others. Restore them, or choose a new folder, whose rounds come on top."
            )

    def record(self) -> int:
        """Accounts for one round and returns its number, from 0.

        Raises:
            PrivacyError: Beyond the planned rounds.
        """
        step = self.recorded
        if step >= self.planned.steps:
            raise PrivacyError(
                f"{self.folder}: all {self.planned.steps} rounds are spent. More would exceed the "
                "budget; choose a new folder, which is accounted on its own."
            )
        name = _account(self.folder)["name"] if step else secrets.token_hex(_NAME_BYTES)
        content = {
            "name": name,
            "run": identity_of_run(read_run(self.folder)),
            "mechanism": replace(self.planned, steps=step + 1).as_json(),
        }
        text = json.dumps(with_seal(content), indent=2)
        write_text_atomically(self.folder / ACCOUNT, text + "\n")
        return step

    def save(self, step: int, result: Round) -> None:
        """Writes the result of a recorded round."""
        name = _account(self.folder)["name"]
        content = {"account": name, "round": step, **result.as_json()}
        text = json.dumps(with_seal(content), allow_nan=False) + "\n"
        write_text_atomically(self.folder / ROUNDS / f"{step:03d}.json", text)

    def last(self) -> tuple[int, Round] | None:
        """Number and result of the last round that has one; none if there is none.

        Raises:
            PrivacyError: If a round is not what this run wrote.
        """
        rounds = _rounds(self.folder)
        return rounds[-1] if rounds else None


def _crops(path: Path) -> tuple[Crop, ...]:
    return CropsManifest.read(path.parent).crops if path.exists() else ()


def executed(folder: Path) -> Mechanism | None:
    """The mechanism as executed, from ``account.json``; none before the first round.

    Raises:
        PrivacyError: If the file cannot be read, is not what this run wrote, or accounts for less
            than was done.
    """
    results = len(saved_rounds(folder))
    if not (folder / ACCOUNT).exists() and not results:
        return None
    done = Mechanism(**_account(folder)["mechanism"])
    if done.steps < results:
        raise PrivacyError(
            f"{folder / ACCOUNT}: accounts for {done.steps} rounds, but {results} have a result. "
            "Restore it."
        )
    return done


def _account(folder: Path) -> dict[str, Any]:
    """Content of ``account.json``.

    Raises:
        PrivacyError: If the file cannot be read, or is not what this run wrote.
    """
    path = folder / ACCOUNT
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        run, _, _ = stored["run"], stored["name"], Mechanism(**stored["mechanism"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PrivacyError(
            f"{path}: is no account ({error}). Restore it; without it nobody knows what was spent."
        ) from error
    doubt = seal_doubt(stored)
    if not doubt and run != identity_of_run(read_run(folder)):
        doubt = "belongs to another run, such as one on other crops"
    if doubt:
        raise PrivacyError(f"{path}: {doubt}. Restore it.")
    return stored


def _rounds(folder: Path) -> list[tuple[int, Round]]:
    """Number and result of each round that has one.

    Raises:
        PrivacyError: If a file is not what this run wrote.
    """
    if not (saved := saved_rounds(folder)):
        return []
    spent = _account(folder)
    return [_round(path, spent) for path in saved]


def _round(path: Path, spent: Mapping[str, Any]) -> tuple[int, Round]:
    """Number and result in one file, held against the content of ``account.json``."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        account, number = stored["account"], stored["round"]
        result = Round.from_json(stored)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PrivacyError(
            f"{path}: is no result of a round ({error!r}). Restore it, or take a new folder, whose "
            "rounds come on top of these."
        ) from error
    doubt = seal_doubt(stored)
    if not doubt and (account, f"{number:03d}") != (spent["name"], path.stem):
        doubt = "is a round of another run, or another round of this"
    elif not doubt and number >= spent["mechanism"]["steps"]:
        doubt = f"is a round beyond those of {ACCOUNT}, which somebody has put back"
    if doubt:
        raise PrivacyError(
            f"{path}: {doubt}, so what is released would not be what is accounted for. Restore it, "
            "or take a new folder, whose rounds come on top of these."
        )
    return number, result


def saved_rounds(folder: Path) -> list[Path]:
    """Files of the rounds that have a result, in order."""
    return sorted((folder / ROUNDS).glob("*.json"))


def origin(folder: Path) -> str:
    """Origin of crops that come from the last round: its hash.

    Raises:
        PrivacyError: If no round has a result, or one is not what this run wrote.
    """
    if not _rounds(folder):
        raise PrivacyError(
            f"{folder}: all rounds are spent and none has a result, since the run was killed as it "
            "drew the noise. Choose a new folder; its rounds come on top of these."
        )
    return f"evolved:{file_sha256(saved_rounds(folder)[-1])}"


def write_evolution_statement(record: RunRecord) -> None:
    """Writes the statement of evolved crops: the votes of the patients, in the rounds that ran.

    Args:
        record: The run that filled the folder.

    Raises:
        PrivacyError: If the account of the rounds cannot be read.
    """
    released = record.folder / CROPS
    voted = Access.of_training(
        stage_name("Private Evolution", file_sha256(released)),
        CropsManifest.read(record.inputs["crops"].path),
        record.config["split"],
        mechanism=executed(record.folder),
        released=file_sha256(released),
        note=f"The noisy votes, in {ROUNDS}/, are no part of the release: private, not to be "
        "published.",
        public_size=record.config["public_size"],
    )
    write_statement(
        record.folder,
        evolution_parents(record).plus(voted),
        delta=record.config["delta"],
        artefact=released,
        randomness=votes_randomness(),
        run=record,
    )


def evolution_parents(record: RunRecord) -> PrivacyLedger:
    """Whose data were used for the simulator: those of a generator, else phantoms."""
    parents = inputs_ledger(record)
    if "checkpoint" in record.inputs:
        return parents
    return replace(parents, exclusions=(*parents.exclusions, PHANTOMS))


def votes_randomness() -> dict[str, str]:
    """Where the noise of Private Evolution came from."""
    return {"noise": FRESH_KEY, "sampling": "none: every patient votes in every round"}


def check_evolution(evidence: Evidence) -> bool:
    """Compares the statement of evolved crops with the patients, the rounds and the crops.

    Returns:
        Whether there was an account.
    """
    folder, config = evidence.record.folder, evidence.record.config
    evidence.check_cohort("crops", config.get("split", "train"))
    where = folder / ACCOUNT
    try:
        done = executed(folder)
        made_by = [origin(folder)]
    except PrivacyError as error:
        evidence.findings.add(where, f"the rounds cannot be read ({error})", RESTORE)
        return False
    if done is None:
        evidence.findings.add(where, "is missing", RESTORE)
        return False
    evidence.compare_account(where, [[done.noise_multiplier, done.sampling_rate, done.steps]])
    if done.steps > (planned := config.get("rounds", 0)):
        what = f"accounts for {done.steps} rounds, but rounds is {planned}"
        evidence.findings.add(where, what, RUN_AGAIN)
    delta = evidence.stored["delta"]
    evidence.findings.compare(evidence.path, "configured delta", delta, config.get("delta"))
    for access in evidence.own:
        size = config.get("public_size")
        evidence.findings.compare(evidence.path, "configured public_size", access.public_size, size)
    evidence.findings.compare(
        evidence.path, "randomness", evidence.stored["randomness"], votes_randomness()
    )
    try:
        origins = sorted({crop.origin for crop in CropsManifest.read(folder).crops})
    except ValueError:
        return True  # malformed, which the visit to the crops has found
    evidence.findings.compare(folder / CROPS, "origins", made_by, origins)
    return True


EVOLUTION = StageCheck(check=check_evolution, parents=evolution_parents)
