from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from classifier.backbones import build, head, select_trainable
from classifier.lora import LoRALinear, add_adapters, merged
from classifier.weights import load_weights

VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


def vit() -> nn.Module:
    return build("vit_tiny_patch16_224", image_size=32, backbone_args=VIT)


def swin() -> nn.Module:
    return build("swin_tiny_patch4_window7_224", image_size=32, backbone_args=SWIN)


def moved(net: nn.Module) -> nn.Module:
    """Adapters as after some training."""
    for name, p in net.named_parameters():
        if "lora_up" in name:
            nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize("make", [vit, swin])
def test_adapters_start_at_the_model_as_it_was_and_keep_its_keys(make: type) -> None:
    net = make().eval()
    image = torch.randn(2, 1, 32, 32)
    before, keys = net(image), list(net.state_dict())
    select_trainable(net, "lora", lora_rank=3)
    assert torch.equal(net(image), before)
    assert [key for key in net.state_dict() if "lora" not in key] == keys
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    own = {f"{name}" for name, p in net.named_parameters() if p in set(head(net).parameters())}
    assert trained == own | {name for name, _ in net.named_parameters() if "lora" in name}
    assert {p.shape[0] for name, p in net.named_parameters() if "lora_down" in name} == {3}
    assert not torch.equal(moved(net)(image), before)


@pytest.mark.parametrize("make", [vit, swin])
def test_a_file_with_adapters_loads_into_the_plain_model_as_the_same_function(
    make: type, tmp_path: Path
) -> None:
    net = make().eval()
    select_trainable(net, "lora", lora_rank=2)
    moved(net)
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    plain = make().eval()
    load_weights(plain, tmp_path / "last.ckpt")
    image = torch.randn(2, 1, 32, 32)
    assert torch.allclose(plain(image), net(image), atol=1e-5)
    assert list(merged(net.state_dict())) == list(plain.state_dict())


def test_adapters_are_put_on_once() -> None:
    net = vit()
    first, second = add_adapters(net, 2), add_adapters(net, 4)
    assert [id(p) for p in first] == [id(p) for p in second]
    assert sum(isinstance(module, LoRALinear) for module in net.modules()) == 4


def test_models_without_attention_and_empty_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="ResNet has no attention"):
        add_adapters(timm.create_model("resnet10t"), 2)
    with pytest.raises(ValueError, match="lora_rank=0"):
        add_adapters(vit(), 0)
