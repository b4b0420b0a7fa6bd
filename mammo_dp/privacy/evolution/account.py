# SPDX-License-Identifier: Apache-2.0
"""Rounds of voting on disk: each is booked before its noise is drawn, then saved with its result.

``account.json`` holds the mechanism as executed so far, ``rounds/`` the candidates of each round
and their noisy votes; exact votes are never written. A process that dies between the two leaves a
round booked that has no result: it stays paid for, and the run goes on with one round less.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from mammo_dp.privacy.accounting import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.genome import Genome
from mammo_dp.privacy.evolution.population import Candidates
from mammo_dp.privacy.evolution.votes import Histogram
from mammo_dp.runs import file_sha256, write_text_atomically

ACCOUNT, ROUNDS = "account.json", "rounds"


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
    def booked(self) -> int:
        """Rounds that are paid for.

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
                "version calibrates otherwise; go on with the one that began, or in a new folder."
            )
        return done.steps

    def book(self) -> int:
        """Pays for one round and returns its number, from 0.

        Raises:
            PrivacyError: Beyond the planned rounds.
        """
        step = self.booked
        if step >= self.planned.steps:
            raise PrivacyError(
                f"{self.folder}: all {self.planned.steps} rounds are spent. More would exceed the "
                "budget; choose a new folder, which is accounted on its own."
            )
        done = replace(self.planned, steps=step + 1)
        write_text_atomically(self.folder / ACCOUNT, json.dumps(done.as_json(), indent=2) + "\n")
        return step

    def save(self, step: int, result: Round) -> None:
        """Writes the result of a booked round."""
        text = json.dumps(result.as_json(), allow_nan=False) + "\n"
        write_text_atomically(self.folder / ROUNDS / f"{step:03d}.json", text)

    def last(self) -> tuple[int, Round] | None:
        """Number and result of the last round that has one; none if there is none."""
        saved = saved_rounds(self.folder)
        if not saved:
            return None
        return int(saved[-1].stem), Round.from_json(json.loads(saved[-1].read_text()))


def executed(folder: Path) -> Mechanism | None:
    """The mechanism as executed, from ``account.json``; none before the first round.

    Raises:
        PrivacyError: If the file cannot be read, or books less than was done.
    """
    path, results = folder / ACCOUNT, len(saved_rounds(folder))
    if not path.exists() and not results:
        return None
    try:
        done = Mechanism(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PrivacyError(
            f"{path}: is no account ({error}). Restore it; without it nobody knows what was spent."
        ) from error
    if done.steps < results:
        raise PrivacyError(
            f"{path}: books {done.steps} rounds, but {results} have a result. Restore it."
        )
    return done


def saved_rounds(folder: Path) -> list[Path]:
    """Files of the rounds that have a result, in order."""
    return sorted((folder / ROUNDS).glob("*.json"))


def origin(folder: Path) -> str:
    """Origin of crops that come from the last round: its hash.

    Raises:
        PrivacyError: If no round has a result.
    """
    saved = saved_rounds(folder)
    if not saved:
        raise PrivacyError(
            f"{folder}: all rounds are spent and none has a result, since the run was killed as it "
            "drew the noise. Choose a new folder; its rounds come on top of these."
        )
    return f"evolved:{file_sha256(saved[-1])}"
