# SPDX-License-Identifier: Apache-2.0
"""What a frozen part of a model makes of crops: computed once and kept on disk.

Of a transformer on a public network these are the maps of the network, from which the features of
every such transformer follow in a millisecond a crop; of any other model, its features. One file
per crops, weights and views.

The features are as private as the crops; callers keep the folder inside their run folder.
"""

import hashlib
import io
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from classifier.backbones import head, image_shape, slices_of
from classifier.token_transformer import TokenTransformer
from classifier.weights import state_sha256
from data_prep.datamodule import CropsDataModule, model_input
from data_prep.errors import ManifestError
from data_prep.manifest import CropsManifest
from data_prep.progress import watched
from data_prep.transforms import Augmentation, pipeline

log = logging.getLogger(__name__)

_BATCHES_IN_PIECE = 4  # kept together; a process that is killed loses the last of them at most


class FeaturesSeal(Protocol):
    """Binds files of the cache to what they were computed from, so that none can be replaced."""

    def sealed(self, path: Path, content: bytes) -> bytes:
        """What to write into a file of the cache, from what ``torch.save`` gave."""

    def require(self, path: Path) -> bytes:
        """What ``torch.save`` gave; raises if the file holds anything else."""


def body_features(
    net: nn.Module, images: Tensor | Iterable[Tensor], batch_size: int = 64
) -> Tensor:
    """What the head of a model sees, in evaluation mode.

    Args:
        net: Model of :func:`classifier.backbones.build`; its modes are restored.
        images: Shape ``(N, 1, H, W)``, in ``[-1, 1]``, or batches of them.
        batch_size: Images per forward pass, where ``images`` is one tensor.

    Returns:
        Shape ``(N, d)``, float32, on the CPU; ``head(net)(features)`` are the logits.
    """
    return _read_out(net, partial(pooled, net), (head(net).in_features,), images, batch_size)


def pooled(net: nn.Module, images: Tensor) -> Tensor:
    """What the head of a model sees, in the mode that the model is in, for gradients too.

    Args:
        net: Model of :func:`classifier.backbones.build`.
        images: Shape ``(N, 1, H, W)``, in ``[-1, 1]``.

    Returns:
        Shape ``(N, d)``.
    """
    tokens = net.forward_features(images)  # type: ignore[operator]  # of timm models
    found: Tensor = net.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
    return found


def public_maps(
    net: TokenTransformer, images: Tensor | Iterable[Tensor], batch_size: int = 64
) -> Tensor:
    """What the frozen network in front of a transformer sees, whatever of the rest trains.

    Args:
        net: The model; its modes are restored.
        images: Shape ``(N, 1, H, W)``, in ``[-1, 1]``, or batches of them.
        batch_size: Images per forward pass, where ``images`` is one tensor.

    Returns:
        Shape ``(N, *net.map_shape)``, float32, on the CPU; the model takes it in place of images.
    """
    return _read_out(net, net.maps, net.map_shape, images, batch_size)


@torch.no_grad()
def _read_out(
    net: nn.Module,
    read: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    images: Tensor | Iterable[Tensor],
    batch_size: int,
) -> Tensor:
    """What a function of a net in evaluation mode gives for images, each of the shape given."""
    device = head(net).weight.device
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        found = [torch.empty(0, *shape)]
        batches: Iterable[Tensor] = images
        if isinstance(images, Tensor):
            batches = torch.split(images, batch_size)
        found += [read(batch.to(device)).float().cpu() for batch in batches if len(batch)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(found)


def cached_features(
    net: nn.Module,
    manifest: CropsManifest,
    rows: Sequence[int],
    *,
    folder: str | Path,
    image_size: int | None = None,
    augment: Augmentation = "light",
    views: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    seal: FeaturesSeal | None = None,
    maps: bool = False,
) -> Tensor:
    """Features of some crops, from the cache or computed and then kept there.

    Each view of a crop is drawn from the seed, the number of the view and the crop's own pixels,
    so no crop changes the views of another. Features are kept piece by piece while they are
    computed, and a process that was killed resumes with the piece that it had begun.

    Args:
        net: Model of :func:`classifier.backbones.build`; only its body matters.
        manifest: Table and folder of the crops.
        rows: Rows of the manifest.
        folder: Folder of the cache, made if need be; the file is named by a hash of all that
            the features depend on.
        image_size: Edge of the images, in pixels; ``None`` keeps the size on disk.
        augment: Pipeline of the views, if there are several.
        views: 1 gives the crop as it is, K > 1 gives K fixed augmented views of it.
        seed: Start of the views.
        batch_size: Images per forward pass.
        seal: Checked on use and written with new features; without one, whoever can write into
            the folder decides what a head is trained on.
        maps: Returns what the public network in the model sees, in place of the model's features.

    Returns:
        Shape ``(len(rows), views, d)``, float32, on the CPU; for ``maps``
        ``(len(rows), views, *net.map_shape)``.

    Raises:
        ManifestError: If an image cannot be read, the sizes differ, or the net takes volumes of
            another depth.
        ValueError: If ``views`` is below 1, ``maps`` are asked of a model without, or of the seal,
            if a file is not what was written.
    """
    if maps and not isinstance(net, TokenTransformer):
        raise ValueError(f"cached_features: {type(net).__name__} has no maps. Ask for features.")
    part = _frozen_part(net)
    if views < 1:
        raise ValueError(f"cached_features: {views=}. Give 1 for the crops as they are, or more.")
    manifest.require_depth(slices_of(net))
    pixels = manifest.stacked(rows)
    if not len(pixels):
        raise ManifestError(f"{manifest.folder}: no rows were asked for. Choose another split.")
    transform = pipeline(augment if views > 1 else "none", image_size or pixels.shape[-1])
    hashes = [manifest.crops[row].sha256 for row in rows]
    key = {
        "crops": hashes,
        "body": frozen_sha256(net, image_size or pixels.shape[-1]),
        "transform": repr(transform),
        "views": views,
        "seed": seed if views > 1 else None,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = Path(folder) / f"{name}.pt"

    def image(item: int) -> Tensor:
        index, view = divmod(item, views)
        if views > 1:
            draw = hashlib.sha256(f"{seed} {view} {hashes[index]}".encode()).digest()
            transform.set_random_seed(int.from_bytes(draw[:4]))
        return model_input(pixels[index], transform)

    kept = _read(path, (len(rows) * views, *part.shape), seal)
    if kept is None:
        kept = _in_pieces(part, image, len(rows) * views, path, batch_size=batch_size, seal=seal)
    if isinstance(net, TokenTransformer) and not maps:
        kept = body_features(net, kept, batch_size)
    return kept.view(len(rows), views, *kept.shape[1:])


class SharedFeatures(Callback):
    """Puts the features of a run into a common folder, where other runs find them.

    The cache names a file by all that its features depend on, so runs share what is equal and
    nothing else. A test scores kept features too, where it computed none without this callback.

    Args:
        folder: Common folder; as private as the crops.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Links the folder ``features`` of the run before the fit looks for it."""
        link = Path(trainer.default_root_dir) / "features"
        if stage == "fit":
            Path(self.folder).mkdir(parents=True, exist_ok=True)  # it may have been emptied since
            if not link.exists():
                link.symlink_to(Path(self.folder).resolve(), target_is_directory=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the crops scored by what was kept of them; distorted ones are scored as they are.

        Models that make something else of features than of their crops see the crops, and so do
        those that are tested at another precision than the one that features are computed at.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by every test of ours
        if (
            not getattr(pl_module, "scores_features", False)
            or trainer.precision != "32-true"
            or not isinstance(data, CropsDataModule)
        ):
            return
        data.evaluate_dataset.features = cached_features(
            pl_module.net,  # type: ignore[arg-type]  # of a CropClassifier
            data.manifest,
            data.evaluate_rows,
            folder=self.folder,
            image_size=data.image_size,
            seal=pl_module.features_seal,  # type: ignore[arg-type]
        )


@contextmanager
def rank_zero_first(strategy: Strategy) -> Iterator[None]:
    """Lets rank 0 go through a block before the others, which then find what it wrote.

    Args:
        strategy: The trainer's; on a single device nobody waits.
    """
    if not strategy.is_global_zero:
        strategy.barrier()
    yield
    if strategy.is_global_zero:
        strategy.barrier()


def frozen_sha256(net: nn.Module, image_size: int) -> str:
    """Hash of the weights behind what is kept, and of what they make of one fixed noise image.

    These are all weights but the head's, or those of a public network in the model. The second part
    tells models apart whose tensors agree, such as those with other numbers of attention heads.
    """
    shape = (1, *image_shape(net, image_size))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    part = _frozen_part(net)
    return state_sha256({**part.state, "(features of noise)": part.compute(noise)})


@dataclass(frozen=True, slots=True, kw_only=True)
class _FrozenPart:
    """The part of a model whose results are kept.

    Attributes:
        compute: Maps images ``(N, 1, H, W)``, or batches of them, to ``(N, *shape)``.
        shape: Of what is kept of one image.
        state: Its tensors by name.
    """

    compute: Callable[[Tensor | Iterable[Tensor]], Tensor]
    shape: tuple[int, ...]
    state: Mapping[str, Tensor]


def _frozen_part(net: nn.Module) -> _FrozenPart:
    """The public network in a model, or all of it but the head."""
    if isinstance(net, TokenTransformer):
        return _FrozenPart(
            compute=partial(public_maps, net), shape=net.map_shape, state=net.public.state_dict()
        )
    own = {id(parameter) for parameter in head(net).parameters()}
    state: dict[str, Tensor] = net.state_dict(keep_vars=True)
    return _FrozenPart(
        compute=partial(body_features, net),
        shape=(head(net).in_features,),
        state={key: value for key, value in state.items() if id(value) not in own},
    )


def _in_pieces(
    part: _FrozenPart,
    image: Callable[[int], Tensor],
    count: int,
    path: Path,
    *,
    batch_size: int,
    seal: FeaturesSeal | None,
) -> Tensor:
    """Computes features, with each piece on disk until all are.

    Args:
        part: What computes them.
        image: Image of a number, shape ``(1, H, W)`` or ``(1, D, H, W)``.
        count: Number of images, > 0.
        path: File of all features; pieces lie beside it, named by their first image.
        batch_size: Images per forward pass.
        seal: Of all files.

    Returns:
        Shape ``(count, *part.shape)``.
    """
    length = _BATCHES_IN_PIECE * batch_size
    batches = iter(watched(range(0, count, batch_size), "Computing features"))

    def images(numbers: range) -> Iterator[Tensor]:
        for start in numbers[::batch_size]:
            next(batches)
            stop = min(start + batch_size, numbers.stop)
            yield torch.stack([image(number) for number in range(start, stop)])

    pieces: dict[Path, Tensor] = {}
    for start in range(0, count, length):
        numbers = range(start, min(start + length, count))
        piece = path.with_name(f"{path.stem}_{start}.pt")
        features = _read(piece, (len(numbers), *part.shape), seal)
        if features is None:
            features = part.compute(images(numbers))
            if len(numbers) < count:
                _write(piece, features, seal)
        else:
            deque(islice(batches, len(numbers[::batch_size])), maxlen=0)
        pieces[piece] = features
    deque(batches, maxlen=0)  # ends the bar
    computed = torch.cat([*pieces.values()])
    _write(path, computed, seal)
    for piece in pieces:
        piece.unlink(missing_ok=True)
    return computed


def _read(path: Path, shape: tuple[int, ...], seal: FeaturesSeal | None) -> Tensor | None:
    """Features in a file, or None if there are none to be trusted."""
    try:
        content = path.read_bytes() if seal is None else seal.require(path)
    except FileNotFoundError:  # or another fit has joined it to the others meanwhile
        return None
    try:
        found = torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # torch raises errors of many types for foreign bytes
        log.warning("%s: unreadable (%s); computed again.", path, type(error).__name__)
        return None
    if isinstance(found, Tensor) and found.shape == shape and found.dtype == torch.float32:
        return found
    log.warning("%s: holds something else; computed again.", path)
    return None


def _write(path: Path, features: Tensor, seal: FeaturesSeal | None) -> None:
    """One move, so that features and seal are there together or not at all."""
    buffer = io.BytesIO()
    torch.save(features, buffer)
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.part")  # cells may share the folder
    temporary.write_bytes(content if seal is None else seal.sealed(path, content))
    temporary.replace(path)
