# SPDX-License-Identifier: Apache-2.0
"""``guide-means``: draws crops of a diffusion whose classes have, on average, the released means.

The diffusion saw no patient, or has a statement of its own; all that is added about patients is the
one answer that they gave to `mammo-dp release-means`.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from classifier.backbones import slices_of
from classifier.features import pooled
from classifier.unit_features import features_of
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError, TrainedGenerator, draw, grey_levels
from gan.diffusion.guidance import MeanGuidance, guided_crops
from gan.diffusion.networks import Sampler
from gan.generate import DrawnCrops, GenerationError, Request, condition_of, rows_of
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.means.query import CLASSES, Sums
from mammo_dp.privacy.means.release import ReleasedMeans
from mammo_dp.runs import file_sha256


def guide_means(
    *,
    checkpoint: str,
    means: str,
    out: str,
    per_class: int = 300,
    strength: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Draws crops of a diffusion so that the means of each class come near those patients released.

    In each step of drawing, all crops of a class are moved a little, along the gradient of the
    distance between their mean features and the released ones. No patient's crop is read: this is
    post-processing of `mammo-dp release-means` and consumes no budget, however often it is done.
    The crops are drawn together, so crop n depends on how many there are. A killed run begins
    again, and leaves crops that are whole as they are.

    Args:
        checkpoint: Of a LatentDiffusion or DPLatentDiffusion of crops in the plane, best one of
            phantoms, such as a fit of configs/diffusion/phantom_start.yaml.
        means: File means.pt of `mammo-dp release-means`, of features at the size of these crops.
        out: Folder to fill with crops.csv, generate.json and images/.
        per_class: Crops of each class, 1 or more; with few, single crops are moved far.
        strength: Length of the moves, above 0: 1 goes to the nearest means that a move reaches.
        seed: Equal seeds give equal crops; 0 or more.
        batch_size: Crops measured at once, 1 or more; a matter of speed and memory.

    Raises:
        GenerationError: For an argument out of range, or a folder made with other settings.
        CheckpointError: If the checkpoint holds no diffusion of crops in the plane.
        PrivacyError: If the file holds no released means, or those of crops of another kind or
            size, or a class counts no more than its noise.
    """
    request = Request(per_class=per_class, attributes={}, guidance=1.0, truncation=1.0, seed=seed)
    if not 0 < strength < float("inf") or batch_size < 1:
        raise GenerationError(
            f"--strength {strength}, --batch_size {batch_size}: give a strength above 0, such as "
            "1, and a batch of 1 or more; `mammo-dp generate` draws crops without guidance."
        )
    generator = TrainedGenerator.read(checkpoint)
    if not isinstance(generator.net, Sampler):
        raise CheckpointError(
            f"{checkpoint}: is no diffusion, and only the drawing of a diffusion can be guided. "
            "Give the checkpoint of a fit of mammo_dp.LatentDiffusion or DPLatentDiffusion."
        )
    if generator.net.steps < 2:
        raise CheckpointError(
            f"{checkpoint}: draws crops in {generator.net.steps} step, which leaves nothing to "
            "guide. Fit with model.init_args.sample_steps of 2 or more, such as 10."
        )
    released = ReleasedMeans.read(means)
    _require_kind(released, generator.net.image_size, means)
    targets, noise = released.released.means()
    settings = {
        "checkpoint": generator.sha256,
        "means": file_sha256(means),
        "per_class": per_class,
        "strength": strength,
        "seed": seed,
    }
    drawn = DrawnCrops.open(Path(out), settings)
    if not drawn.is_done:
        numbers = range(CLASSES * per_class)
        if not drawn.marks.keys() >= set(numbers):
            guidance = MeanGuidance(
                features=lambda crops: normalize(pooled(released.net, crops)),
                classes=torch.tensor([number % CLASSES for number in numbers]),
                targets=torch.from_numpy(targets).float(),
                strength=strength,
                batch_size=batch_size,
            )
            drawn.add(0, grey_levels(_crops(generator.net, generator, request, guidance)))
        CropsManifest.write(out, rows_of(generator, request, drawn, label_source="means"))
    drawn.close()
    _print_distances(released, CropsManifest.read(out), targets, noise)


def _crops(
    sampler: Sampler, generator: TrainedGenerator, request: Request, guidance: MeanGuidance
) -> Tensor:
    """The whole set; without guidance it is that of `mammo-dp generate`, of the same seed."""
    numbers = range(CLASSES * request.per_class)
    latents = [draw(sampler, number, request.seed)[0] for number in numbers]
    asked = [condition_of(generator.conditions, request, number) for number in numbers]
    return guided_crops(sampler, torch.stack(latents), torch.stack(asked), guidance)


def _require_kind(released: ReleasedMeans, size: int, means: str) -> None:
    """Refuses features of other crops than the diffusion draws.

    Raises:
        PrivacyError: Naming the file.
    """
    measured = int(released.model.hparams["image_size"])
    if (slices := slices_of(released.net)) is not None:
        raise PrivacyError(
            f"{means}: has means of volumes of {slices} slices, and the diffusion draws crops in "
            "the plane. Release means of crops."
        )
    if measured != size:
        raise PrivacyError(
            f"{means}: has means of crops of {measured} px, and the diffusion draws {size} px. "
            "Release means with a classifier of one image_size with the diffusion."
        )


def _print_distances(
    released: ReleasedMeans, manifest: CropsManifest, targets: Sums, noise: NDArray[np.float64]
) -> None:
    """How far the means of the written crops are from the released ones."""
    features = features_of(released.model, manifest, manifest.rows())
    classes = np.array([crop.malignant for crop in manifest.crops])
    for label, name in enumerate(("benign", "malignant")):
        away = np.linalg.norm(features[classes == label].mean(axis=0) - targets[label])
        print(
            f"Mean of {name}: {away:.2f} from the released one; its noise has length "
            f"{noise[label]:.2f}."
        )
