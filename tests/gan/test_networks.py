# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.discriminator import Discriminator, detail
from gan.generator import Generator, GrowingBlock, blur, coarser, widths


def spectrum_peaks(crops: Tensor) -> NDArray[np.float64]:
    """Mean power at the frequencies of upsampling grids, over the median of its neighbourhood.

    Frequencies 1/2 and 1/4 cycles per pixel, along both axes and on the diagonal; neighbours are
    two to four bins away. A Hann window keeps the crop's border out.
    """
    edge = crops.shape[-1]
    window = np.hanning(edge)[:, None] * np.hanning(edge)
    centred = crops[:, 0].double().numpy()
    centred = centred - centred.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred * window)) ** 2).mean(axis=0)
    dy, dx = np.mgrid[-4:5, -4:5]
    ring = np.maximum(abs(dy), abs(dx)) >= 2
    peaks = []
    for bin_ in (edge // 2, edge // 4):
        for v, u in ((bin_, 0), (0, bin_), (bin_, bin_)):
            on_axis = ring & (((v > 0) | (dy == 0)) & ((u > 0) | (dx == 0)))
            around = power[(v + dy[on_axis]) % edge, (u + dx[on_axis]) % edge]
            peaks.append(power[v, u] / np.median(around))
    return np.array(peaks)


def asked(*labels: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(labels), 2).float()


@torch.no_grad()
def generated(net: Generator, count: int = 48) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(count, net.latent, generator=rng)
    noise = torch.randn(count, 1, net.image_size, net.image_size, generator=rng)
    crops: Tensor = net(latents, noise, asked(*(number % 2 for number in range(count))))
    return crops


@pytest.mark.parametrize("image_size", [16, 32, 64, 128])
def test_crops_have_the_size_and_range(image_size: int) -> None:
    net = Generator(image_size, channels=2, latent=7)
    crops = generated(net, 3)
    assert crops.shape == (3, 1, image_size, image_size)
    assert crops.abs().max() < 1
    logits = Discriminator(image_size, channels=2)(crops, asked(0, 1, 1))
    assert logits.shape == (3,)


def test_width_doubles_with_each_halving_and_is_capped() -> None:
    assert widths(32, 8) == [64, 32, 16, 8]
    assert widths(128, 32) == [512, 512, 256, 128, 64, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 96}, "image_size=96. Give a power of two"),
        ({"image_size": 8}, "image_size=8. Give a power of two"),
        ({"channels": 12}, "channels=12. Give a multiple of 8"),
        ({"channels": 7}, "channels=7. Give a multiple of 8, or for tiny networks a power of two"),
        ({"channels": 0}, "channels=0. Give a multiple of 8"),
        ({"latent": 0}, "latent=0. Give 1 or more"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generator(**arguments)


def test_condition_latent_and_noise_change_the_crop() -> None:
    net = Generator(16, channels=2, latent=8)
    latent, noise, benign = torch.randn(1, 8), torch.randn(1, 1, 16, 16), asked(0)
    crop = net(latent, noise, benign)
    for other in (
        net(latent, noise, 1 - benign),
        net(-latent, noise, benign),
        net(latent, -noise, benign),
    ):
        assert (crop - other).abs().max() > 1e-3


@pytest.mark.parametrize("separability", [0.6, 0.85, 0.99])
def test_no_classifier_tells_blurred_classes_apart_better_than_asked(separability: float) -> None:
    signal, noise = blur(separability)
    assert signal**2 + noise**2 == pytest.approx(1)
    rng = np.random.default_rng(0)
    benign, malignant = (sign * signal + noise * rng.standard_normal(4000) for sign in (-1, 1))
    wins = (malignant[:, None] > benign).mean()
    assert wins == pytest.approx(separability, abs=0.02)  # standard error below .006


def test_a_blurred_class_reaches_crops_through_one_number_alone() -> None:
    net = Generator(16, channels=4, latent=8, separability=0.85)
    latents, noise = torch.randn(6, 8), torch.randn(6, 1, 16, 16)
    benign, malignant = asked(*6 * [0]), asked(*6 * [1])
    moved = latents.clone()
    moved[:, 0] += 2 * net.signal / net.blur  # what a benign crop lacks
    crops = net(latents, noise, malignant)
    torch.testing.assert_close(net(moved, noise, benign), crops)
    assert not torch.allclose(net(latents, noise, benign), crops, atol=1e-3)
    outright = Generator(16, channels=4, latent=8)
    outright.load_state_dict(net.state_dict())
    assert not torch.allclose(outright(moved, noise, benign), crops, atol=1e-3)


def test_coarser_noise_stays_white_with_equal_variance() -> None:
    noise = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    small = coarser(noise, 4)
    assert small.shape == (200, 1, 4, 4)
    assert small.var().item() == pytest.approx(1, abs=0.1)  # 3200 draws: standard error 0.025
    neighbours = (small[..., 1:] * small[..., :-1]).mean().item()
    assert neighbours == pytest.approx(0, abs=0.1)


def test_detail_is_what_a_5_by_5_mean_takes_away() -> None:
    image = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    assert detail(image)[1, 0, 4, 5] == pytest.approx(
        image[1, 0, 4, 5] - image[1, 0, 2:7, 3:8].mean()
    )
    assert detail(image)[1, 0, 0, 0] == pytest.approx(
        image[1, 0, 0, 0] - image[1, 0, :3, :3].mean()
    )


def test_rows_of_a_batch_do_not_mix() -> None:
    generator = Generator(16, channels=4, latent=8).eval()
    discriminator = Discriminator(16, channels=4).eval()
    labels = asked(0, 1, 1, 0, 1)
    inputs = torch.randn(5, 8), torch.randn(5, 1, 16, 16), labels
    together = generator(*inputs)
    alone = torch.cat([generator(*(x[i : i + 1] for x in inputs)) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)
    judged = discriminator(together, labels)
    alone = torch.cat([discriminator(together[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(judged, alone, atol=1e-5)


@pytest.mark.parametrize("net", [Generator(16, 2, 8), Discriminator(16, 2)])
def test_nothing_mixes_rows_or_works_in_place(net: nn.Module) -> None:
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())
    assert not any(getattr(part, "inplace", False) for part in net.modules())


def test_spectral_norm_bounds_each_layer() -> None:
    net = Discriminator(16, channels=4)
    for _ in range(30):  # one power iteration each
        net(torch.randn(2, 1, 16, 16), asked(0, 1))
    layers = [part for part in net.modules() if hasattr(part, "parametrizations")]
    assert len(layers) == 4  # two convolutions, logit and projection
    for layer in layers:
        weight: Tensor = layer.weight.detach().flatten(1)  # type: ignore[operator]
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.05)


class TransposedBlock(GrowingBlock):
    """What the reference does: a transposed convolution of kernel 4 and stride 2."""

    def __init__(self, wide: int, narrow: int, condition: int) -> None:
        super().__init__(wide, narrow, condition)
        self.transposed = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)

    def forward(self, features: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.norm(self.transposed(features), condition), 0.2)


def test_upsampling_leaves_no_grid_and_transposed_convolutions_would() -> None:
    torch.manual_seed(0)
    ours, theirs = [], []
    for _ in range(3):
        net = Generator(64, channels=8, latent=16)
        ours.append(spectrum_peaks(generated(net, 24)))
        for i, width in enumerate(zip([128, 64, 32, 16], [64, 32, 16, 8], strict=True)):
            net.blocks[i] = TransposedBlock(*width, 16)
        theirs.append(spectrum_peaks(generated(net, 24)))
    assert np.mean(ours, axis=0).max() < 2
    assert np.mean(theirs, axis=0).max() > 4
