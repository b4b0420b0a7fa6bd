# SPDX-License-Identifier: Apache-2.0
"""What watches a fit of a ladder: it shares features between runs and keeps what leaks."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.reconstruction.files import write_candidates
from mammo_dp.attacks.reconstruction.heads import CandidateObserver

_FEATURES = "features"


class SharedFeatures(Callback):
    """Features of a frozen body, computed by the first run and found by the others.

    Args:
        folder: Where the runs share them; private data.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Brings what earlier runs computed."""
        if stage == "fit":
            _bring(self.folder.glob("*.pt"), Path(trainer.default_root_dir) / _FEATURES)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves what this run computed."""
        _bring((Path(trainer.default_root_dir) / _FEATURES).glob("*.pt"), self.folder)


class SavedCandidates(CandidateObserver):
    """Scores every patient against a list of others, and saves the scores.

    Args:
        crops: Folder of the crops of the fit.
        file: Where the scores go; private data.
    """

    def __init__(self, crops: str, file: str) -> None:
        super().__init__(CropsManifest.read(crops))
        self.file = Path(file)
        self._earlier: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Scores of the steps so far, so that an interrupted fit goes on."""
        if self._scores is None:
            return {}
        lists, own = self._scores
        return {"lists": lists.tolist(), "own": own.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the scores of an interrupted fit."""
        self._earlier = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on from the scores of an interrupted fit."""
        super().on_train_start(trainer, pl_module)
        if self._earlier:
            self._scores = np.array(self._earlier["lists"]), np.array(self._earlier["own"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the scores."""
        write_candidates(self.file, self.scores)


def _bring(files: Iterable[Path], folder: Path) -> None:
    """Links files into a folder on the same disk, else copies them."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / file.name
        if target.exists():
            continue
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
