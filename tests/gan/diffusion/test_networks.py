# SPDX-License-Identifier: Apache-2.0
import math
import sys

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import nn

from gan.conditions import Conditions
from gan.diffusion import networks
from gan.diffusion.networks import (
    Autoencoder,
    Sampler,
    Spectrum,
    Tokens,
    attention_parameters,
    linear_parameters,
    norm_bias_parameters,
)
from gan.diffusion.settings import CodecSettings, DiffusionError, DiffusionSettings
from tests.gan.diffusion.tiny import NETS, SHAPES, diffusion, shaken

SETTINGS = {name: value for name, value in NETS.items() if name != "sample_steps"}


@pytest.mark.parametrize("dims", [2, 3])
def test_codes_and_samples_have_the_shapes_that_settings_say(dims: int) -> None:
    settings = DiffusionSettings(**SETTINGS | SHAPES[dims])
    sampler = Sampler(settings, steps=2)
    shaken(sampler)
    image = torch.randn(2, *settings.image_shape)
    code = sampler.codec.encode(image)
    assert code.shape == (2, *settings.latent_shape)
    assert sampler.codec.decode(code).shape == image.shape
    condition = settings.attributes.of_classes(torch.tensor([0, 1]))
    noise = torch.randn(1, settings.latent_size).expand(2, -1)
    with torch.no_grad():
        crops = sampler(noise, torch.zeros(0), condition)
        again = sampler(noise, torch.ones(0), condition)
    assert crops.shape == image.shape
    assert crops.abs().max() <= 1
    assert torch.equal(crops, again)
    assert not torch.allclose(crops[0], crops[1])  # one latent vector, two classes


@pytest.mark.parametrize("dims", [2, 3])
def test_a_crop_is_drawn_as_if_it_were_alone(dims: int) -> None:
    model = diffusion(**SHAPES[dims])
    latent = torch.randn(3, model.settings.latent_size)
    condition = model.conditions.of_classes(torch.tensor([0, 1, 1]))
    with torch.no_grad():
        together = model(latent, condition)
        alone = model(latent[1:2], condition[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_scale_of_codes_is_taken_out_and_put_back() -> None:
    autoencoder = Autoencoder(CodecSettings(image_size=8, encoder_channels=(4, 8)))
    image = torch.randn(2, 1, 8, 8)
    raw, _ = autoencoder.distribution(image)
    plain = autoencoder.decode(autoencoder.encode(image))
    autoencoder.mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None])
    autoencoder.deviation.fill_(0.5)
    scaled = autoencoder.encode(image)
    assert torch.allclose(scaled[:, 2], (raw[:, 2] - 3) / 0.5)
    assert torch.allclose(autoencoder.decode(scaled), plain, atol=1e-5)


@pytest.mark.parametrize(("dims", "block"), [(2, 4), (2, 3), (3, 2)])
def test_a_spectrum_whitens_and_loses_the_finest_frequency_alone(dims: int, block: int) -> None:
    depth = 4 if dims == 3 else None
    settings = CodecSettings(spatial_dims=dims, depth=depth, image_size=12, block=block)
    codec = Spectrum(settings)
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2000, *settings.image_shape, generator=rng) - 0.5
    image = (image + image.roll(1, -1) + image.roll(1, -2)) / 2  # neighbours are alike
    spot = torch.rand(2000, *[1] * (dims + 1), generator=rng)
    image[..., 3:6, 4:7] += 2 * spot  # coarse frequencies are alike, too
    codec.set_scale(codec.raw(image))
    code = codec.encode(image)
    assert code.shape == (2000, *settings.latent_shape)
    waves = torch.from_numpy(dctn(image[:, 0].numpy(), axes=range(1, dims + 1), norm="ortho"))
    waves.flatten(1)[:, -1] = 0
    kept = idctn(waves.numpy(), axes=range(1, dims + 1), norm="ortho")
    back = codec.decode_raw(codec.unpack(code) * codec.deviation + codec.mean)
    assert np.allclose(back[:, 0].numpy(), kept, atol=1e-4)
    before, after = (torch.corrcoef(x.flatten(1).T) for x in (image, code))
    apart = ~torch.eye(len(after), dtype=torch.bool)
    assert before[apart].abs().max() > 0.4
    assert after[apart].abs().max() < before[apart].abs().max() / 2  # covariance is shrunk
    assert code.std() == pytest.approx(1, abs=0.1)


def test_of_many_frequencies_the_coarsest_are_made_uncorrelated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "COUPLED", 6)
    codec = Spectrum(CodecSettings(image_size=16))
    pairs = [(i, j) for i in range(16) for j in range(16)]
    coarsest = sorted(pairs, key=lambda pair: math.hypot(*pair))[:6]
    assert sorted(divmod(int(k), 16) for k in codec.coarse) == sorted(coarsest)
    image = torch.randn(500, 1, 16, 16) + torch.randn(500, 1, 1, 1) * torch.ones(16, 16).triu()
    codec.set_scale(codec.raw(image))
    plain = (codec.raw(image) - codec.mean) / codec.deviation
    waves = codec.transform(torch.nn.functional.pixel_shuffle(codec.encode(image), codec.block))
    moved = (waves - plain).abs().amax(0)[0] > 1e-3
    assert sorted(map(tuple, moved.nonzero().tolist())) == sorted(coarsest)
    back = codec.decode_raw(codec.unpack(codec.encode(image)) * codec.deviation + codec.mean)
    waves = codec.transform(image - back)
    waves[:, 0, -1, -1] = 0
    assert waves.abs().max() < 1e-4


@pytest.mark.parametrize("contrast", [0.0, 0.5, 2.0])
def test_a_spectrum_divides_fine_frequencies_by_contrast(contrast: float) -> None:
    codec = Spectrum(CodecSettings(image_size=16))
    image = torch.randn(1, 1, 16, 16)
    raw, scaled = codec.raw(image)[0, 0], codec.raw(contrast * image)[0, 0]
    waves = dctn(image[0, 0].numpy(), norm="ortho")
    total, count = 0.0, 0
    for i in range(16):
        for j in range(16):
            if (frequency := math.hypot(i, j) / 16) >= 0.25:
                total += float((waves[i, j] * (32 * frequency) ** 1.5) ** 2)
                count += 1
    level = math.sqrt(total / count)
    assert float(raw[-1, -1]) == pytest.approx(math.log(level + 0.2), rel=1e-4)
    assert float(scaled[-1, -1]) == pytest.approx(math.log(contrast * level + 0.2), rel=1e-4)
    assert float(scaled[0, 0]) == pytest.approx(contrast * float(raw[0, 0]), abs=1e-5)
    fine = contrast * waves[9, 3] / (contrast * level + 0.2)
    assert float(scaled[9, 3]) == pytest.approx(fine, abs=1e-5)


def test_the_linear_part_is_that_of_a_gaussian() -> None:
    """The expected velocity, from the joint covariance of a code and its noise."""
    model = diffusion(conditions=["view"])
    net, mean = model.net, torch.tensor([1e-3, -2e-3])
    change = torch.tensor([[3e-3, 1e-3], [1e-3, -2e-3]])
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.mean_code.weight[:, 1] = mean  # of malignant crops
        net.correlation.weight.copy_(change)
    one, none = torch.eye(2), torch.zeros(2, 2)
    code_share, noise_share = math.cos(0.2 * math.pi), math.sin(0.2 * math.pi)  # at time .4
    joint = torch.cat([torch.cat([one + change, none], 1), torch.cat([none, one], 1)])
    seen = torch.cat([code_share * one, noise_share * one], 1)
    asked = torch.cat([-noise_share * one, code_share * one], 1)
    gain = asked @ joint @ seen.T @ torch.linalg.inv(seen @ joint @ seen.T)
    place = torch.tensor([1.5, 2.0])
    expected = gain @ (place - code_share * mean) - noise_share * mean
    codes = place[None, :, None, None].expand(1, *model.settings.latent_shape)
    with torch.no_grad():
        found = net(codes, torch.tensor([0.4]), model.conditions.of_classes(torch.tensor([1])))
    assert torch.allclose(found[0, :, 2, 3], expected, rtol=1e-2, atol=0)
    assert len(linear_parameters(net)) == 2


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_of_pixels_become_channels(dims: int) -> None:
    settings = CodecSettings(
        spatial_dims=dims, depth=4 if dims == 3 else None, image_size=8, block=2
    )
    codec = Spectrum(settings)
    image = torch.randn(2, *settings.image_shape)
    code = codec.pack(codec.transform(image))  # no correlations yet: the pixels themselves
    place, inside = (1, 2, 3)[:dims], (1, 0, 1)[:dims]
    pixel = tuple(2 * p + i for p, i in zip(place, inside, strict=True))
    channel = int("".join(map(str, inside)), 2)
    assert float(code[(1, channel, *place)]) == pytest.approx(
        float(image[(1, 0, *pixel)]), abs=1e-5
    )


def test_a_missing_attribute_has_a_token_of_its_own() -> None:
    conditions = Conditions(("view",))
    tokens = Tokens(conditions, 3)
    known = conditions.vector(malignant=True, attributes={"view": "MLO"})[None]
    missing = conditions.vector(malignant=True, attributes={})[None]
    first, second = tokens(known)[0], tokens(missing)[0]
    assert first.shape == (2, 3)
    _, weight = tokens.parameters()
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], weight[:, 1])
    assert torch.equal(second[1], weight[:, -1])


@pytest.mark.parametrize("dims", [2, 3])
def test_parts_that_may_train_are_those_of_their_types(dims: int) -> None:
    from monai.networks.blocks.crossattention import CrossAttentionBlock
    from monai.networks.blocks.selfattention import SABlock
    from monai.networks.nets.diffusion_model_unet import SpatialTransformer

    net = diffusion(**SHAPES[dims]).net
    expected: set[int] = set()
    norms: set[int] = set()
    for module in net.modules():
        if isinstance(module, SABlock | CrossAttentionBlock):
            expected |= {id(p) for p in module.parameters()}
        if isinstance(module, nn.LayerNorm):
            norms |= {id(p) for p in module.parameters()}
        if isinstance(module, nn.GroupNorm):
            norms |= {id(p) for p in module.parameters()}
    transformers = [module for module in net.modules() if isinstance(module, SpatialTransformer)]
    passing = {id(p) for module in transformers for p in module.proj_out.parameters()}
    assert len(passing) == 2 * len(transformers) > 0
    inside = {id(p) for p in attention_parameters(net)}
    assert passing < inside
    inside -= passing
    assert expected < inside
    assert inside - expected < norms
    assert len(inside - expected) == len(expected) // 10 * 4  # two norms to two attentions of five
    biases = {id(p) for name, p in net.named_parameters() if name.endswith("bias")}
    assert {id(p) for p in norm_bias_parameters(net)} == norms | biases


@pytest.mark.parametrize("missing", ["monai.networks", "einops"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DiffusionError, match=r'not installed. Run `pip install -e ".\[diffusion\]'):
        diffusion()
