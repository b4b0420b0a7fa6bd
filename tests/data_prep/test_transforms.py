# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.transforms import Augmentation, pipeline


@pytest.fixture
def grey() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((32, 32, 1), dtype=np.float32)


def symmetries(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    turned = [np.rot90(image, k) for k in range(4)]
    return turned + [t.transpose(1, 0, 2) for t in turned]


def test_none_returns_the_image(grey: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(pipeline("none", 32)(image=grey)["image"], grey)


def test_none_shrinks_by_area_averaging(grey: NDArray[np.float32]) -> None:
    small = pipeline("none", 8)(image=grey)["image"]
    means = grey.reshape(8, 4, 8, 4).mean((1, 3))
    np.testing.assert_allclose(small[..., 0], means, atol=1e-6)


def test_gan_only_turns_and_flips(grey: NDArray[np.float32]) -> None:
    augment = pipeline("gan", 32, seed=0)
    seen = {
        [np.array_equal(image, s) for s in symmetries(grey)].index(True)
        for image in (augment(image=grey)["image"] for _ in range(80))
    }
    assert seen == set(range(8))


def test_light_keeps_shape_type_and_mean_level(grey: NDArray[np.float32]) -> None:
    augment = pipeline("light", 16, seed=0)
    images = [augment(image=0.25 + grey / 2)["image"] for _ in range(200)]
    assert all(i.shape == (16, 16, 1) and i.dtype == np.float32 for i in images)
    assert abs(np.mean(images) - np.mean(0.25 + grey / 2)) < 0.02


@pytest.mark.parametrize("kind", ["light", "gan"])
def test_a_seed_repeats_the_choices_and_another_does_not(
    grey: NDArray[np.float32], kind: Augmentation
) -> None:
    def images(seed: int) -> NDArray[np.float32]:
        augment = pipeline(kind, 32, seed=seed)
        return np.stack([augment(image=grey)["image"] for _ in range(8)])

    np.testing.assert_array_equal(images(3), images(3))
    assert not np.array_equal(images(3), images(4))


def test_unknown_kind_and_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind='heavy'.*none, light, gan"):
        pipeline("heavy", 32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_size=0"):
        pipeline("none", 0)


def test_import_does_not_ask_the_network() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit('network')\n"
        "socket.socket.connect = refuse\n"
        "import data_prep.distortions, data_prep.transforms\n"
    )
    # this process has set the variable, which a new one must do by itself
    bare = {name: value for name, value in os.environ.items() if "ALBUMENTATIONS" not in name}
    assert subprocess.run([sys.executable, "-c", code], env=bare, check=False).returncode == 0
