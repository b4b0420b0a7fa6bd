# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from torch import nn

from classifier.backbones import (
    Trainable,
    blocks,
    build,
    head,
    keep_frozen_in_eval,
    select_trainable,
    takes_image_size,
)

VIT: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": (1, 2),
    "num_heads": (1, 2),
    "window_size": 4,
    "patch_size": 4,
}


def vit(**more: Any) -> nn.Module:
    return build("vit_tiny_patch16_224", image_size=32, backbone_args=VIT | more)


def swin() -> nn.Module:
    return build("swin_tiny_patch4_window7_224", image_size=32, backbone_args=SWIN)


def trained(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.fixture(params=[vit, swin])
def net(request: pytest.FixtureRequest) -> nn.Module:
    built: nn.Module = request.param()
    return built


def test_one_channel_in_one_logit_out(net: nn.Module) -> None:
    assert net(torch.zeros(3, 1, 32, 32)).shape == (3, 1)
    assert head(net).out_features == 1


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_relpos_small_patch16_224", "nest_tiny", "cait_xxs24_224"]
)
def test_other_transformers_of_timm_build(name: str) -> None:
    assert build(name, image_size=64)(torch.zeros(1, 1, 64, 64)).shape == (1, 1)


def test_models_without_an_image_size_build() -> None:
    assert build("resnet10t", image_size=64)(torch.zeros(2, 1, 64, 64)).shape == (2, 1)


def test_unknown_model_and_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"backbone='vit_giga' is unknown.*vit_tiny"):
        build("vit_giga", image_size=32)
    with pytest.raises(ValueError, match="layers_of_gold"):
        vit(layers_of_gold=3)
    with pytest.raises(ValueError, match="ends in tuple"):
        build("deit_tiny_distilled_patch16_224", image_size=32)


def test_head_trains_two_tensors(net: nn.Module) -> None:
    select_trainable(net, "head")
    prefix = "head.fc" if hasattr(net, "layers") else "head"
    assert trained(net) == {f"{prefix}.weight", f"{prefix}.bias"}


def test_all_trains_everything_again(net: nn.Module) -> None:
    select_trainable(net, "head")
    select_trainable(net, "all")
    assert trained(net) == {name for name, _ in net.named_parameters()}


def test_last_blocks_train_with_final_norm_and_head() -> None:
    net = vit()
    select_trainable(net, "last_blocks", 1)
    assert {name.rsplit(".", 1)[0].split(".mlp")[0] for name in trained(net)} >= {"norm", "head"}
    assert all(name.startswith(("blocks.1.", "norm.", "head.")) for name in trained(net))


def test_last_blocks_of_swin_reach_over_stages() -> None:
    net = swin()
    assert len(blocks(net)) == 3
    select_trainable(net, "last_blocks", 3)
    kept = {name for name, _ in net.named_parameters()} - trained(net)
    assert kept
    assert all(name.startswith(("patch_embed.", "layers.1.downsample.")) for name in kept)


def test_norm_bias_trains_vectors_and_the_head_only(net: nn.Module) -> None:
    select_trainable(net, "norm_bias")
    vectors = {name for name, parameter in net.named_parameters() if parameter.ndim == 1}
    weight = {name for name, p in net.named_parameters() if p is head(net).weight}
    assert trained(net) == vectors | weight


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"last_blocks=3.*2 blocks"):
        select_trainable(vit(), "last_blocks", 3)
    with pytest.raises(ValueError, match="trainable='tail'"):
        select_trainable(vit(), "tail")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"neither `blocks` nor `layers`.*levels.*norm_bias"):
        select_trainable(build("nest_tiny", image_size=64), "last_blocks")


@pytest.mark.parametrize(
    ("trainable", "training"),
    [
        ("all", {"pos_drop", "blocks.0.drop_path1", "blocks.1.drop_path1"}),
        ("last_blocks", {"blocks.1.drop_path1"}),
        ("norm_bias", {"blocks.0.drop_path1", "blocks.1.drop_path1"}),
        ("head", set()),
    ],
)
def test_frozen_parts_stay_in_evaluation_mode(trainable: Trainable, training: set[str]) -> None:
    net = vit(drop_path_rate=0.5, pos_drop_rate=0.5)
    net.get_submodule("blocks.0").drop_path1 = nn.Dropout(0.5)  # the first rate is 0
    select_trainable(net, trainable)
    net.train()
    keep_frozen_in_eval(net)
    drops = ("pos_drop", "blocks.0.drop_path1", "blocks.1.drop_path1")
    assert {name for name in drops if net.get_submodule(name).training} == training


def test_patches_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patches of \(14, 14\) px do not divide.*such as 56"):
        build("vit_small_patch14_dinov2", image_size=64, backbone_args={"depth": 1})


@pytest.mark.parametrize(("name", "takes"), [("vit_tiny_patch16_224", True), ("resnet10t", False)])
def test_models_say_whether_they_are_built_for_one_size(name: str, takes: bool) -> None:
    assert takes_image_size(build(name, image_size=64)) == takes
