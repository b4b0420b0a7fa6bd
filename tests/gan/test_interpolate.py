# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gan.checkpoint import TrainedGenerator, draw
from gan.conditions import ConditionError
from gan.generate import GenerationError
from gan.interpolate import interpolate, slerp
from gan.module import MCGAN
from tests.gan.checkpoints import save

ROWS, COLUMNS, SIZE = 2, 4, 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = MCGAN(image_size=SIZE, channels=2, latent=8, conditions=["view"])
    return save(tmp_path_factory.mktemp("mcgan") / "last.ckpt", net)


def cells(path: Path) -> np.ndarray[Any, Any]:
    """Crops of a sheet: shape (rows, columns, SIZE, SIZE)."""
    with Image.open(path) as image:
        grey = np.array(image).astype(int)
    return grey.reshape(-1, SIZE, COLUMNS, SIZE).transpose(0, 2, 1, 3)


@pytest.fixture(scope="module")
def sheets(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("sheets")
    interpolate(str(checkpoint), str(out), rows=ROWS, columns=COLUMNS, seed=3)
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.png",
        "latents.png",
        "truncation.png",
    ]
    return {path.stem: cells(path) for path in out.iterdir()}


def crop(checkpoint: Path, latent: Tensor, noise: Tensor, condition: list[float]) -> Any:  # noqa: ANN401
    net = TrainedGenerator.read(checkpoint).net
    made = net(latent[None], noise[None], torch.tensor([condition]))[0, 0]
    return ((made + 1) * 127.5).round().numpy()


def test_rows_of_latents_begin_and_end_at_drawn_crops(
    checkpoint: Path, sheets: dict[str, Any]
) -> None:
    net = TrainedGenerator.read(checkpoint).net
    assert sheets["latents"].shape == (2 * ROWS, COLUMNS, SIZE, SIZE)
    for row in range(2 * ROWS):
        number, malignant = row % ROWS, row // ROWS
        (start, noise), (end, _) = draw(net, number, 3), draw(net, ROWS + number, 3)
        asked = [1.0 - malignant, float(malignant), 0, 0, 0]
        for column, latent in ((0, start), (-1, end)):
            expected = crop(checkpoint, latent, noise, asked)
            assert np.abs(sheets["latents"][row, column] - expected).max() <= 1


def test_rows_of_classes_go_from_benign_to_malignant_with_one_latent(
    checkpoint: Path, sheets: dict[str, Any]
) -> None:
    net = TrainedGenerator.read(checkpoint).net
    assert sheets["classes"].shape == (ROWS, COLUMNS, SIZE, SIZE)
    for row in range(ROWS):
        latent, noise = draw(net, row, 3)
        for column, share in enumerate(torch.linspace(0, 1, COLUMNS).tolist()):
            expected = crop(checkpoint, latent, noise, [1 - share, share, 0, 0, 0])
            assert np.abs(sheets["classes"][row, column] - expected).max() <= 1


def test_rows_of_truncation_end_at_the_whole_latent(
    checkpoint: Path, sheets: dict[str, Any]
) -> None:
    net = TrainedGenerator.read(checkpoint).net
    assert sheets["truncation"].shape == (2 * ROWS, COLUMNS, SIZE, SIZE)
    for row in range(2 * ROWS):
        latent, noise = draw(net, row % ROWS, 3)
        asked = [1.0 - row // ROWS, float(row // ROWS), 0, 0, 0]
        for column in range(COLUMNS):
            shorter = latent * (column + 1) / COLUMNS
            expected = crop(checkpoint, shorter, noise, asked)
            assert np.abs(sheets["truncation"][row, column] - expected).max() <= 1


def test_attributes_and_guidance_change_the_sheets(
    checkpoint: Path, sheets: dict[str, Any], tmp_path: Path
) -> None:
    for name, settings in {"a": {"attributes": {"view": "CC"}}, "g": {"guidance": 3.0}}.items():
        out = str(tmp_path / name)
        interpolate(str(checkpoint), out, rows=ROWS, columns=COLUMNS, seed=3, **settings)  # type: ignore[arg-type]
        assert (cells(tmp_path / name / "latents.png") != sheets["latents"]).any()


def test_slerp_stays_on_the_sphere_and_turns_evenly() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.nn.functional.normalize(torch.randn(5, 9, generator=rng)) for _ in range(2))
    whole = (one * other).sum(1).arccos()
    for share in (0.0, 0.25, 0.5, 1.0):
        between = slerp(3 * one, 3 * other, share)
        assert torch.allclose(between.norm(dim=1), torch.full((5,), 3.0), atol=1e-5)
        turned = ((between / 3) * one).sum(1).clamp(-1, 1).arccos()
        assert torch.allclose(turned, share * whole, atol=2e-3)
    straight = torch.lerp(3 * one, 3 * other, 0.5)
    assert (straight.norm(dim=1) < 2.9).all()


def test_slerp_changes_length_evenly_and_bears_parallel_vectors() -> None:
    one = torch.tensor([[1.0, 0.0]])
    quarter = slerp(one, torch.tensor([[0.0, 3.0]]), 0.5)
    assert torch.allclose(quarter, torch.tensor([[math.sqrt(2), math.sqrt(2)]]))
    assert torch.allclose(slerp(one, 3 * one, 0.5), 2 * one)
    assert torch.isfinite(slerp(one, -one, 0.5)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"columns": 1}, "columns=1"),
        ({"seed": -1}, "seed=-1"),
        ({"guidance": -1.0}, r"guidance=-1.0"),
        ({"attributes": {"margin": "SPICULATED"}}, "cannot be asked for"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((GenerationError, ConditionError), match=message):
        interpolate(str(checkpoint), str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()
