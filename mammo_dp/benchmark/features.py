# SPDX-License-Identifier: Apache-2.0
"""One cache of features for all cells of a benchmark."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class SharedFeatures(Callback):
    """Puts the features of a fit into a common folder, where other fits find them.

    The cache names a file by all that its features depend on, so cells share what is equal and
    nothing else.

    Args:
        folder: Common folder; as private as the crops.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Links the folder ``features`` of the run before the fit looks for it."""
        link = Path(trainer.default_root_dir) / "features"
        if stage == "fit":
            Path(self.folder).mkdir(parents=True, exist_ok=True)  # it may have been emptied since
            if not link.exists():
                link.symlink_to(self.folder, target_is_directory=True)
