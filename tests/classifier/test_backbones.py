# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from classifier.backbones import (
    Trainable,
    WeightsError,
    blocks,
    build,
    head,
    hub_weights,
    keep_frozen_in_eval,
    load_weights,
    select_trainable,
    state_sha256,
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


@pytest.mark.parametrize("net", [vit(), swin()], ids=["vit", "swin"])
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


@pytest.mark.parametrize("net", [vit(), swin()], ids=["vit", "swin"])
def test_head_trains_two_tensors(net: nn.Module) -> None:
    select_trainable(net, "head")
    prefix = "head.fc" if hasattr(net, "layers") else "head"
    assert trained(net) == {f"{prefix}.weight", f"{prefix}.bias"}


@pytest.mark.parametrize("net", [vit(), swin()], ids=["vit", "swin"])
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


@pytest.mark.parametrize("net", [vit(), swin()], ids=["vit", "swin"])
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


def save(net: nn.Module, path: Path, *, ours: bool = False, **changes: torch.Tensor) -> Path:
    state = net.state_dict() | {key.replace("__", "."): value for key, value in changes.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif ours:
        torch.save({"state_dict": {f"net.{k}": v for k, v in state.items()}, "epoch": 1}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["ours.ckpt", "timm.pth", "timm.safetensors"])
@pytest.mark.parametrize("make", [vit, swin])
def test_weights_are_loaded_whole(tmp_path: Path, make: Callable[[], nn.Module], name: str) -> None:
    torch.manual_seed(0)
    source, target = make(), make()
    loaded = load_weights(target, save(source, tmp_path / name, ours=name == "ours.ckpt"))
    assert state_sha256(target.state_dict()) == state_sha256(source.state_dict())
    assert (loaded.loaded, loaded.reset, loaded.summed) == (len(source.state_dict()), (), ())
    assert loaded.path.endswith(name)
    assert len(loaded.sha256) == 64


def test_another_head_of_a_foreign_file_is_reset_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = vit(), vit()
    fresh = head(target).weight.clone()
    path = save(
        source,
        tmp_path / "timm.pth",
        head__weight=torch.zeros(1000, 48),
        head__bias=torch.zeros(1000),
    )
    with caplog.at_level(logging.WARNING):
        loaded = load_weights(target, path)
    assert loaded.reset == ("head.weight", "head.bias")
    assert loaded.loaded == len(target.state_dict()) - 2
    assert "head.weight, head.bias" in caplog.text
    assert torch.equal(head(target).weight, fresh)


def test_another_head_of_our_own_file_is_an_error(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "a.ckpt", ours=True, head__weight=torch.zeros(2, 48))
    with pytest.raises(WeightsError, match=r"mismatched: head.weight \(2, 48\) instead of \(1, 4"):
        load_weights(vit(), path)


def test_colour_weights_answer_to_grey_as_to_equal_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, in_chans=3, num_classes=1, **VIT
    )
    grey = vit()
    loaded = load_weights(grey, save(colour, tmp_path / "rgb.pth"))
    assert loaded.summed == ("patch_embed.proj.weight",)
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(
        grey.eval()(image), colour.eval()(image.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5
    )


def test_constants_of_older_swin_files_are_left_out(tmp_path: Path) -> None:
    net = swin()
    path = save(net, tmp_path / "old.pth", layers__1__blocks__1__attn_mask=torch.zeros(4, 16, 16))
    assert load_weights(net, path).loaded == len(net.state_dict())


def test_a_file_that_loads_no_tensor_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    net = vit()
    before = state_sha256(net.state_dict())
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"none of 30 .*missing: .* more; unexpected: conv.wei"):
        load_weights(net, path)
    assert state_sha256(net.state_dict()) == before


def test_missing_unexpected_and_mismatched_keys_are_named(tmp_path: Path) -> None:
    state = vit().state_dict()
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(7)
    torch.save({"state_dict": {f"net.{k}": v for k, v in state.items()}}, tmp_path / "a.ckpt")
    with pytest.raises(
        WeightsError, match=r"missing: norm.bias; unexpected: extra; mismatched: no"
    ):
        load_weights(vit(), tmp_path / "a.ckpt")


def test_another_depth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unexpected: blocks.2.*and 4 more.*backbone_args"):
        load_weights(vit(), save(vit(depth=3), tmp_path / "deep.pth"))


def test_position_embedding_of_another_size_names_the_remedy(tmp_path: Path) -> None:
    larger = build("vit_tiny_patch16_224", image_size=64, backbone_args=VIT)
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 65, 48\).*image_size or patch_size"):
        load_weights(vit(), save(larger, tmp_path / "large.pth"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b""), ("a.pth", b"hello garbage"), ("a.ckpt", b"PK"), ("a.safetensors", b"\x05")],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read as weights"):
        load_weights(vit(), tmp_path / name)


def test_a_missing_file_and_one_without_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.pth: no such file"):
        load_weights(vit(), "nowhere.pth")
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a.pth: holds no state dict"):
        load_weights(vit(), tmp_path / "a.pth")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "a.pth")  # a pickled object
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(vit(), tmp_path / "a.pth")


def test_an_unreachable_hub_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be fetched.*path as `weights`"):
        build("vit_tiny_patch16_224", image_size=32, backbone_args=VIT, pretrained=True)


def test_hub_weights_are_described_without_the_head() -> None:
    net = vit()
    told = hub_weights(net)
    assert told.path.startswith("timm:vit_tiny_patch16_224")
    assert told.reset == ("head.weight", "head.bias")
    nn.init.ones_(head(net).weight)
    assert hub_weights(net).sha256 == told.sha256
    nn.init.ones_(net.get_parameter("norm.bias"))
    assert hub_weights(net).sha256 != told.sha256
