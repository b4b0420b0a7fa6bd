# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classifier.backbones import build, head
from classifier.features import body_features
from classifier.pretraining import StandardiseError, standardise

VIT: dict[str, Any] = {"depth": 1, "embed_dim": 24, "num_heads": 3, "patch_size": 8}


def vit(**more: Any) -> nn.Module:
    return build("vit_tiny_patch16_224", image_size=32, backbone_args=VIT | more)


def averaged() -> nn.Module:
    return vit(global_pool="avg", class_token=False, fc_norm=False)


def averaged_then_normed() -> nn.Module:
    return vit(global_pool="avg")


def swin() -> nn.Module:
    arguments = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    return build("swin_tiny_patch4_window7_224", image_size=32, backbone_args=arguments)


def images(count: int = 40) -> Tensor:
    drawn = torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return (drawn * torch.linspace(0.1, 0.5, count).view(-1, 1, 1, 1)).clip(-1, 1)


def scored(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    nn.init.normal_(head(net).weight)
    nn.init.normal_(head(net).bias)
    return net


@pytest.mark.parametrize("make", [vit, averaged, averaged_then_normed, swin])
def test_features_get_mean_0_and_deviation_1_and_scores_stay(
    make: Callable[[], nn.Module],
) -> None:
    net, some = scored(make), images()
    with torch.no_grad():
        scores = net(some)
        standardise(net, some)
        found = body_features(net, some)
        torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.std(0), torch.ones(found.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(net(some), scores, atol=1e-3, rtol=1e-3)


def test_batches_give_what_one_tensor_gives_and_twice_is_once() -> None:
    one, two = scored(averaged), scored(averaged)
    standardise(one, images())
    standardise(two, iter(torch.split(images(), 7)))
    standardise(two, images())
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)


def test_a_net_whose_features_do_not_scale_with_its_norm_is_refused_and_left_alone() -> None:
    net = scored(averaged)
    net.get_submodule("norm").register_forward_hook(lambda _m, _i, out: out.tanh())
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(StandardiseError, match="do not scale with its last norm"):
        standardise(net, images())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_net_without_a_last_norm_or_crops_without_deviation_are_refused() -> None:
    with pytest.raises(StandardiseError, match="1 crops have no deviation"):
        standardise(scored(vit), images(1))
    net = scored(vit)
    net.norm = nn.Identity()
    with pytest.raises(StandardiseError, match="no `norm` or `fc_norm`"):
        standardise(net, images())
