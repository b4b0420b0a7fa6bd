import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_dp.privacy.training.gradients.methods import Method, build
from mammo_dp.privacy.training.gradients.units import Clip, Clipping
from tests.privacy.training.gradients.nets import (
    ARCHITECTURES,
    SIZE,
    TRAINABLE,
    Net,
    batch_of,
    naive,
    summed,
    timm_net,
    without,
)

METHODS: tuple[Method, ...] = ("loop", "book_keeping", "opacus")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_sums_equal_a_plain_loop_over_patients(method: Method, views: int, clip: float) -> None:
    net, sizes = Net(), [2, 1, 4, 1]
    batch = batch_of(sizes, views)
    expected = naive(net, batch, sizes, clip)
    for limit in (1, 5, 1000):
        sums = build(net, method, limit)
        found = summed(sums, net, batch, clip)
        sums.close()
        assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_methods_equal_the_loop_on_transformers(name: str, trainable: str) -> None:
    net, sizes = timm_net(name, trainable), [2, 1, 3]  # type: ignore[arg-type]
    batch = batch_of(sizes, views=2, edge=SIZE)
    expected = naive(net.double(), batch._replace(image=batch.image.double()), sizes, 0.3)
    net.float()
    methods: tuple[Method, ...] = ("loop", "book_keeping")
    for method in methods:
        for limit in (2, 1000):
            found = summed(build(net, method, limit), net, batch, 0.3)
            assert float((found - expected).norm() / expected.norm()) < 2e-5, method


@pytest.mark.parametrize("trainable", ["last_blocks", "norm_bias", "lora", "head"])
def test_hooks_equal_the_loop_on_a_vision_transformer(trainable: str) -> None:
    net, sizes = timm_net("vit", trainable), [2, 1, 3]  # type: ignore[arg-type]
    batch = batch_of(sizes, edge=SIZE)
    expected = naive(net, batch, sizes, 0.3)
    found = summed(build(net, "opacus", 64), net, batch, 0.3)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    place=st.integers(0, 3),
    clip=st.sampled_from([1e-3, 0.1, 1.0]),
    rule=st.sampled_from(["flat", "automatic"]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
    half=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(
    method: Method,
    sizes: list[int],
    place: int,
    clip: float,
    rule: Clipping,
    scale: float,
    half: bool,
    seed: int,
) -> None:
    net = Net()
    sums = build(net, method, 4)
    batch = batch_of(sizes, seed=seed, scale=scale)
    others = without(batch, place % len(sizes))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        moved = summed(sums, net, batch, Clip(norm=clip, rule=rule))
        if len(others.row):
            moved = moved - summed(sums, net, others, Clip(norm=clip, rule=rule))
    # A bfloat16 forward pass rounds by batch, which moves others: see the test of one patient.
    assert float(moved.norm()) <= clip * (1 + (len(sizes) * 0.02 if half else 1e-5))
    sums.close()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("name", ["vit", "swin"])
@settings(derandomize=True, deadline=None, max_examples=4)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    clip=st.sampled_from([1e-2, 1.0]),
    scale=st.sampled_from([0.1, 30.0]),
    seed=st.integers(0, 1000),
)
def test_one_patient_moves_the_sum_of_a_transformer_by_at_most_the_clipping_norm(
    name: str,
    trainable: str,
    half: bool,
    sizes: list[int],
    clip: float,
    scale: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    net = timm_net(name, trainable)  # type: ignore[arg-type]
    batch = batch_of(sizes, seed=seed, scale=scale, edge=SIZE)
    methods: tuple[Method, ...] = ("loop", "book_keeping")
    for method in methods:
        sums = build(net, method, 1)  # each unit in a pass of its own: no rounding is shared
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            moved = summed(sums, net, batch, clip) - summed(sums, net, without(batch, 0), clip)
        assert float(moved.norm()) <= clip * (1 + 1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", ["flat", "automatic"])
def test_a_mixed_precision_forward_pass_keeps_the_clip(method: Method, rule: Clipping) -> None:
    net = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = summed(
            build(net, method, 64), net, batch_of([3], scale=1e4), Clip(norm=1e-3, rule=rule)
        )
    assert float(found.norm()) == pytest.approx(1e-3, rel=1e-6 if rule == "flat" else 0.1)
    assert float(found.norm()) <= 1e-3 * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_automatic_clipping_scales_by_the_paper(method: Method) -> None:
    net, sizes = Net(), [2, 1]
    batch = batch_of(sizes)
    sums = build(net, method, 64)
    expected = torch.zeros(0)
    for unit in (0, 1):
        alone = summed(sums, net, without(batch, 1 - unit), 1e9)
        part = alone * 0.5 / (alone.norm() + 0.01)
        expected = part if not len(expected) else expected + part
    found = summed(sums, net, batch, Clip(norm=0.5, rule="automatic"))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_unit_that_is_not_finite_adds_nothing(method: Method, poison: float) -> None:
    net, sizes = Net(), [2, 2, 1]
    sums = build(net, method, 64)
    batch = batch_of(sizes)
    clean = summed(sums, net, without(batch, 1), 0.1)
    batch.image[2, 0, 3, 3] = poison
    found = summed(sums, net, batch, 0.1)
    assert found.isfinite().all()
    assert torch.allclose(found, clean, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_poisoned_patient_adds_nothing_to_a_transformer(name: str) -> None:
    net = timm_net(name)
    sums = build(net, "book_keeping", 64)
    batch = batch_of([2, 3, 1], edge=SIZE)
    clean = summed(sums, net, without(batch, 1), 0.1)
    batch.image[3] = math.nan
    assert torch.allclose(summed(sums, net, batch, 0.1), clean, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_mean_over_views_is_inside_the_clip(method: Method) -> None:
    net = Net()
    sums = build(net, method, 1000)
    views = batch_of([1, 2], views=4)
    alike = views._replace(image=views.image[:, :1].expand(-1, 4, -1, -1, -1))
    single = views._replace(image=views.image[:, 0])
    for clip in (0.05, 100.0):
        expected = summed(sums, net, single, clip)
        assert torch.allclose(summed(sums, net, alike, clip), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_draw_adds_nothing(method: Method) -> None:
    net = Net()
    assert not summed(build(net, method, 64), net, batch_of([]), 1.0).any()


def test_hooks_leave_state_dict_and_evaluation_alone() -> None:
    net = Net()
    keys, method = list(net.state_dict()), build(net, "opacus", 64)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    assert not any(getattr(p, "grad_sample", None) is not None for p in net.parameters())
    net.zero_grad()
    summed(method, net, batch_of([2]), 1.0)
    assert all(p.grad is None for p in net.parameters())
    assert list(net.state_dict()) == keys
    method.close()
    build(net, "opacus", 64).close()  # can be put on again
