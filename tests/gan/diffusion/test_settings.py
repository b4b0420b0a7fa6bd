# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from gan.diffusion.settings import CodecSettings, DiffusionError, DiffusionSettings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spatial_dims": 4}, r"spatial_dims=4. Give 2 or 3"),
        ({"spatial_dims": 3}, r"depth=None, spatial_dims=3. Give a depth"),
        ({"depth": 16}, r"depth=16, spatial_dims=2. Give a depth for volumes"),
        ({"image_size": 50}, r"image_size=50: .* multiple of 4, such as 48 or 52"),
        ({"image_size": 52}, r"image_size=52: .* multiple of 16, such as 48 or 64"),
        ({"image_size": 8}, r"image_size=8: .* multiple of 16, such as 16 or 32"),
        ({"spatial_dims": 3, "depth": 12}, r"depth=12: .* multiple of 16, such as 16 or 32"),
        ({"latent_channels": 0}, r"latent_channels=0, .* Give numbers of 1 or more"),
        ({"block": 1}, r"block=1. Give .* a block of 2 or more"),
        ({"encoder_channels": []}, r"encoder_channels=\[\]"),
        ({"attention_levels": [True]}, r"Give both one value for each level"),
        ({"attention_levels": [False] * 3}, r"no level attends"),
        ({"head_channels": 24}, r"head_channels a divisor"),
        ({"token_width": 0}, r"token_width=0"),
        ({"conditions": ["age"]}, r"conditions \['age'\] are unknown"),
    ],
)
def test_settings_that_fit_no_network_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DiffusionError, match=said):
        DiffusionSettings(**settings)


def test_an_autoencoder_alone_takes_edges_that_only_it_halves() -> None:
    channels = (8, 16, 32)
    assert CodecSettings(image_size=52, encoder_channels=channels).latent_shape == (4, 13, 13)
    with pytest.raises(DiffusionError, match="image_size=50"):
        CodecSettings(image_size=50, encoder_channels=channels)


def test_blocks_have_as_many_numbers_as_pixels() -> None:
    assert CodecSettings(image_size=52, block=2).latent_shape == (4, 26, 26)
    volume = CodecSettings(spatial_dims=3, depth=8, image_size=16, block=4)
    assert volume.latent_shape == (64, 2, 4, 4)
    with pytest.raises(DiffusionError, match=r"image_size=52: .* multiple of 8, such as 48 or 56"):
        CodecSettings(image_size=52, block=8)


def test_settings_are_found_among_others_or_named() -> None:
    known = {"spatial_dims": 2, "image_size": 32, "depth": None, "encoder_channels": [8, 8]}
    found = CodecSettings.of(known | {"latent_channels": 3, "seed": 1})
    assert found.latent_shape == (3, 16, 16)
    with pytest.raises(DiffusionError, match="settings without latent_channels"):
        CodecSettings.of(known)
