import pytest
import timm
import torch
from torch import nn

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.book_keeping import BookKeepingSums
from mammo_dp.privacy.training.gradients.methods import (
    HookSums,
    LoopSums,
    Method,
    build,
    candidates,
    refuse_layers,
)
from tests.privacy.training.gradients.nets import Net, timm_net


class Batchwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.norm = nn.BatchNorm1d(2, track_running_stats=False)
        self.scale = nn.InstanceNorm2d(2, track_running_stats=True)
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize("method", ["loop", "opacus", "book_keeping"])
def test_layers_that_mix_patients_are_refused_by_name_all_at_once(method: Method) -> None:
    with pytest.raises(PrivacyError) as error:
        refuse_layers(Batchwise(), method)
    for name in ("body.1 (BatchNorm2d)", "norm (BatchNorm1d)", "scale (InstanceNorm2d)"):
        assert name in str(error.value)
    assert "train the head" in str(error.value)


def test_frozen_statistics_are_no_statistics() -> None:
    net = Batchwise()
    net.norm = nn.BatchNorm1d(2)
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    net.eval()
    net.head.train()
    methods = candidates(net, "auto")
    assert methods == ("book_keeping", "loop")
    for method in methods:
        refuse_layers(net, method)  # raises for statistics that are still kept


def test_layers_without_rows_are_refused_for_the_methods_that_need_them() -> None:
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "memory": nn.LSTM(4, 4)})
    net["memory"].register_buffer("state", torch.zeros(1))
    needing: tuple[Method, ...] = ("opacus", "book_keeping")
    for method in needing:
        with pytest.raises(PrivacyError, match=r"attention \(MultiheadAttention.*memory \(LSTM"):
            refuse_layers(net, method)
    refuse_layers(net, "loop")


def test_auto_takes_book_keeping_where_every_trainable_layer_has_a_rule() -> None:
    for net in (Net(), timm_net("vit"), timm_net("swin"), timm_net("swin", "lora")):
        assert candidates(net, "auto") == ("book_keeping", "loop")
    assert candidates(Net(), "opacus") == ("opacus",)


def test_auto_takes_the_loop_for_other_nets() -> None:
    net = timm.create_model("convnext_atto", num_classes=1)
    assert candidates(net, "auto") == ("loop",)


def test_each_method_has_its_class() -> None:
    classes: dict[Method, type] = {
        "loop": LoopSums,
        "book_keeping": BookKeepingSums,
        "opacus": HookSums,
    }
    for method, kind in classes.items():
        assert isinstance(build(Net(), method, 8), kind)
