# SPDX-License-Identifier: Apache-2.0
"""Progress of a fit whose output is a file, where Lightning's bar shows nothing."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from data_prep.progress import ProgressLines

EVERY_S = 30.0  # between lines: a fit may take hours


class LinesOfTraining(Callback):
    """A line on the error stream whenever ``EVERY_S`` have passed, from one rank.

    Steps are counted where the length of a fit is a number of steps, as in private fits; batches
    where it is a number of epochs.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.lines = ProgressLines("Training", every=EVERY_S)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  of Lightning
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Prints, now and then."""
        if not trainer.is_global_zero:
            return
        total, what = trainer.max_steps, "steps"
        if total < 0:
            total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
            what = f"batches (epoch {trainer.current_epoch + 1} of {trainer.max_epochs})"
        self.lines.tell(self.done(trainer, batch_idx + 1), total, what)

    @staticmethod
    def done(trainer: Trainer, batches: int) -> int:
        """Steps, or batches of all epochs, that are done.

        Args:
            trainer: Of the fit.
            batches: Of the present epoch.
        """
        if trainer.max_steps >= 0:
            return trainer.global_step
        return trainer.current_epoch * int(trainer.num_training_batches) + batches
