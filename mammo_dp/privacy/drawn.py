# SPDX-License-Identifier: Apache-2.0
"""Whether a batch is what was drawn: each private step asks, whatever data module fed it."""

import numpy as np

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.sampling import PoissonSampling


class DrawCheck:
    """Compares batches with the draws that are accounted, made again from key and step.

    The account holds for whole units that were drawn, each clipped once. A loader that returns
    other rows, or numbers the units in another way, breaks it without a trace in the statement.

    Args:
        sampling: What is accounted.
        key: Key of draws and noise.
        rank: Share of each draw that this process takes, in ``[0, world_size)``.
        world_size: Processes that share a draw, > 0.
    """

    def __init__(
        self, sampling: PoissonSampling, *, key: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sampling = sampling
        self.key = key
        self.rank = rank
        self.world_size = world_size
        self._sizes = np.array([len(rows) for rows in sampling.rows_of])
        rows = np.array([row for rows in sampling.rows_of for row in rows])
        self._owner = np.full(rows.max() + 1, -1)  # unit of each row
        self._owner[rows] = np.repeat(np.arange(sampling.units), self._sizes)

    def __call__(self, batch: CropBatch, step: int) -> None:
        """Checks one batch.

        Args:
            batch: What the data module gave for the step, in any order of rows.
            step: Accounted steps before this one, >= 0.

        Raises:
            PrivacyError: If its columns differ in length, its rows are not those that were drawn,
                or its units do not group them as the sampling does.
        """
        lengths = [len(column) for column in batch]
        if len(set(lengths)) > 1:
            raise _refusal(step, f"its columns have lengths {lengths}")
        rows, names = batch.row.cpu().numpy(), batch.unit.cpu().numpy()
        drawn = self.sampling.sample(self.key, step)[self.rank :: self.world_size]
        is_drawn = np.zeros(self.sampling.units + 1, bool)  # the last is for owner -1
        is_drawn[drawn] = True
        known = (rows >= 0) & (rows < len(self._owner))
        owners = self._owner[np.where(known, rows, 0)]
        wanted = known & is_drawn[owners]
        if (
            len(rows) != self._sizes[drawn].sum()
            or not wanted.all()
            or not np.diff(np.sort(rows)).all()
        ):
            distinct = len(np.unique(rows[wanted]))
            raise _refusal(
                step,
                f"{np.count_nonzero(~wanted)} of its rows were not drawn, "
                f"{self._sizes[drawn].sum() - distinct} that were drawn are missing, "
                f"{np.count_nonzero(wanted) - distinct} are repeated",
            )
        name_of = np.empty(self.sampling.units, names.dtype)
        name_of[owners] = names
        if (name_of[owners] != names).any() or not np.diff(np.sort(name_of[drawn])).all():
            raise _refusal(
                step,
                f"its units do not group the crops of the {len(drawn)} drawn "
                f"{self.sampling.unit}s, so that one is clipped several times or several share a "
                "clip",
            )


def _refusal(step: int, what: str) -> PrivacyError:
    return PrivacyError(
        f"batch of step {step}: is not what was drawn and is accounted: {what}. Return exactly the "
        "rows that the sampler asks for, numbered by unit as mammo_dp.DPCropsDataModule does."
    )
