# SPDX-License-Identifier: Apache-2.0
"""A malicious server that isolates each target: rungs 3 and 4 of the ladder.

Threat model: the server chooses model, loss and weights, sends the same ones in every round and
sees every noisy update. Its first layer averages an image down to a resolution that it chose in
advance, its second has rows that answer to one target and to nobody else. It knows in which rounds
the target took part, and the norm of what the target sends, which the clip takes out. Clipping and
noise are the client's. Without a prior it knows nothing about mammograms (rung 3); with one it
holds images of others (rung 4). Several crops or views of a patient would only blur the target, so
each has one.

Source: Ziller, Riess et al. 2024, arXiv 2402.12861, with several rounds, centring and the prior
derived in this project.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mammo_dp.attacks.arrays import read_arrays, write_arrays
from mammo_dp.attacks.reconstruction.prior import GaussianPrior, Vectors
from mammo_dp.attacks.reconstruction.quality import Images, Quality
from mammo_dp.attacks.reconstruction.updates import (
    FirstLayer,
    IsolatingNet,
    mean_update,
    one_crop_each,
    pooled,
)
from mammo_dp.privacy.training.sampling import draw

Attacker = Literal["from_scratch", "centred", "prior"]
Blind = Literal["blank", "mean", "nearest"]
ATTACKERS: Mapping[Attacker, str] = {
    "from_scratch": "no prior: what was seen, unbiased; follows the closed forms",
    "centred": "no prior: grey mean taken out by the server, shrunk to the least error",
    "prior": "Gaussian prior from images of others: posterior mean",
}
BLIND: Mapping[Blind, str] = {
    "blank": "a black image",
    "mean": "mean of the reference images, the best guess of the prior before any update",
    "nearest": "reference image that correlates most with the original, chosen with the original",
}
_SERVERS = ("plain", "centred", "offset")
_LOUD = 1e3  # scale of the first layer: every gradient is far above the clipping norm


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOut:
    """What the server saw of each target, rescaled; private data.

    Attributes:
        seen: Image that went through the first layer, plus noise, shape ``(targets, pixels)``.
        noise: Variance of the noise of each pixel, shape ``(targets,)``: ``sigma^2 ||x||^2 / K``.
    """

    seen: Vectors
    noise: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Read-outs of the servers, at one resolution and one noise; private data.

    Attributes:
        resolution: Edge of the images, in pixels.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rounds: Observations of each target, > 0.
        plain: Of a server that sends images through as they are.
        centred: Of one that takes out the mean of each image.
        offset: Of one that takes out the mean of the prior; none without a prior.
    """

    resolution: int
    noise_multiplier: float
    rounds: int
    plain: ReadOut
    centred: ReadOut
    offset: ReadOut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Reconstructions of one attacker, one per target.

    Attributes:
        images: Shape ``(targets, edge, edge)``, any range: unbiased ones leave ``[0, 1]``.
        quality: Against the originals at the same resolution.
    """

    images: Images
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """Attackers at one resolution and one noise, beside guesses that saw no update.

    Attributes:
        resolution: Edge of the images, in pixels.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rounds: Observations of each target.
        originals: Shape ``(targets, edge, edge)``, in ``[0, 1]``.
        attacks: By attacker; ``prior`` only with one.
        blind: By guess; ``mean`` and ``nearest`` only with reference images.
    """

    resolution: int
    noise_multiplier: float
    rounds: int
    originals: Images
    attacks: Mapping[Attacker, Guess]
    blind: Mapping[Blind, Guess]


def observe(
    images: Images,
    *,
    noise_multiplier: float,
    rounds: int,
    resolution: int,
    prior: GaussianPrior | None = None,
    rows: int = 1,
    clipping_norm: float = 1.0,
    key: int,
) -> Observations:
    """Sends malicious models to clients and reads the targets out of the noisy updates.

    Args:
        images: One image per patient, shape ``(targets, edge, edge)``, in ``[0, 1]``.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rounds: Rounds in which each target took part, > 0.
        resolution: Edge that the server averages images down to, in pixels.
        prior: Its mean is taken out by one of the servers; none for no such server.
        rows: Rows of the malicious layer per target, > 0; the noise of their mean is the same for
            any number.
        clipping_norm: Largest L2 norm of one patient's gradient, > 0; changes nothing either.
        key: 256 bits of the clients' noise.

    Raises:
        AttackError: If the images cannot be averaged down to the resolution.
    """
    nothing = np.zeros((len(images), resolution**2))
    small = pooled(images, resolution).reshape(nothing.shape)
    grey = np.broadcast_to(small.mean(axis=1, keepdims=True), small.shape)
    servers: dict[str, Vectors] = {"plain": nothing, "centred": grey}
    if prior is not None:
        servers["offset"] = np.broadcast_to(prior.mean, small.shape)

    def read(name: str, taken_out: Vectors) -> ReadOut:
        centre = name == "centred"
        offset = None if centre else torch.tensor(taken_out[0], dtype=torch.float32)
        layer = FirstLayer(resolution, centre=centre, offset=offset, gain=_LOUD)
        net = IsolatingNet(layer, targets=len(images), rows=rows)
        update = mean_update(
            net,
            net.losses,
            one_crop_each(images),
            noise_multiplier=noise_multiplier,
            steps=rounds if noise_multiplier > 0 else 1,  # without noise all rounds are alike
            clipping_norm=clipping_norm,
            key=_subkey(key, name, resolution),
        )["rows.weight"]
        per_row = update.double().numpy().reshape(len(images), rows, -1).mean(axis=1)
        norms = np.sqrt(rows) * _LOUD * np.linalg.norm(small - taken_out, axis=1)
        scale = np.maximum(1.0, norms / clipping_norm) / _LOUD
        return ReadOut(
            seen=per_row * scale[:, None],
            noise=(noise_multiplier * clipping_norm * scale) ** 2 / (rows * rounds),
        )

    read_outs = {name: read(name, taken_out) for name, taken_out in servers.items()}
    return Observations(
        resolution=resolution, noise_multiplier=noise_multiplier, rounds=rounds, **read_outs
    )


def score(
    seen: Observations,
    originals: Images,
    *,
    prior: GaussianPrior | None = None,
    reference: Images | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Reconstruction:
    """Turns read-outs into images and compares them with the originals; runs no model.

    Args:
        seen: What the servers saw.
        originals: At the resolution of the read-outs, in ``[0, 1]``.
        prior: The one whose mean was taken out; used if the read-out is there.
        reference: Images for blind guesses, at the same resolution.
        resamples: Bootstrap resamples of patients.
        seed: Seed of the bootstrap.
    """

    def guess(images: NDArray[np.float64]) -> Guess:
        shown = np.broadcast_to(images.reshape(-1, *originals.shape[1:]), originals.shape)
        quality = Quality.of(originals, shown, resamples=resamples, seed=seed)
        return Guess(images=shown, quality=quality)

    shrink = 1 / (1 + seen.resolution**2 * seen.noise_multiplier**2 / seen.rounds)
    attacks: dict[Attacker, Guess] = {
        "from_scratch": guess(seen.plain.seen),
        "centred": guess(0.5 + shrink * seen.centred.seen),
    }
    if prior is not None and seen.offset is not None:
        attacks["prior"] = guess(
            prior.most_likely(prior.mean + seen.offset.seen, seen.offset.noise)
        )
    blind: dict[Blind, Guess] = {"blank": guess(np.zeros_like(originals[:1]))}
    if reference is not None:
        blind["mean"] = guess(reference.mean(axis=0))
        blind["nearest"] = guess(reference[_nearest(originals, reference)])
    return Reconstruction(
        resolution=seen.resolution,
        noise_multiplier=seen.noise_multiplier,
        rounds=seen.rounds,
        originals=originals,
        attacks=attacks,
        blind=blind,
    )


def _subkey(key: int, name: str, resolution: int) -> int:
    """A key of its own for each server and resolution."""
    stream = draw(key, resolution, *name.encode())
    return int.from_bytes(stream.bytes(32), "little")


def _nearest(originals: Images, reference: Images) -> NDArray[np.int64]:
    """Reference image of the largest correlation with each original."""
    known = reference.reshape(len(reference), -1)
    patterns = known - known.mean(axis=1, keepdims=True)
    patterns /= np.maximum(np.linalg.norm(patterns, axis=1, keepdims=True), 1e-12)
    return np.asarray((originals.reshape(len(originals), -1) @ patterns.T).argmax(axis=1))


How = Literal["division", "mean_of_rows"]


def read_rows(
    images: Images, *, noise_multiplier: float, rows: int, resolution: int, key: int
) -> dict[How, Images]:
    """Reads one noisy update for each image in two ways: one row divided, or the mean of all rows.

    Threat model: as that of the isolating server, in one round. Traps in the literature divide the
    gradient of one row by that of its bias; the clip has spread the image over all ``M`` active
    rows, so the noise of one has variance ``M sigma^2 (||x||^2 + 1)`` per pixel. Their mean leaves
    ``sigma^2 (||x||^2 + 1)``, whatever ``M``: a division that fails under noise is no evidence that
    reconstruction does.

    Args:
        images: One image per patient, shape ``(targets, edge, edge)``, in ``[0, 1]``.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rows: Rows that an image fires, ``M``, > 0.
        resolution: Edge that the server averages images down to, in pixels.
        key: 256 bits of the clients' noise.

    Returns:
        By way, shape ``(targets, resolution, resolution)``, unbiased up to the error of a divisor.

    Source: division, Boenisch et al. 2021, arXiv 2112.02918; variances derived in this project.
    """
    shape = (resolution, resolution)
    small = pooled(images, resolution)
    net = IsolatingNet(FirstLayer(resolution), targets=1, rows=rows, bias=True)
    found: dict[How, list[Images]] = {"division": [], "mean_of_rows": []}
    for target, image in enumerate(images):
        stream = draw(key, target, rows)
        update = mean_update(
            net,
            net.losses,
            one_crop_each(image[None]),
            noise_multiplier=noise_multiplier,
            key=int.from_bytes(stream.bytes(32), "little"),
        )
        weight, bias = (update[f"rows.{name}"].double().numpy() for name in ("weight", "bias"))
        found["division"].append((weight[0] / bias[0]).reshape(shape))
        # The norm is granted, as everywhere: a divisor of one number would be as noisy as one row.
        norm = np.sqrt(rows * ((small[target] ** 2).sum() + 1))
        found["mean_of_rows"].append((weight.mean(axis=0) * max(1.0, norm)).reshape(shape))
    return {how: np.stack(seen) for how, seen in found.items()}


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
    needed = [f"{server}_{part}" for server in _SERVERS[:2] for part in ("seen", "noise")]
    stored = read_arrays(path, "resolution", "noise_multiplier", "rounds", *needed)
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
