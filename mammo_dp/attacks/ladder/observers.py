# SPDX-License-Identifier: Apache-2.0
"""What watches a fit of a ladder and keeps what leaks."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.reconstruction.files import write_candidates
from mammo_dp.attacks.reconstruction.heads import CandidateObserver


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
