"""Small nets, batches and a naive twin for the tests of gradient methods."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.backbones import Trainable, select_trainable
from data_prep.datamodule import CropBatch
from mammo_dp.privacy.training.gradients.units import Clip, ClippedSums, Losses

SIZE = 16  # edge of the images, in pixels
TRAINABLE: tuple[Trainable, ...] = ("all", "last_blocks", "norm_bias", "lora", "head")
_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
_SWIN: dict[str, Any] = {
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 2),
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _VIT),
    "deit": ("deit_tiny_patch16_224", _VIT),
    "deit3": ("deit3_small_patch16_224", _VIT | {"init_values": 0.5}),
    "registers": ("vit_small_patch14_reg4_dinov2", _VIT | {"init_values": 0.5}),
    "swin": ("swin_tiny_patch4_window7_224", _SWIN),
    "swin_padded": ("swin_tiny_patch4_window7_224", _SWIN | {"window_size": 3}),
}


class Net(nn.Module):
    """Convolution, norm, linear; one parameter that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2)
        self.norm = nn.GroupNorm(1, 3)
        self.head = nn.Linear(3, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = F.relu(self.norm(self.conv(image))).mean((2, 3))
        return self.head(features)  # type: ignore[no-any-return]


def timm_net(name: str, trainable: Trainable = "all", **arguments: Any) -> nn.Module:
    backbone, chosen = ARCHITECTURES[name]
    net: nn.Module = timm.create_model(
        backbone,
        img_size=SIZE,
        in_chans=1,
        num_classes=1,
        **({"drop_path_rate": 0.0} | chosen | arguments),
    )
    with torch.no_grad():  # heads and tables that start at zero hide mistakes
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    select_trainable(net, trainable)
    if trainable == "lora":
        with torch.no_grad():
            for key, p in net.named_parameters():
                if "lora_up" in key:
                    p.normal_(std=0.1)
    return net.train()


def losses_of(net: nn.Module) -> Losses:
    def losses(batch: CropBatch) -> Tensor:
        image = batch.image
        views = image.shape[1] if image.ndim == 5 else 1
        scores = net(image.flatten(0, 1) if image.ndim == 5 else image)
        logits = scores.reshape(-1, views)
        target = batch.malignant[:, None].to(logits.dtype).expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    return losses


def batch_of(
    sizes: list[int], views: int = 1, seed: int = 0, scale: float = 1.0, edge: int = 8
) -> CropBatch:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    shape = (rows, 1, edge, edge) if views == 1 else (rows, views, 1, edge, edge)
    unit = torch.tensor([u for u, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)
    row = torch.arange(rows)
    return CropBatch(scale * torch.randn(shape, generator=generator), row % 2, row, unit)


def without(batch: CropBatch, unit: int) -> CropBatch:
    keep = batch.unit != unit
    return CropBatch(*(column[keep] for column in batch))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def naive(net: nn.Module, batch: CropBatch, sizes: list[int], clip: float) -> Tensor:
    """Per patient: mean of single-crop gradients, clipped as one vector, summed."""
    params = [p for p in net.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
    start = 0
    for size in sizes:
        mean = torch.zeros_like(total)
        for row in range(start, start + size):
            one = CropBatch(*(column[row : row + 1] for column in batch))
            grads = torch.autograd.grad(
                losses_of(net)(one).sum(), params, allow_unused=True, materialize_grads=True
            )
            mean += flat(list(grads)).double() / size
        start += size
        total += mean * min(1.0, clip / float(mean.norm()))
    return total


def summed(method: ClippedSums, net: nn.Module, batch: CropBatch, clip: Clip | float) -> Tensor:
    sums = [torch.zeros_like(p) for p in net.parameters() if p.requires_grad]
    chosen = clip if isinstance(clip, Clip) else Clip(norm=clip)
    method.accumulate(losses_of(net), batch, sums, chosen)
    return flat(sums).double()
