import numpy as np
import pytest
import torch

from data_prep.symmetries import SYMMETRIES, symmetric

IMAGES = np.random.default_rng(0).random((3, 5, 5))


def test_symmetries_are_all_turns_of_the_images_and_of_their_mirror_images() -> None:
    found = {symmetric(IMAGES, number).tobytes() for number in range(SYMMETRIES)}
    turns = {
        np.rot90(images, k, (1, 2)).tobytes()
        for images in (IMAGES, IMAGES[..., ::-1])
        for k in range(4)
    }
    assert len(found) == SYMMETRIES
    assert found == turns
    assert np.array_equal(symmetric(IMAGES, 0), IMAGES)


@pytest.mark.parametrize("number", range(SYMMETRIES))
def test_tensors_are_turned_like_arrays(number: int) -> None:
    turned = symmetric(torch.from_numpy(IMAGES), number)
    assert np.array_equal(turned.numpy(), symmetric(IMAGES, number))


def test_what_has_no_such_symmetry_is_refused() -> None:
    for number in (-1, SYMMETRIES):
        with pytest.raises(ValueError, match=rf"number={number}.* from 0 to 7"):
            symmetric(IMAGES, number)
    with pytest.raises(ValueError, match="square images"):
        symmetric(IMAGES[:, :4], 0)
