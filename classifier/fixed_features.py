# SPDX-License-Identifier: Apache-2.0
"""``crop_measurements`` and ``crop_features``: timm models with a body that no patient trains.

A private head pays for each direction of its features. These bodies give it few: principal
components, as public crops vary, of fixed measurements (``crop_measurements``), or of these beside
what a network trained on public images sees in its middle (``crop_features``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from classifier.public import PublicNet, in_passes, resized
from classifier.weights import PUBLIC_NETWORK
from classifier.whitened import WhitenedFeatures
from data_prep.descriptors.measurements import COUNT, Measurements
from data_prep.symmetries import symmetric

MEASURED_SIZE = 64  # edge that measurements are made at

_CFG = {
    "classifier": "head",
    "input_size": (1, 128, 128),
    "mean": (0.5,),
    "std": (0.5,),
    "num_classes": 1,
}
default_cfgs = generate_default_cfgs(
    {"crop_measurements.untrained": _CFG, "crop_features.untrained": _CFG}
)


class FixedFeatures(WhitenedFeatures):
    """Scores crops by one linear layer on whitened numbers that nothing trains.

    The blocks of numbers: the measurements, and the mean and the spread over positions of each
    stage of the public network that is read.

    Args:
        img_size: Edge of the crops in pixels, >= 16; inside they are brought to the sizes that
            measurements and network take.
        in_chans: Channels, 1.
        num_classes: Logits, > 0.
        components: Principal components that are features, between 1 and the numbers.
        public: timm's name of the network; none measures only.
        stages: Stages of it that are read, see :class:`classifier.public.PublicNet`.
        public_size: Edge of what it sees, in pixels.
        symmetries: Turned and mirrored copies that its numbers are averaged over, from 1 to 8; 4
            are the mirror images, 8 the quarter turns too. Each takes one pass.
        slices: Of volumes, ``>= 2``, whose numbers are the mean and the spread over slices of
            those of each slice; none for crops in the plane.

    Attributes:
        public: The network, or none.

    Raises:
        ValueError: For a value outside its range.
    """

    public: PublicNet | None

    def __init__(
        self,
        img_size: int = 128,
        in_chans: int = 1,
        num_classes: int = 1,
        components: int = 48,
        public: str | None = None,
        stages: Sequence[int] = (),
        public_size: int = 224,
        symmetries: int = 4,
        slices: int | None = None,
    ) -> None:
        net = None if public is None else PublicNet(public, size=public_size, stages=stages)
        blocks = [COUNT]
        if net is not None:
            blocks += [n for n in net.channels for _ in ("mean", "spread")]
        if slices is not None:
            blocks *= 2
        count = sum(blocks)
        if (
            in_chans != 1
            or not 1 <= components <= count
            or img_size < 16
            or not 1 <= symmetries <= 8
            or (slices is not None and slices < 2)
        ):
            raise ValueError(
                f"{in_chans=}, {components=}, {img_size=}, {symmetries=}, {slices=}. Give 1 "
                f"channel, 1 to {count} components, crops of at least 16 px, 1 to 8 symmetries, "
                "and 2 slices or more for volumes."
            )
        super().__init__(blocks, components, num_classes)
        self.measure = Measurements(MEASURED_SIZE)
        self.public = net
        self.symmetries = symmetries
        self.slices = slices

    @property
    def words(self) -> str:
        """What the features are made of, for people."""
        parts = [f"{COUNT} measurements"]
        if self.public is not None:
            stages = " and ".join(map(str, self.public.stages))
            parts.append(f"mean and spread of stages {stages} of {self.public.backbone}")
        words = f"{self.num_features} components of {' and '.join(parts)}"
        return words if self.slices is None else f"{words}, mean and spread over slices"

    def numbers(self, image: Tensor) -> Tensor:
        """All that is known of crops or volumes before whitening.

        Args:
            image: Shape ``(B, 1, size, size)``, or ``(B, 1, slices, size, size)`` where the body
                was made for slices, in ``[-1, 1]``.

        Returns:
            Shape ``(B, numbers)``.
        """
        if self.slices is None:
            return self._plane_numbers(image)
        if image.ndim != 5 or image.shape[2] != self.slices:
            raise ValueError(f"shape {tuple(image.shape)}, for {self.slices} slices")
        pooled = []
        for volume in image:  # one at a time, so that memory is that of its slices
            found = self._plane_numbers(volume.transpose(0, 1))
            pooled.append(torch.cat([found.mean(0), found.std(0)]))
        return torch.stack(pooled) if pooled else image.new_zeros(0, len(self.mean))

    def _plane_numbers(self, image: Tensor) -> Tensor:
        measured = [self.measure(resized(image, MEASURED_SIZE))]
        if self.public is not None:
            measured.append(in_passes(self._seen, resized(image, self.public.size)))
        return torch.cat(measured, 1)

    def _seen(self, image: Tensor) -> Tensor:
        """Mean and spread over positions of each stage, averaged over symmetries of the square."""
        assert self.public is not None
        views = [self.public(symmetric(image, number)) for number in range(self.symmetries)]
        found = []
        for maps in zip(*views, strict=True):
            flat = [one.float().flatten(2) for one in maps]
            found.append(torch.stack([one.mean(2) for one in flat]).mean(0))
            found.append(torch.stack([one.std(2) for one in flat]).mean(0))
        return torch.cat(found, 1)


@register_model
def crop_measurements(pretrained: bool = False, **arguments: Any) -> FixedFeatures:
    """Measurements alone; see :class:`FixedFeatures` for the arguments."""
    net: FixedFeatures = build_model_with_cfg(
        FixedFeatures, "crop_measurements", pretrained, **arguments
    )
    return net


@register_model
def crop_features(pretrained: bool = False, **arguments: Any) -> FixedFeatures:
    """Measurements and EfficientNet-Lite0 at its stages 4 and 5, unless told otherwise."""
    defaults: dict[str, Any] = {
        "public": PUBLIC_NETWORK,
        "stages": (4, 5),
        "components": 64,
    }
    net: FixedFeatures = build_model_with_cfg(
        FixedFeatures, "crop_features", pretrained, **(defaults | arguments)
    )
    return net
