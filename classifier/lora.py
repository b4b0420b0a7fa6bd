# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of attention layers: few trained numbers for a whole transformer.

Few parameters are what a private fit wants: its noise grows with their number.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

DOWN, UP = "lora_down.weight", "lora_up.weight"  # keys beside the layer's own


class LoRALinear(nn.Linear):
    """A frozen linear layer plus a trained product of two thin matrices.

    ``y = x W^T + b + x A^T B^T`` with ``A = lora_down.weight``, shape ``(rank, in)``, random, and
    ``B = lora_up.weight``, shape ``(out, rank)``, zero at first: training starts at the layer as it
    was. Its own parameters keep their names, so state dicts have timm's keys and two more.

    Args:
        layer: Layer whose parameters are taken over.
        rank: Rank of the product, at least 1.

    Source: Hu et al. 2021, arXiv 2106.09685, with their factor ``alpha / rank`` at 1.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        self.weight, self.bias = layer.weight, layer.bias
        device, dtype = layer.weight.device, layer.weight.dtype
        self.lora_down = nn.Linear(layer.in_features, rank, bias=False, device=device, dtype=dtype)
        self.lora_up = nn.Linear(rank, layer.out_features, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in)`` to ``(..., out)``."""
        y: Tensor = super().forward(x) + self.lora_up(self.lora_down(x))
        return y


def add_adapters(net: nn.Module, rank: int) -> list[nn.Parameter]:
    """Puts adapters on the linear layers of every attention: ``qkv`` and ``proj``.

    Args:
        net: A timm transformer; changed in place. Adapters that it has already stay.
        rank: Rank of each adapter, at least 1.

    Returns:
        The adapters' parameters.

    Raises:
        ValueError: If the model has no such attention, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"lora_rank={rank}. Give at least 1.")
    found: list[nn.Parameter] = []
    for module in list(net.modules()):
        if not isinstance(getattr(module, "qkv", None), nn.Linear):
            continue
        for name in ("qkv", "proj"):
            layer = getattr(module, name)
            if not isinstance(layer, LoRALinear):
                layer = LoRALinear(layer, rank)
                setattr(module, name, layer)
            found += [*layer.lora_down.parameters(), *layer.lora_up.parameters()]
    if not found:
        raise ValueError(
            f"{type(net).__name__} has no attention with a `qkv` layer. Choose trainable: all, "
            "last_blocks, norm_bias or head."
        )
    return found


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with timm's keys alone: each adapter is added to its layer's weight.

    Args:
        state: Keys and tensors, with or without adapters.
    """
    plain = {key: value for key, value in state.items() if not key.endswith((DOWN, UP))}
    for key in state:
        if key.endswith(DOWN):
            layer = key.removesuffix(DOWN)
            up, down = state[layer + UP], state[key]
            plain[f"{layer}weight"] = torch.addmm(plain[f"{layer}weight"], up, down)
    return plain
