import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.book_keeping import (
    BookKeepingSums,
    Tape,
    recording,
    unruled,
)
from mammo_dp.privacy.training.gradients.methods import build
from mammo_dp.privacy.training.gradients.units import Clip
from tests.privacy.training.gradients.nets import (
    SIZE,
    Net,
    batch_of,
    losses_of,
    naive,
    summed,
    timm_net,
)


@pytest.mark.parametrize("name", ["vit", "swin", "swin_padded", "registers"])
def test_rules_leave_keys_forward_pass_and_gradients_of_the_net_alone(name: str) -> None:
    net = timm_net(name)
    image = torch.randn(3, 1, SIZE, SIZE)
    keys, before, attributes = list(net.state_dict()), net(image), set(net.__dict__)
    tape = Tape()
    tape.start([1, 2], image.device)
    with recording(net, tape):
        inside = net(image)
    assert torch.allclose(inside, before, rtol=0, atol=1e-6)
    summed(BookKeepingSums(net, 64), net, batch_of([2, 1], edge=SIZE), 1.0)
    assert all(p.grad is None for p in net.parameters())
    assert list(net.state_dict()) == keys
    assert set(net.__dict__) == attributes
    assert not any("forward" in module.__dict__ for module in net.modules())
    assert torch.equal(net(image), before)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    net = timm_net(name)
    batch = batch_of([2, 1], edge=SIZE)
    expected = summed(BookKeepingSums(net, 64), net, batch, 0.1)
    net.set_grad_checkpointing(True)  # type: ignore[operator]
    found = summed(BookKeepingSums(net, 64), net, batch, 0.1)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_dropout_draws_as_in_an_ordinary_pass() -> None:
    net = timm_net("vit", proj_drop_rate=0.3)
    batch = batch_of([1], edge=SIZE)
    torch.manual_seed(1)
    found = summed(BookKeepingSums(net, 64), net, batch, 1e9)
    torch.manual_seed(1)
    assert torch.allclose(found, naive(net, batch, [1], 1e9), rtol=1e-4, atol=1e-6)


def test_only_windowed_layers_of_swin_train_and_one_image_stays_inside_the_clip() -> None:
    net = timm_net("swin")
    net.requires_grad_(False)
    for key, p in net.named_parameters():
        p.requires_grad_(".attn." in key)
    batch = batch_of([1], scale=30.0, edge=SIZE)
    found = summed(BookKeepingSums(net, 64), net, batch, 0.01)
    assert float(found.norm()) == pytest.approx(0.01, rel=1e-5)
    assert torch.allclose(found, naive(net, batch, [1], 0.01), rtol=1e-3, atol=1e-8)


def test_opacus_lets_one_image_leave_the_clip_there_and_the_row_count_stops_it() -> None:
    net = timm_net("swin")
    net.requires_grad_(False)
    for key, p in net.named_parameters():
        p.requires_grad_(".attn.qkv.weight" in key)
    with pytest.raises(PrivacyError, match=r"rows for 1 samples"):
        summed(build(net, "opacus", 64), net, batch_of([1], edge=SIZE), 0.01)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=1, padding=1, dilation=2)
        self.norm = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 3, (2, 3), stride=2, bias=False)
        self.head = nn.Linear(3, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm(self.first(image)))
        return self.head(self.second(hidden).mean((2, 3)))  # type: ignore[no-any-return]


def test_overlapping_and_dilated_convolutions_have_rules() -> None:
    net, sizes = Convolutions(), [2, 1, 3]
    batch = batch_of(sizes, edge=12)
    for clip in (0.05, 100.0):
        found = summed(BookKeepingSums(net, 64), net, batch, clip)
        expected = naive(net, batch, sizes, clip)
        assert float((found - expected).norm() / expected.norm()) < 1e-6


class VolumeConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=(2, 1, 0), dilation=(2, 1, 1))
        self.second = nn.Conv3d(4, 3, (1, 2, 3), stride=(1, 2, 1), bias=False)
        self.head = nn.Linear(3, 1)

    def forward(self, image: Tensor) -> Tensor:
        volume = image.view(-1, 1, 4, 6, 6)
        hidden = F.leaky_relu(self.first(volume))
        return self.head(self.second(hidden).mean((2, 3, 4)))  # type: ignore[no-any-return]


def test_convolutions_of_volumes_have_a_rule() -> None:
    net, sizes = VolumeConvolutions(), [2, 1, 3]
    batch = batch_of(sizes, edge=12)
    for clip in (0.05, 100.0):
        found = summed(BookKeepingSums(net, 64), net, batch, clip)
        expected = naive(net, batch, sizes, clip)
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_grouped_and_reflected_convolutions_of_volumes_have_none() -> None:
    layers = nn.Sequential(
        nn.Conv3d(2, 2, 1, groups=2), nn.Conv3d(2, 2, 3, padding=1, padding_mode="reflect")
    )
    assert len(unruled(layers)) == 2


def test_a_linear_head_on_features_is_the_closed_form() -> None:
    layer = nn.Linear(5, 1)
    features = torch.randn(4, 3, 5)  # 4 crops, 3 views
    label = torch.tensor([0, 1, 1, 0])
    batch = CropBatch(features, label, torch.arange(4), torch.tensor([0, 0, 1, 2]))

    def losses(piece: CropBatch) -> Tensor:
        logits = layer(piece.image).squeeze(-1)
        target = piece.malignant[:, None].float().expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    sums = [torch.zeros_like(p) for p in layer.parameters()]
    BookKeepingSums(layer, 64).accumulate(losses, batch, sums, Clip(norm=0.2))
    residual = (layer(features).squeeze(-1).sigmoid() - label[:, None]) / 3  # (crops, views)
    extended = torch.cat([features, torch.ones(4, 3, 1)], -1)
    per_crop = torch.einsum("cv,cvd->cd", residual, extended)
    units = torch.stack([per_crop[:2].mean(0), per_crop[2], per_crop[3]])
    expected = (units * (0.2 / units.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    assert torch.allclose(torch.cat([s.flatten() for s in sums]), expected, atol=1e-6)


class Cancelling(nn.Module):
    """Two tokens with opposite gradients: what is left is long, but tiny beside either."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)
        self.pull = 1e4 * torch.randn(64)

    def forward(self, image: Tensor) -> Tensor:
        token = image.flatten(1)[:, :64]
        first, second = self.layer(torch.stack([token, token * (1 + 1e-4)], 1)).unbind(1)
        return ((first - second) @ self.pull)[:, None]  # type: ignore[no-any-return]


def test_tokens_that_nearly_cancel_hide_no_gradient() -> None:
    net, clip = Cancelling(), 1e-3
    batch = batch_of([1])
    assert float(naive(net, batch, [1], 1e9).norm()) > 1e3 * clip
    found = summed(BookKeepingSums(net, 64), net, batch, clip)
    assert float(found.norm()) == pytest.approx(clip, rel=1e-2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(image.flatten(1)[:, :8])))  # type: ignore[no-any-return]


class Leaking(Tied):
    def forward(self, image: Tensor) -> Tensor:
        used = F.linear(image.flatten(1)[:, :8], self.layer.weight)  # not through the layer
        return self.head(self.layer(used))  # type: ignore[no-any-return]


def test_parameters_that_would_be_clipped_apart_are_refused() -> None:
    for net, message in ((Tied(), "used twice"), (Leaking(), "outside of its own layer")):
        with pytest.raises(PrivacyError, match=message):
            summed(BookKeepingSums(net, 64), net, batch_of([1, 1]), 1.0)
        assert all(p.grad is None for p in net.parameters())
        assert not any("forward" in module.__dict__ for module in net.modules())


def test_layers_without_a_rule_are_named_all_at_once() -> None:
    class Other(nn.Linear):
        pass

    net = nn.ModuleDict(
        {
            "subclass": Other(2, 2),
            "grouped": nn.Conv2d(2, 2, 1, groups=2),
            "circular": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
            "plain": nn.Linear(2, 2),
            "norm": nn.LayerNorm((2, 2)),
        }
    )
    assert unruled(net) == [
        "subclass (Other)",
        "grouped (Conv2d)",
        "circular (Conv2d)",
        "norm (LayerNorm)",
    ]
    net.requires_grad_(False)
    assert unruled(net) == []


def test_nets_that_broadcast_otherwise_have_no_rule() -> None:
    resizing = timm.create_model("vit_tiny_patch16_224", num_classes=1, dynamic_img_size=True)
    assert unruled(resizing) == ["net (VisionTransformer)"]
    other = timm.create_model("convnext_atto", num_classes=1)
    assert any("conv_dw (Conv2d)" in name for name in unruled(other))


def test_wrong_sizes_of_units_are_noticed() -> None:
    net, tape = Net(), Tape()
    batch = batch_of([1, 1, 1])
    tape.start([1, 1], torch.device("cpu"))
    with recording(net, tape), pytest.raises(PrivacyError, match=r"3 rows for 2 samples"):
        losses_of(net)(batch).sum().backward()  # type: ignore[no-untyped-call]
