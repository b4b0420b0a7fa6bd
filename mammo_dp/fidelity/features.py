# SPDX-License-Identifier: Apache-2.0
"""Feature spaces of a comparison: our phantom encoder, a classifier of ours, or a model of timm.

Beside the one that was asked for stands a public one, the middle of a network of ImageNet, if its
weights are installed: its distances compare across papers, and our own network has not made it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from classifier.backbones import build
from classifier.evaluate import auroc
from classifier.features import body_features
from classifier.public import PublicNet, in_passes
from classifier.released import load_classifier
from classifier.weights import (
    HUB,
    PACKAGE,
    PUBLIC_NETWORK,
    WeightsError,
    load_weights,
    state_sha256,
)
from data_prep.phantoms.crops import Phantom, phantom_stream
from mammo_dp.fidelity.samples import FidelityError, Images
from mammo_dp.runs import file_sha256

CACHE_VARIABLE = "MAMMO_DP_CACHE"
_WIDTHS = (24, 48, 96, 128)
_BATCH = 64
_CLIP = 5.0  # standard deviations: a few odd crops would else rule all moments
_STAGES = (4, 5)  # of it: the middle, where it sees texture and edges, as crop_features does

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the encoder is made; equal recipes give equal features on one machine.

    Attributes:
        size: Edge of the crops, in pixels, a multiple of 16.
        per_class: Phantoms of each class that it is trained on.
        held_out: Further phantoms of each class, which show what it has learned.
        epochs: Passes over them.
        dimension: Number of features.
        seed: Seed of phantoms, weights and order.
    """

    size: int = 128
    per_class: int = 1000
    held_out: int = 100
    epochs: int = 6
    dimension: int = 64
    seed: int = 20_000  # far from the seeds that users give to `prepare phantoms`


class PhantomNet(nn.Module):
    """Four convolutional stages with group norm and one linear head for all targets."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        stages, before = [], 1
        for number, width in enumerate(_WIDTHS):
            edge = 3 if number else 5
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, width, edge, stride=2, padding=edge // 2, bias=False),
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(2 * before, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of all targets and the pooled stages, ``(B, outputs), (B, F)``."""
        pooled = []
        for stage in self.stages:
            images = stage(images)
            pooled += [images.mean((2, 3)), images.std((2, 3), correction=0)]
        return self.head(torch.cat(pooled[-2:], 1)), torch.cat(pooled, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Brings what a network pools from crops to principal components of phantoms.

    Attributes:
        mean: Of the pooled numbers over the phantoms, shape ``(F,)``.
        scale: Their standard deviation, shape ``(F,)``.
        axes: Principal axes of the standardised ones, scaled alike, shape ``(F, d)``.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    @classmethod
    def of_phantoms(cls, pooled: Tensor, dimension: int) -> Self:
        """Learns it from pooled numbers of phantoms, shape ``(N, F)``."""
        mean, scale = pooled.mean(0), pooled.std(0) + 1e-6
        standard = ((pooled - mean) / scale).clip(-_CLIP, _CLIP)
        axes = torch.linalg.svd(standard, full_matrices=False)[2][:dimension].T
        axes = axes / (standard @ axes).square().mean().sqrt()
        return cls(mean=mean, scale=scale, axes=axes.contiguous())

    def __call__(self, pooled: Tensor) -> NDArray[np.float64]:
        """Features, shape ``(N, d)``."""
        standard = ((pooled - self.mean) / self.scale).clip(-_CLIP, _CLIP)
        features: NDArray[np.float64] = (standard @ self.axes).double().numpy()
        return features


class PhantomEncoder:
    """Maps crops to features; see :func:`phantom_encoder`.

    Args:
        net: Trained network.
        projection: Of its pooled stages.
        phantom_auroc: AUROC of malignancy on phantoms that it was not trained on.
    """

    def __init__(self, net: PhantomNet, projection: Projection, phantom_auroc: float) -> None:
        self.net = net.eval()
        self.projection = projection
        self.phantom_auroc = phantom_auroc

    @property
    def sha256(self) -> str:
        """Hash of all tensors that features depend on."""
        return state_sha256(self.net.state_dict() | asdict(self.projection))

    def __call__(self, images: Images) -> NDArray[np.float64]:
        """Features of images in ``[0, 1]``, shape ``(N, d)``."""
        _, pooled = _run(self.net, np.ascontiguousarray(images))
        return self.projection(pooled)

    def save(self, path: Path) -> None:
        """Writes a file for :meth:`load`, in one move."""
        stored = {"net": self.net.state_dict(), "phantom_auroc": self.phantom_auroc}
        _save(stored | asdict(self.projection), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file of :meth:`save`."""
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        state, area = stored.pop("net"), stored.pop("phantom_auroc")
        net = PhantomNet(len(state["head.bias"]))
        net.load_state_dict(state)
        return cls(net, Projection(**stored), phantom_auroc=area)


def _save(content: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(content, temporary)
    temporary.replace(path)


def phantom_encoder(recipe: Recipe) -> PhantomEncoder:
    """The encoder of a recipe: from the user's cache, or trained (about a minute) and kept there.

    The cache is ``MAMMO_DP_CACHE`` if set, else the folder of the platform. The file is named by
    the recipe, the version of torch and the first phantoms, so that a change of any of them makes a
    new encoder.
    """
    path = _cached("phantom-encoder", recipe, _WIDTHS)
    if not path.exists():
        print(f"Training the phantom encoder, once: {path}", flush=True)
        train_encoder(recipe).save(path)
    return PhantomEncoder.load(path)


def _cached(name: str, recipe: Recipe, *more: Any) -> Path:
    """File of the cache, named by all that its content depends on."""
    first = phantom_stream(per_class=2, size=recipe.size, seed=recipe.seed)
    key = hashlib.sha256(json.dumps([asdict(recipe), *more, _CLIP, torch.__version__]).encode())
    for phantom in first:
        key.update(phantom.image.tobytes())
    return cache_folder() / f"{name}-{key.hexdigest()[:16]}.pt"


def cache_folder() -> Path:
    """Where trained encoders are kept."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if os.name == "nt":
        home = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    else:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "mammo_dp"


def train_encoder(recipe: Recipe) -> PhantomEncoder:
    """Draws phantoms, trains the network on all their targets and takes the principal axes."""
    count = 2 * recipe.per_class
    stream = phantom_stream(
        per_class=recipe.per_class + recipe.held_out, size=recipe.size, seed=recipe.seed
    )
    phantoms = list(stream)
    images = np.stack([phantom.image for phantom in phantoms]).astype(np.float32)
    targets, levels = _targets(phantoms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = _trained(images[:count], targets[:count], levels, recipe.epochs)
    logits, _ = _run(net, images[count:])
    _, pooled = _run(net, images[:count])
    return PhantomEncoder(
        net,
        Projection.of_phantoms(pooled, recipe.dimension),
        phantom_auroc=auroc(targets[count:, 0].numpy(), (logits[:, 1] - logits[:, 0]).numpy()),
    )


def _targets(phantoms: Sequence[Phantom]) -> tuple[Tensor, list[int]]:
    """Class and descriptors as numbers, shape ``(N, targets)``, and how many values each has."""
    words = [{"malignant": str(int(p.malignant)), **p.attributes} for p in phantoms]
    columns, levels = [], []
    for name in words[0]:
        values, place = np.unique([word[name] for word in words], return_inverse=True)
        columns.append(torch.from_numpy(place.astype(np.int64)))
        levels.append(len(values))
    return torch.stack(columns, 1), levels


def _trained(images: Images, targets: Tensor, levels: Sequence[int], epochs: int) -> PhantomNet:
    """Minimises the sum of cross-entropies over randomly mirrored and turned phantoms."""
    net = PhantomNet(sum(levels))
    steps = epochs * (len(images) // _BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=max(steps, 2))
    pixels = torch.from_numpy(images)[:, None]
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for rows in torch.split(order, _BATCH)[: len(images) // _BATCH]:
            turned = torch.rot90(pixels[rows], int(torch.randint(4, ())), (2, 3))
            if torch.rand(()) < 0.5:
                turned = turned.flip(3)
            logits, _ = net(turned)
            parts = zip(logits.split(list(levels), 1), targets[rows].T, strict=True)
            loss = torch.stack([cross_entropy(part, target) for part, target in parts]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch types it so
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def _run(net: PhantomNet, images: Images) -> tuple[Tensor, Tensor]:
    """Logits and pooled stages of all images."""
    parts = [net(part[:, None]) for part in torch.split(torch.from_numpy(images), _BATCH)]
    return torch.cat([logits for logits, _ in parts]), torch.cat([pooled for _, pooled in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A feature space with the name that stands beside each number taken in it.

    Attributes:
        name: What it is and what it was trained on.
        sha256: Hash of its weights.
        features: Maps images in ``[0, 1]``, shape ``(N, size, size)``, to ``(N, d)``.
    """

    name: str
    sha256: str
    features: Callable[[Images], NDArray[np.float64]]


def choose(
    size: int, *, encoder: str | None = None, timm: str | None = None, weights: str | None = None
) -> Extractor:
    """The feature space that was asked for; our phantom encoder if none was.

    Args:
        size: Edge of the crops, in pixels.
        encoder: Checkpoint of a ``CropClassifier``.
        timm: Name of a timm model.
        weights: File of its weights; from the hub if not given.

    Raises:
        FidelityError: If two spaces were asked for.
        WeightsError: If weights do not fit or cannot be had.
    """
    if encoder and timm:
        raise FidelityError(f"{encoder=} and {timm=} are two feature spaces. Choose one.")
    if weights and not timm:
        raise FidelityError(f"{weights=} belongs to a timm model. Name it with --timm.")
    if encoder:
        model = load_classifier(Path(encoder))
        edge = int(model.hparams["image_size"])
        name = f"crop classifier {model.hparams['backbone']}, body, at {edge} px"
        return Extractor(name=name, sha256=file_sha256(encoder), features=_body(model.net, edge))
    if timm:
        net = build(timm, image_size=size)
        loaded = load_weights(net, weights or HUB, backbone=timm)
        return Extractor(
            name=f"timm {timm}, body, at {size} px, weights {loaded.path}",
            sha256=loaded.sha256,
            features=_body(net, size),
        )
    recipe = Recipe(size=size)
    own = phantom_encoder(recipe)
    return Extractor(
        name=(
            f"phantom encoder, trained on {2 * recipe.per_class} phantoms of {size} px "
            f"(AUROC {own.phantom_auroc:.2f} on others)"
        ),
        sha256=own.sha256,
        features=own,
    )


def _body(net: nn.Module, size: int) -> Callable[[Images], NDArray[np.float64]]:
    """What the head of a model sees; crops of another size are resized."""

    def features(images: Images) -> NDArray[np.float64]:
        tensor: Tensor = torch.from_numpy(np.ascontiguousarray(images))[:, None] * 2 - 1
        if tensor.shape[-1] != size:
            tensor = interpolate(tensor, size=(size, size), mode="bilinear", antialias=True)
        return body_features(net.eval(), tensor).double().numpy()

    return features


class _Public(nn.Module):
    """The public network, where :func:`classifier.weights.load_weights` looks for it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.public = PublicNet(PUBLIC_NETWORK, size=size, stages=_STAGES)

    @torch.no_grad()
    def pooled(self, images: Images) -> Tensor:
        """Mean and spread over positions of each stage, shape ``(N, F)``."""
        crops = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None] * 2 - 1
        return in_passes(self._mean_and_spread, crops)

    def _mean_and_spread(self, image: Tensor) -> Tensor:
        parts = [(m.mean((2, 3)), m.std((2, 3), correction=0)) for m in self.public(image)]
        return torch.cat([part for pair in parts for part in pair], 1)


def public_space(size: int) -> Extractor | None:
    """Features in the middle of a network of ImageNet, in principal components of phantoms.

    The components are those of the phantoms of a :class:`Recipe`, and are kept in the cache.

    Args:
        size: Edge of the crops, in pixels; the network sees them as they are.

    Returns:
        None without the weights, which the log says.
    """
    recipe, net = Recipe(size=size), _Public(size).eval()
    try:
        loaded = load_weights(net, PACKAGE)
    except WeightsError as error:
        log.warning("No distances in a public feature space. %s", error)
        return None
    path = _cached("public-space", recipe, PUBLIC_NETWORK, _STAGES, loaded.sha256)
    if not path.exists():
        print(f"Principal components of phantoms in the public network, once: {path}", flush=True)
        stream = phantom_stream(per_class=recipe.per_class, size=size, seed=recipe.seed)
        pooled = net.pooled(np.stack([phantom.image for phantom in stream]).astype(np.float32))
        _save(asdict(Projection.of_phantoms(pooled, recipe.dimension)), path)
    projection = Projection(**torch.load(path, weights_only=True))
    stages = " and ".join(map(str, _STAGES))
    return Extractor(
        name=(
            f"{loaded.path} ({PUBLIC_NETWORK}, ImageNet), mean and spread of stages {stages} at "
            f"{size} px, principal components of {2 * recipe.per_class} phantoms"
        ),
        sha256=loaded.sha256,
        features=lambda images: projection(net.pooled(images)),
    )
