from dataclasses import replace
from pathlib import Path

import pytest

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.ladder.cells import Cell
from mammo_dp.attacks.ladder.measurements import list_cells
from mammo_dp.attacks.reconstruction.lists import canary_lists, write_candidates
from mammo_dp.privacy.accounting.account import Mechanism, compose

STATED = Mechanism(noise_multiplier=3.0, sampling_rate=0.5, steps=30)
DELTA = 1e-3
EPSILON = compose([STATED]).epsilon(DELTA)


def cells_of(folder: Path, ran: Mechanism, canaries: int = 400) -> list[Cell]:
    for name, seed in (("heads", 1), ("canaries", 2)):
        found = canary_lists(ran, targets=canaries, candidates=3, key=seed)
        write_candidates(folder / f"{name}.npz", found)
    return list_cells(
        STATED,
        epsilon=EPSILON,
        delta=DELTA,
        heads=folder / "heads.npz",
        canaries=folder / "canaries.npz",
        budgets=8,
    )


def test_the_noise_that_is_stated_meets_its_bound_and_refutes_nothing(tmp_path: Path) -> None:
    named, recognised, audited = cells_of(tmp_path, STATED)
    assert not any(cell.exceeds for cell in (named, recognised, audited))
    assert recognised.bound is not None
    assert recognised.low <= recognised.bound <= recognised.high
    assert named.bound is not None
    assert named.blind == pytest.approx(1 / 3)
    assert 1 / 3 < named.value < named.bound
    assert 0 < audited.value < EPSILON


def test_a_third_of_the_noise_is_found_by_the_same_scoring(tmp_path: Path) -> None:
    _, recognised, audited = cells_of(tmp_path, replace(STATED, noise_multiplier=1.0))
    assert recognised.exceeds
    assert audited.exceeds
    assert audited.value > EPSILON


def test_a_run_without_signals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="holds no signals"):
        list_cells(
            STATED,
            epsilon=EPSILON,
            delta=DELTA,
            heads=tmp_path / "none.npz",
            canaries=tmp_path / "none.npz",
            budgets=1,
        )
