import pytest
import torch

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.units import (
    Clip,
    add_clipped_rows,
    unit_sizes,
    whole_units,
)
from tests.privacy.training.gradients.nets import batch_of


def test_rows_of_a_unit_must_be_adjacent() -> None:
    batch = batch_of([1, 1, 1])._replace(unit=torch.tensor([0, 1, 0]))
    with pytest.raises(PrivacyError, match="apart"):
        unit_sizes(batch)


def test_pieces_are_whole_units_up_to_the_limit() -> None:
    def lengths(sizes: list[int], limit: int, views: int = 1) -> list[int]:
        pieces = list(whole_units(batch_of(sizes, views), limit))
        assert [size for _, found in pieces for size in found] == sizes
        assert all(len(piece.row) == sum(found) for piece, found in pieces)
        return [len(piece.row) for piece, _ in pieces]

    assert lengths([2, 2, 2, 5, 1], 4) == [4, 2, 5, 1]
    assert lengths([2, 2, 2, 5, 1], 100) == [12]
    assert lengths([2, 2], 6, views=2) == [2, 2]
    assert lengths([], 4) == []


@pytest.mark.parametrize("norm", [0.01, 1.0, 50.0])
def test_no_scaled_gradient_is_longer_than_the_clipping_norm(norm: float) -> None:
    norms = torch.tensor([0.0, 1e-9, 0.3, 1.0, 7.0, 1e20], dtype=torch.float64)
    for clip in (Clip(norm=norm), Clip(norm=norm, rule="automatic")):
        assert (clip.factors(norms) * norms <= norm * (1 + 1e-12)).all()
    assert Clip(norm=norm).factors(norms)[0] == 1


def test_rows_that_are_no_samples_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"6 rows for 2 samples.*gradient_method: loop"):
        add_clipped_rows([(torch.ones(6, 3), torch.zeros(3))], [1, 1], 1, Clip(norm=1.0))
