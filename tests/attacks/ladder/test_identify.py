from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mammo_dp.attacks.ladder import identify, stored
from mammo_dp.attacks.ladder.cells import Cell
from mammo_dp.attacks.reconstruction.canary_lists import canary_lists
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting import Mechanism, compose

STATED = Mechanism(noise_multiplier=3.0, sampling_rate=0.5, steps=30)
DELTA = 1e-3
EPSILON = compose([STATED]).epsilon(DELTA)


def cells_of(folder: Path, ran: Mechanism, canaries: int = 400) -> list[Cell]:
    for name, seed in (("heads", 1), ("canaries", 2)):
        found = canary_lists(ran, targets=canaries, candidates=3, key=seed)
        stored.save(
            folder / f"{name}.npz",
            targets=found.targets,
            lists=found.lists,
            outsiders=found.outsiders,
        )
    return identify.cells(
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
    assert named.blind < named.value < named.bound
    assert 0 < audited.value < EPSILON


def test_a_third_of_the_noise_is_found_by_the_same_scoring(tmp_path: Path) -> None:
    _, recognised, audited = cells_of(tmp_path, replace(STATED, noise_multiplier=1.0))
    assert recognised.exceeds
    assert audited.exceeds
    assert audited.value > EPSILON


def test_saved_signals_are_scored_and_not_drawn_again(tmp_path: Path) -> None:
    first = cells_of(tmp_path, STATED)
    before = (tmp_path / "canaries.npz").read_bytes()
    again = identify.cells(
        STATED,
        epsilon=EPSILON,
        delta=DELTA,
        heads=tmp_path / "heads.npz",
        canaries=tmp_path / "canaries.npz",
        budgets=8,
    )
    assert again == first
    assert (tmp_path / "canaries.npz").read_bytes() == before


def test_missing_signals_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="come from the fit"):
        stored.candidates(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(AttackError, match="holds no signals"):
        stored.observations(tmp_path / "broken.npz")
    assert np.isfinite(EPSILON)
