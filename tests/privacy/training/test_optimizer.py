import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.optimizer import PrivateOptimizer


def optimizer(layer: nn.Module, *, key: int = 5, noise: float = 3.0) -> PrivateOptimizer:
    steps = iter(range(1000))
    return PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0),
        noise_multiplier=noise,
        clipping_norm=0.5,
        expected_units=4.0,
        key=key,
        account=lambda: next(steps),
    )


def step(private: PrivateOptimizer, value: float = 0.0) -> torch.Tensor:
    """Change of the weights after sums that are all equal."""
    before = [p.detach().clone() for p in private.params]
    private.take({p: torch.full_like(p, value) for p in private.params})
    private.step()
    private.zero_grad(set_to_none=True)
    changes = [(p - b).flatten() for p, b in zip(private.params, before, strict=True)]
    return torch.cat(changes).detach()


def test_noise_has_the_stated_scale_and_no_other() -> None:
    change = step(optimizer(nn.Linear(100, 100))).numpy()
    scale = 3.0 * 0.5 / 4.0
    assert kstest(change / scale, "norm").pvalue > 1e-3
    assert kstest(change / (1.2 * scale), "norm").pvalue < 1e-3
    assert kstest(change / (0.8 * scale), "norm").pvalue < 1e-3


def test_sums_are_divided_by_the_expected_number_of_units() -> None:
    change = step(optimizer(nn.Linear(10, 10), noise=1e-9), value=8.0)
    assert torch.allclose(change, torch.full_like(change, -2.0))


def test_a_public_gradient_is_added_once_as_it_is() -> None:
    layer = nn.Linear(10, 10)
    private, public = optimizer(layer, noise=1e-9), torch.randn(10, 10)
    weight, _ = layer.parameters()
    start = weight.detach().clone()
    private.take({p: torch.full_like(p, 8.0) for p in private.params}, {weight: public})
    private.step()
    assert torch.allclose(start - weight, 2.0 + public, atol=1e-5)
    assert torch.allclose(step(private, value=8.0), torch.tensor(-2.0))


def test_noise_of_steps_and_parameters_is_unrelated() -> None:
    private = optimizer(nn.Linear(1000, 2))
    first, second = step(private).numpy(), step(private).numpy()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert abs(np.corrcoef(first[:1000], first[1000:2000])[0, 1]) < 0.15


def test_a_key_fixes_the_noise_and_all_its_bits_count() -> None:
    def noise(key: int) -> list[float]:
        torch.manual_seed(0)
        return step(optimizer(nn.Linear(3, 1), key=key)).tolist()

    assert noise(5) == noise(5)
    assert noise(5) != noise(5 + 2**32)
    assert noise(5) != noise(5 + 2**96)
    assert noise(5) != noise(5 + 2**200)


def test_the_number_of_threads_does_not_change_the_noise() -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            layers = nn.Sequential(nn.Linear(300, 300), nn.Linear(3, 1), nn.Linear(200, 300))
            found.append(step(optimizer(layers)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_sums_of_any_memory_layout_get_their_noise() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    plain = step(optimizer(layer), value=1.0)
    torch.manual_seed(0)
    last = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(step(optimizer(last), value=1.0), plain)


def test_a_step_needs_fresh_sums() -> None:
    private = optimizer(nn.Linear(2, 1))
    with pytest.raises(PrivacyError, match="no sums for this step"):
        private.step()
    step(private)
    with pytest.raises(PrivacyError, match="no sums for this step"):
        private.step()


def test_sums_must_cover_every_trainable_parameter() -> None:
    layer = nn.Linear(2, 1)
    private = optimizer(layer)
    with pytest.raises(PrivacyError, match="sums of 1 parameters for 2"):
        private.take({private.params[0]: torch.zeros(1, 2)})
