# SPDX-License-Identifier: Apache-2.0
"""A network that somebody else trained on public images, frozen and read at some of its stages."""

import copy
import inspect
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from classifier.backbones import build

PIXELS = 224**2  # in one pass


class PublicNet(nn.Module):
    """The first stages of a timm model; what comes after the last one that is read is left out.

    The middle of such a network, where it sees texture and edges, tells more about other kinds of
    images than its end. In evaluation mode its batch norms are computed within the convolutions
    before them, which takes less than half of the time.

    Args:
        backbone: timm's name of the model.
        size: Edge of the images that it sees, in pixels.
        stages: Stages that are read, counted from 0: those of ``blocks`` in an EfficientNet, blocks
            of a ViT, and otherwise as timm's ``forward_intermediates`` counts.

    Attributes:
        channels: Channels of each stage that is read.
        edges: Edge of the map of each, in places.

    Raises:
        ValueError: If timm does not know the model, or it has no such stages.
    """

    def __init__(self, backbone: str, *, size: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.size, self.stages = backbone, size, tuple(stages)
        self.net = self.whole()
        # EfficientNets number their outputs by stride unless asked for each stage; 0 is the stem.
        known = inspect.signature(self.net.forward_intermediates).parameters  # type: ignore[arg-type]
        self._every = {"extra_blocks": True} if "extra_blocks" in known else {}
        self._indices = [stage + len(self._every) for stage in self.stages]
        try:
            self.net.prune_intermediate_layers(  # type: ignore[operator]  # of timm models
                self._indices, prune_head=True, **self._every
            )
            with torch.inference_mode():
                maps = self._maps(self.net.eval(), torch.zeros(1, 1, size, size))
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"public={backbone!r}, stages={list(self.stages)}, {size=}: cannot be read there "
                f"({type(error).__name__}: {error}). Choose other stages."
            ) from error
        self.channels = tuple(int(found.shape[1]) for found in maps)
        self.edges = tuple(int(found.shape[-1]) for found in maps)
        self.requires_grad_(False)
        # Of which tensors, and what was made of them; in a tuple, since it is no submodule.
        self._folded: tuple[tuple[tuple[int, int], ...], tuple[nn.Module]] | None = None

    def whole(self) -> nn.Module:
        """The model with all its layers, as files of weights have them."""
        return build(self.backbone, image_size=self.size)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of the stages.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            One tensor ``(B, channels, rows, columns)`` per stage.
        """
        plain = self.training or torch.compiler.is_compiling()
        return self._maps(self.net if plain else self._fast(), image)

    def _maps(self, net: nn.Module, image: Tensor) -> list[Tensor]:
        """What :meth:`forward` says, by the network itself or its folded copy."""
        found: list[Tensor] = net.forward_intermediates(  # type: ignore[operator]
            image,
            indices=self._indices,
            stop_early=True,
            intermediates_only=True,
            **self._every,
        )
        return found

    def _fast(self) -> nn.Module:
        """The network with its batch norms folded, made anew whenever its weights changed."""
        tensors = itertools.chain(self.net.parameters(), self.net.buffers())
        now = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        if self._folded is None or self._folded[0] != now:
            # Outside of inference mode, so that gradients may pass through the copy later.
            with torch.inference_mode(False), torch.no_grad():
                net = folded(self.net)
                probe = torch.linspace(-9, 9, self.size**2).sin().view(1, 1, self.size, self.size)
                probe = probe.to(next(self.net.parameters()))
                pairs = zip(self._maps(self.net, probe), self._maps(net, probe), strict=True)
                same = all(bool((a - b).abs().max() <= 1e-3 * a.abs().max()) for a, b in pairs)
            self._folded = (now, (net if same else self.net,))
        return self._folded[1][0]


def folded(net: nn.Module) -> nn.Module:
    """A copy of a network whose batch norms are part of the convolutions registered before them.

    It computes the same only in evaluation mode, and only where each batch norm reads the
    convolution that stands before it; whoever asks has to compare.

    Args:
        net: Any network; it stays as it is.

    Returns:
        In evaluation mode; a norm's activation stands in its place.
    """
    result = copy.deepcopy(net).eval()
    for module in result.modules():
        for (name, conv), (after, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, getattr(norm, "act", nn.Identity()))  # timm's has one
    return result


def in_passes(read: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Reads a few images at a time on a CPU, and all together on a GPU or in an exported graph.

    With more than ``PIXELS`` in one pass a CPU spends its time on memory for the maps, with much
    fewer on the calls: images of 64 px take twice as long one by one.

    Args:
        read: Maps ``(B, 1, size, size)`` to ``(B, ...)``, each image by itself.
        images: Shape ``(B, 1, size, size)``.
    """
    if images.is_cuda or torch.compiler.is_compiling():
        return read(images)
    return torch.cat(
        [read(one) for one in torch.split(images, max(1, PIXELS // images.shape[-1] ** 2))]
    )


def resized(image: Tensor, size: int) -> Tensor:
    """Crops with another edge: averaged over areas to shrink, interpolated to enlarge."""
    if (edge := image.shape[-1]) == size:
        return image
    if edge > size:
        if edge % size == 0:
            return F.avg_pool2d(image, edge // size)
        return F.interpolate(image, size=(size, size), mode="area")
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
