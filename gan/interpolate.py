# SPDX-License-Identifier: Apache-2.0
"""``interpolate``: what lies between crops, between classes, and below the full diversity."""

from pathlib import Path

import torch
from torch import Tensor

from gan.checkpoint import TrainedGenerator, draw
from gan.generate import GenerationError, both_classes
from gan.samples import write_sheet


def interpolate(
    checkpoint: str,
    out: str,
    *,
    rows: int = 4,
    columns: int = 8,
    attributes: dict[str, str] | None = None,
    guidance: float = 1.0,
    seed: int = 0,
) -> None:
    """Writes three sheets of crops, to see whether a generator varies smoothly or knows few crops.

    latents.png: each row goes from one latent vector to another; benign above, malignant below,
    with the same vectors. classes.png: each row goes from benign to malignant with one vector.
    truncation.png: each row takes one vector from nearly none to its full length; benign above,
    malignant below. The noise of a row is fixed; the latent vector of a diffusion is its noise.

    Args:
        checkpoint: Checkpoint of a trained MCGAN, DPMCGAN, LatentDiffusion or DPLatentDiffusion.
        out: Folder to fill with the sheets.
        rows: Latent vectors to start from, 1 or more.
        columns: Steps, 2 or more.
        attributes: What all crops should show, such as --attributes.margin SPICULATED.
        guidance: 1 asks for the classes as trained, more exaggerates what tells them apart.
        seed: Equal seeds give equal sheets; 0 or more.

    Raises:
        GenerationError: For an argument out of range.
        CheckpointError: If the checkpoint holds no generator of this version.
        ConditionError: If the generator knows no such attribute or level.
    """
    if rows < 1 or columns < 2 or seed < 0:
        raise GenerationError(
            f"{rows=}, {columns=}, {seed=}. Give a row or more, 2 columns or more, a seed from 0."
        )
    generator = TrainedGenerator.read(checkpoint)
    benign, malignant = both_classes(
        generator.conditions, attributes=attributes or {}, guidance=guidance
    )
    starts, noise = _draws(generator, range(rows), seed)
    ends, _ = _draws(generator, range(rows, 2 * rows), seed)
    shares = torch.linspace(0, 1, columns)
    between = torch.stack([slerp(starts, ends, float(share)) for share in shares], dim=1)
    still = starts[:, None].expand(-1, columns, -1)
    shorter = still * ((1 + torch.arange(columns)) / columns)[None, :, None]
    sheets = {
        "latents": [
            (between, benign.expand(columns, -1)),
            (between, malignant.expand(columns, -1)),
        ],
        "classes": [(still, torch.lerp(benign, malignant, shares[:, None]))],
        "truncation": [
            (shorter, benign.expand(columns, -1)),
            (shorter, malignant.expand(columns, -1)),
        ],
    }
    for name, parts in sheets.items():
        crops = [
            _row(generator, latents[row], noise[row], condition)
            for latents, condition in parts
            for row in range(rows)
        ]
        write_sheet(Path(out) / f"{name}.png", torch.cat(crops), columns)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Goes along the great circle between latent vectors, their lengths changing in proportion.

    The straight line passes through lengths that standard normal vectors hardly ever have.

    Args:
        start: Shape ``(B, latent)``.
        end: Shape ``(B, latent)``.
        share: Part of the way, in ``[0, 1]``.

    Returns:
        Shape ``(B, latent)``.

    Source: White 2016, arXiv 1609.04468, section 2.1; of unit vectors, with the length linear.
    """
    lengths = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    one, other = start / lengths[0], end / lengths[1]
    angle = (one * other).sum(dim=1, keepdim=True).clamp(-1, 1).arccos()
    direction = torch.where(
        angle.sin() < 1e-4,  # parallel: the great circle is not determined, or a point
        torch.lerp(one, other, share),
        (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin(),
    )
    return torch.lerp(lengths[0], lengths[1], share) * direction


def _draws(generator: TrainedGenerator, numbers: range, seed: int) -> tuple[Tensor, Tensor]:
    latents, noise = zip(*(draw(generator.net, number, seed) for number in numbers), strict=True)
    return torch.stack(latents), torch.stack(noise)


@torch.inference_mode()
def _row(generator: TrainedGenerator, latents: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
    """Crops of one row: noise ``(1, H, W)`` for all of them."""
    crops: Tensor = generator.net(latents, noise.expand(len(latents), -1, -1, -1), condition)
    return crops
