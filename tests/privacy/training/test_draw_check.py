from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from data_prep.datamodule import CropBatch, CropItem
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.datamodule import DPCropsDataModule, ViewedCrops
from mammo_dp.privacy.training.sampling import DrawCheck, PoissonSampling, PoissonUnitSampler
from tests.privacy.training.fits import data, model, quiet, trainer

pytestmark = quiet

SAMPLING = PoissonSampling(
    unit="patient", rows_of=((7, 2), (0,), (11, 4, 5), (1,), (9, 3), (6, 8)), rate=0.5
)
KEY = 5


def drawn(step: int = 0, rank: int = 0, world_size: int = 1) -> CropBatch:
    units = SAMPLING.sample(KEY, step)[rank::world_size].tolist()
    pairs = [(row, unit) for unit in units for row in SAMPLING.rows_of[unit]]
    rows, names = (torch.tensor([p[i] for p in pairs], dtype=torch.int64) for i in (0, 1))
    return CropBatch(torch.zeros(len(rows), 1), rows % 2, rows, 100 - names)


def check(**settings: Any) -> DrawCheck:
    return DrawCheck(SAMPLING, key=KEY, **settings)


def full_step() -> int:
    return next(step for step in range(50) if len(SAMPLING.sample(KEY, step)) >= 4)


def test_what_was_drawn_passes_in_any_order_and_under_any_names() -> None:
    rng = np.random.default_rng(0)
    for step in range(40):  # empty draws among them
        batch = drawn(step)
        check()(batch, step)
        order = torch.from_numpy(rng.permutation(len(batch.row)))
        check()(CropBatch(*(column[order] for column in batch)), step)
        check()(batch._replace(unit=batch.unit * 7 - 3), step)
    assert any(len(SAMPLING.sample(KEY, step)) == 0 for step in range(200))


def test_each_rank_answers_for_its_share() -> None:
    step = full_step()
    for rank in (0, 1):
        check(rank=rank, world_size=2)(drawn(step, rank, 2), step)
        with pytest.raises(PrivacyError, match="were not drawn"):
            check(rank=1 - rank, world_size=2)(drawn(step, rank, 2), step)


Change = Callable[[CropBatch], CropBatch]


def changed(**columns: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda b: b._replace(**{name: f(getattr(b, name)) for name, f in columns.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: CropBatch(*(column[1:] for column in b)), "1 that were drawn are missing"),
        (
            lambda b: CropBatch(*(torch.cat([column, column[:1]]) for column in b)),
            "1 are repeated",
        ),
        (changed(row=lambda r: torch.cat([r[1:], r[1:2]])), "1 are repeated"),
        (changed(row=lambda r: torch.cat([r[1:], r[1:2] * 0 + 10])), "1 of its rows were not"),
        (changed(row=lambda r: r - 100), "of its rows were not drawn"),
        (changed(row=lambda r: r + 10**6), "of its rows were not drawn"),
        (changed(unit=lambda u: torch.arange(len(u))), "do not group"),  # each crop alone
        (changed(unit=lambda u: u * 0), "do not group"),  # all as one
        (changed(unit=lambda u: u % 2), "do not group"),  # some share a clip
        (changed(unit=lambda u: torch.roll(u, 1)), "do not group"),  # as many, moved
        (changed(image=lambda i: i[1:]), "lengths"),
        (changed(malignant=lambda m: m[1:]), "lengths"),
    ],
)
def test_anything_else_is_refused(change: Change, message: str) -> None:
    step = full_step()
    with pytest.raises(PrivacyError, match=message):
        check()(change(drawn(step)), step)


def test_the_draw_of_another_step_or_key_is_refused() -> None:
    step = full_step()
    for other in (check(), DrawCheck(SAMPLING, key=KEY + 1)):
        with pytest.raises(PrivacyError, match=f"batch of step {step + 1}"):
            other(drawn(step), step + 1)


# In a fit, whatever part of the data module is wrong.


class CropsAsUnits(DPCropsDataModule):
    """Numbers each crop as a unit of its own, so that each is clipped alone."""

    def on_after_batch_transfer(self, batch: CropBatch, dataloader_idx: int) -> CropBatch:
        return batch._replace(unit=batch.row)


class OneUnit(DPCropsDataModule):
    def on_before_batch_transfer(self, batch: CropBatch, dataloader_idx: int) -> CropBatch:
        return batch._replace(unit=batch.unit * 0)


class Everyone(DPCropsDataModule):
    """A sampler that takes all units, of the accounted class."""

    def train_dataloader(self) -> DataLoader[CropItem]:
        loader = super().train_dataloader()

        class All(PoissonUnitSampler):
            def __iter__(self) -> Iterator[list[int]]:
                for _ in range(self.done(), self.steps):
                    yield [row for rows in self.sampling.rows_of for row in rows]

        loader.batch_sampler.__class__ = All
        return loader


class Undrawn(DPCropsDataModule):
    """A data set that returns the crops of a further patient."""

    def setup(self, stage: str) -> None:
        super().setup(stage)

        class More(ViewedCrops):
            def __getitems__(self, rows: Sequence[int]) -> CropBatch:
                return super().__getitems__(list(dict.fromkeys([*rows, *self.rows[:6]])))

        self.train_dataset.__class__ = More


@pytest.mark.parametrize("trainable", ["all", "head"])  # images; cached features
@pytest.mark.parametrize("module", [CropsAsUnits, OneUnit, Everyone])
def test_a_fit_stops_at_a_batch_that_was_not_drawn(
    cohort: CropsManifest, tmp_path: Path, module: type[DPCropsDataModule], trainable: str
) -> None:
    wrong = module(str(cohort.folder), rate=0.5, augment="none")
    with pytest.raises(PrivacyError, match="is not what was drawn"):
        trainer(tmp_path, max_steps=20).fit(model(trainable=trainable), wrong)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_beyond_the_draw_are_refused_from_workers_too(
    cohort: CropsManifest, tmp_path: Path, workers: int
) -> None:
    wrong = Undrawn(str(cohort.folder), rate=0.5, augment="none", num_workers=workers)
    with pytest.raises(PrivacyError, match="of its rows were not drawn"):
        trainer(tmp_path, max_steps=20).fit(model(), wrong)


def test_workers_that_read_ahead_pass(cohort: CropsManifest, tmp_path: Path) -> None:
    run: Trainer = trainer(tmp_path, max_steps=12)
    run.fit(model(trainable="all"), data(cohort, num_workers=2))
    assert run.global_step == 12
