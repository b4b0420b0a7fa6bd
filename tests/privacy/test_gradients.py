import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.backbones import select_trainable
from data_prep.datamodule import CropBatch
from mammo_dp.privacy import gradients
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.gradients import HookSums, LoopSums

METHODS = (LoopSums, HookSums)


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
        return self.head(features).squeeze(-1)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def losses_of(net: nn.Module) -> gradients.Losses:
    def losses(batch: CropBatch) -> Tensor:
        image = batch.image
        views = image.shape[1] if image.ndim == 5 else 1
        logits = net(image.flatten(0, 1) if image.ndim == 5 else image).view(-1, views)
        target = batch.malignant[:, None].float().expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    return losses


def batch_of(sizes: list[int], views: int = 1, seed: int = 0, scale: float = 1.0) -> CropBatch:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    shape = (rows, 1, 8, 8) if views == 1 else (rows, views, 1, 8, 8)
    unit = torch.tensor([u for u, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)
    row = torch.arange(rows)
    return CropBatch(scale * torch.randn(shape, generator=generator), row % 2, row, unit)


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


def summed(method: gradients.ClippedSums, net: nn.Module, batch: CropBatch, clip: float) -> Tensor:
    sums = [torch.zeros_like(p) for p in net.parameters() if p.requires_grad]
    method.accumulate(losses_of(net), batch, sums, clip)
    return flat(sums).double()


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_sums_equal_a_plain_loop_over_patients(
    kind: type[LoopSums] | type[HookSums], views: int, clip: float
) -> None:
    net, sizes = Net(), [2, 1, 4, 1]
    batch = batch_of(sizes, views)
    expected = naive(net, batch, sizes, clip)
    for limit in (1, 5, 1000):
        found = summed(kind(net, limit), net, batch, clip)
        if kind is HookSums:
            net = _without_hooks(net)
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def _without_hooks(net: Net) -> Net:
    copy = Net()
    copy.load_state_dict(net.state_dict())
    return copy


@pytest.mark.parametrize("kind", METHODS)
@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    place=st.integers(0, 3),
    clip=st.sampled_from([1e-3, 0.1, 1.0]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(
    kind: type[LoopSums] | type[HookSums],
    sizes: list[int],
    place: int,
    clip: float,
    scale: float,
    seed: int,
) -> None:
    net = Net()
    method = kind(net, 4)
    batch = batch_of(sizes, seed=seed, scale=scale)
    keep = batch.unit != place % len(sizes)
    without = CropBatch(*(column[keep] for column in batch))
    moved = summed(method, net, batch, clip)
    if len(without.row):
        moved = moved - summed(method, net, without, clip)
    assert float(moved.norm()) <= clip * (1 + 1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_a_mixed_precision_forward_pass_keeps_the_clip(
    kind: type[LoopSums] | type[HookSums],
) -> None:
    net = Net()
    method, clip = kind(net, 64), 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = summed(method, net, batch_of([3], scale=100.0), clip)
    assert float(found.norm()) == pytest.approx(clip, rel=1e-6)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_unit_that_is_not_finite_adds_nothing(
    kind: type[LoopSums] | type[HookSums], poison: float
) -> None:
    net, sizes = Net(), [2, 2, 1]
    method = kind(net, 64)
    batch = batch_of(sizes)
    keep = batch.unit != 1
    clean = summed(method, net, CropBatch(*(column[keep] for column in batch)), 0.1)
    batch.image[2, 0, 3, 3] = poison
    found = summed(method, net, batch, 0.1)
    assert found.isfinite().all()
    assert torch.allclose(found, clean, rtol=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_a_mean_over_views_is_inside_the_clip(kind: type[LoopSums] | type[HookSums]) -> None:
    net = Net()
    method = kind(net, 1000)
    views = batch_of([1, 2], views=4)
    alike = views._replace(image=views.image[:, :1].expand(-1, 4, -1, -1, -1))
    single = views._replace(image=views.image[:, 0])
    for clip in (0.05, 100.0):
        expected = summed(method, net, single, clip)
        assert torch.allclose(summed(method, net, alike, clip), expected, rtol=1e-4, atol=1e-7)


def test_rows_of_a_unit_must_be_adjacent() -> None:
    batch = batch_of([1, 1, 1])._replace(unit=torch.tensor([0, 1, 0]))
    with pytest.raises(PrivacyError, match="apart"):
        gradients.unit_sizes(batch)


def test_pieces_are_whole_units_up_to_the_limit() -> None:
    def lengths(sizes: list[int], limit: int, views: int = 1) -> list[int]:
        return [len(p.row) for p in gradients.whole_units(batch_of(sizes, views), limit)]

    assert lengths([2, 2, 2, 5, 1], 4) == [4, 2, 5, 1]
    assert lengths([2, 2, 2, 5, 1], 100) == [12]
    assert lengths([2, 2], 6, views=2) == [2, 2]
    assert lengths([], 4) == []


def test_hooks_leave_state_dict_and_evaluation_alone() -> None:
    net = Net()
    keys, method = list(net.state_dict()), HookSums(net, 64)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    assert not any(getattr(p, "grad_sample", None) is not None for p in net.parameters())
    net.zero_grad()
    summed(method, net, batch_of([2]), 1.0)
    assert all(p.grad is None for p in net.parameters())
    assert list(net.state_dict()) == keys
    method.close()
    HookSums(net, 64).close()  # can be put on again


class Mixing(Net):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image - image.mean(0, keepdim=True) * (len(image) > 1))


class Windows(Net):
    """Linear layer that sees windows on the first axis, as Swin's attention does."""

    def forward(self, image: Tensor) -> Tensor:
        windows = image.reshape(-1, 16, 3)[:, 0] if image.shape[-1] == 12 else image
        return self.head(windows).view(len(image), -1).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", METHODS)
def test_self_check_passes_a_right_method(kind: type[LoopSums] | type[HookSums]) -> None:
    net = Net()
    method = kind(net, 2)
    gradients.self_check(net, method, losses_of(net), (1, 8, 8))
    gradients.self_check(net, method, losses_of(net), (2, 1, 8, 8))
    assert net.training


def test_self_check_ignores_dropout() -> None:
    net = Net()
    net.norm = nn.Sequential(net.norm, nn.Dropout(0.5))  # type: ignore[assignment]
    for kind in METHODS:
        gradients.self_check(net, kind(net, 8), losses_of(net), (1, 8, 8))


def test_self_check_finds_layers_that_mix_samples() -> None:
    net = Mixing()
    with pytest.raises(PrivacyError, match=r"HookSums is off by .* Mixing"):
        gradients.self_check(net, HookSums(net, 64), losses_of(net), (1, 8, 8))


def test_rows_that_are_no_samples_are_refused() -> None:
    net = Windows()
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    hooks = HookSums(net, 64)
    with pytest.raises(PrivacyError, match=r"6 rows for 2 images.*gradient_method: loop"):
        gradients.self_check(net, hooks, losses_of(net), (1, 12, 12))
    hooks.close()
    gradients.self_check(net, LoopSums(net, 64), losses_of(net), (1, 12, 12))


class Batchwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.norm = nn.BatchNorm1d(2, track_running_stats=False)
        self.scale = nn.InstanceNorm2d(2, track_running_stats=True)
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize("method", ["loop", "opacus"])
def test_layers_that_mix_patients_are_refused_by_name_all_at_once(
    method: gradients.Method,
) -> None:
    with pytest.raises(PrivacyError) as error:
        gradients.refuse_layers(Batchwise(), method)
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
    method = gradients.chosen(net, "auto")
    assert method == "opacus"
    gradients.refuse_layers(net, method)  # raises for statistics that are still kept


def test_layers_without_rows_are_refused_for_hooks_only() -> None:
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "memory": nn.LSTM(4, 4)})
    net["memory"].register_buffer("state", torch.zeros(1))
    with pytest.raises(PrivacyError, match=r"attention \(MultiheadAttention.*memory \(LSTM"):
        gradients.refuse_layers(net, "opacus")
    gradients.refuse_layers(net, "loop")


def test_auto_takes_hooks_for_one_linear_layer_only() -> None:
    net = Net()
    assert gradients.chosen(net, "auto") == "loop"
    assert gradients.chosen(net, "opacus") == "opacus"
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    assert gradients.chosen(net, "auto") == "opacus"
    assert gradients.chosen(net, "loop") == "loop"
    assert isinstance(gradients.build(net, "opacus", 8), HookSums)
    assert isinstance(gradients.build(net, "loop", 8), LoopSums)


def test_methods_agree_on_a_vision_transformer() -> None:
    import timm

    net = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=8,
        embed_dim=8,
        depth=2,
        num_heads=2,
        in_chans=1,
        num_classes=1,
    )
    batch = batch_of([2, 3])
    batch = batch._replace(image=torch.randn(5, 1, 16, 16))

    def losses(piece: CropBatch) -> Tensor:
        logits = net(piece.image).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits, piece.malignant.float(), reduction="none")

    for trainable in ("last_blocks", "norm_bias", "head"):
        select_trainable(net, trainable)
        net.train()
        params = [p for p in net.parameters() if p.requires_grad]
        found = []
        for kind in METHODS:
            sums = [torch.zeros_like(p) for p in params]
            method = kind(net, 64)
            method.accumulate(losses, batch, sums, 0.3)
            if isinstance(method, HookSums):
                method.close()
            found.append(flat(sums))
        assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
