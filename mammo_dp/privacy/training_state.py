# SPDX-License-Identifier: Apache-2.0
"""How a run writes the training state that it resumes from, and reads nothing else."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from mammo_dp.privacy.bindings import Binding
from mammo_dp.runs import write_bytes_atomically


class SealedCheckpointIO(TorchCheckpointIO):
    """Seals the training state of a run, and resumes from nothing else.

    Weights alone are written as they are: they are what is released, and a statement covers them.

    Args:
        binding: What the state belongs to.
    """

    def __init__(self, binding: Binding) -> None:
        super().__init__()
        self.binding = binding

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a checkpoint in one move."""
        if "optimizer_states" not in checkpoint:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes_atomically(Path(path), self.binding.sealed(content.getvalue()))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401  whatever torch.load takes
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads training state.

        Raises:
            PrivacyError: If it does not fit its seal.
        """
        content = io.BytesIO(self.binding.require(Path(path)))
        state: dict[str, Any] = torch.load(
            content, map_location=map_location, weights_only=weights_only
        )
        return state
