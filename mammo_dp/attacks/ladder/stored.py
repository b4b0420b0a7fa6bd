# SPDX-License-Identifier: Apache-2.0
"""Signals of attacks on disk, so that they can be scored again without running a model.

They are private data: the folder of signals is not to be published.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_dp.attacks.reconstruction.candidates import CandidateScores
from mammo_dp.attacks.reconstruction.isolated import Observations, ReadOut
from mammo_dp.attacks.signals import AttackError

_SERVERS = ("plain", "centred", "offset")


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes named arrays in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def candidates(path: Path) -> CandidateScores:
    """Reads the scores of an attack with a list.

    Raises:
        AttackError: If there are none.
    """
    stored = _read(path)
    return CandidateScores(**{name: stored[name] for name in ("targets", "lists", "outsiders")})


def save_observations(path: Path, seen: Observations) -> None:
    """Writes what malicious servers saw, in single precision."""
    read_outs = {name: getattr(seen, name) for name in _SERVERS}
    arrays = {
        f"{name}_{part}": getattr(read_out, part)
        for name, read_out in read_outs.items()
        if read_out is not None
        for part in ("seen", "noise")
    }
    facts = np.array([seen.resolution, seen.noise_multiplier, seen.rounds], np.float64)
    save(path, facts=facts, **{k: v.astype(np.float32) for k, v in arrays.items()})


def observations(path: Path) -> Observations:
    """Reads what malicious servers saw.

    Raises:
        AttackError: If there is nothing.
    """
    stored = _read(path)
    resolution, noise, rounds = stored["facts"].tolist()
    read_outs = {
        name: ReadOut(
            seen=stored[f"{name}_seen"].astype(np.float64),
            noise=stored[f"{name}_noise"].astype(np.float64),
        )
        for name in _SERVERS
        if f"{name}_seen" in stored
    }
    return Observations(
        resolution=int(resolution),
        noise_multiplier=noise,
        rounds=int(rounds),
        plain=read_outs["plain"],
        centred=read_outs["centred"],
        offset=read_outs.get("offset"),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError) as error:
        raise AttackError(
            f"{path}: holds no signals ({error}). They come from the fit and cannot be had from "
            "the final weights: give a new --out, and the ladder fits the run again."
        ) from error
