# SPDX-License-Identifier: Apache-2.0
"""What attacks saw, on disk: written once, in one move, so that it can be scored again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mammo_dp.attacks.reconstruction.candidates import CandidateScores
from mammo_dp.attacks.reconstruction.isolated import Observations, ReadOut
from mammo_dp.attacks.signals import AttackError

Arrays = Mapping[str, NDArray[Any]]
_SERVERS = ("plain", "centred", "offset")


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes named arrays in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a flag here
    part.replace(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads named arrays; no code in the file is run.

    Raises:
        AttackError: If it cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise AttackError(
            f"{path}: holds no signals ({error}). Remove it; the attack runs again and writes it."
        ) from error


def write_observations(path: Path, seen: Observations) -> None:
    """Writes the read-outs of one resolution and one noise; images as float32."""
    arrays: dict[str, NDArray[Any]] = {
        name: np.array(getattr(seen, name)) for name in ("resolution", "noise_multiplier", "rounds")
    }
    for server in _SERVERS:
        if (read_out := getattr(seen, server)) is not None:
            arrays[f"{server}_seen"] = read_out.seen.astype(np.float32)
            arrays[f"{server}_noise"] = read_out.noise
    write_arrays(path, arrays)


def read_observations(path: Path) -> Observations:
    """Reads what :func:`write_observations` wrote.

    Raises:
        AttackError: If the file is none of these.
    """
    stored = read_arrays(path)
    try:
        return Observations(
            resolution=int(stored["resolution"]),
            noise_multiplier=float(stored["noise_multiplier"]),
            rounds=int(stored["rounds"]),
            **{
                server: ReadOut(
                    seen=stored[f"{server}_seen"].astype(np.float64),
                    noise=stored[f"{server}_noise"],
                )
                for server in _SERVERS
                if server != "offset" or "offset_seen" in stored
            },
        )
    except KeyError as error:
        raise AttackError(
            f"{path}: holds no read-outs ({error} is missing). Remove it; the attack runs again."
        ) from error


def write_candidates(path: Path, scores: CandidateScores) -> None:
    """Writes the scores of lists."""
    write_arrays(path, {name: getattr(scores, name) for name in CandidateScores.__slots__})


def read_candidates(path: Path) -> CandidateScores:
    """Reads what :func:`write_candidates` wrote.

    Raises:
        AttackError: If the file is none of these.
    """
    stored = read_arrays(path)
    if missing := [name for name in CandidateScores.__slots__ if name not in stored]:
        raise AttackError(
            f"{path}: holds no scores of candidates ({missing} are missing). Remove it; the attack "
            "runs again."
        )
    return CandidateScores(**{name: stored[name] for name in CandidateScores.__slots__})
