# SPDX-License-Identifier: Apache-2.0
"""A released classifier, read from its checkpoint or from its tensors, whichever way it trained."""

import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifier.module import CropClassifier
from classifier.weights import PREFIX
from data_prep.recorded import read_recorded

CALIBRATION = "calibration."  # of slope and intercept inside the net, where a fit put them
ADVICE = "Give the run of a CropClassifier, DPCropClassifier or DPCalibration"


class ReleasedError(ValueError):
    """A file holds no classifier of this version; the message names the file and what would fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Turns a logit into one whose sigmoid says how often such crops are malignant.

    Attributes:
        slope: Below 1 for a classifier that is too sure of itself.
        intercept: Corrects for another share of malignant crops than it was trained on.

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """

    slope: float
    intercept: float

    def __call__(self, logit: NDArray[np.float64]) -> NDArray[np.float64]:
        """The calibrated logit, of the same shape."""
        return self.slope * logit + self.intercept


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedClassifier:
    """What a run released.

    Attributes:
        model: In evaluation mode, on the CPU; its logits are not calibrated.
        calibration: What calibrates them; none if nothing was fitted.
    """

    model: CropClassifier
    calibration: Calibration | None

    @classmethod
    def read(cls, checkpoint: str | Path) -> "ReleasedClassifier":
        """Loads a checkpoint; no code in the file is run.

        Raises:
            ReleasedError: If the file is missing, damaged, or holds another kind of model.
        """
        path = Path(checkpoint)
        if not path.is_file():
            raise ReleasedError(f"{path}: is no file, so the run released nothing. {ADVICE}.")
        read = read_recorded(path)
        try:
            content: Any = torch.load(io.BytesIO(read), map_location="cpu", weights_only=True)
            state, settings = content["state_dict"], content.get("hyper_parameters", {})
        except Exception as error:  # torch raises half a dozen kinds for what is no checkpoint
            raise ReleasedError(
                f"{path}: cannot be read as a checkpoint ({type(error).__name__}). {ADVICE}."
            ) from error
        own = {key.removeprefix(PREFIX): v for key, v in state.items() if key.startswith(PREFIX)}
        parts = sorted({key.partition(".")[0] for key in state})
        # a diffusion calls its network net, too, but holds more
        if not own or (len(parts) > 1 and "backbone" not in settings):
            raise ReleasedError(
                f"{path}: is no crop classifier; it holds {', '.join(parts) or 'no tensor'}. "
                f"{ADVICE}."
            )
        slope, intercept = (own.pop(f"{CALIBRATION}{name}", None) for name in ("weight", "bias"))
        calibration = None
        if slope is not None and intercept is not None:
            calibration = Calibration(slope=float(slope), intercept=float(intercept))
        return cls.of(own, settings, calibration=calibration, where=str(path))

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        *,
        calibration: Calibration | None,
        where: str,
    ) -> "ReleasedClassifier":
        """Builds a classifier around its tensors.

        Args:
            state: Tensors of the net.
            settings: Hyper-parameters; those that are not of a ``CropClassifier`` are not used.
            calibration: Of its logits, if one was fitted.
            where: Start of every message.

        Raises:
            ReleasedError: If settings and tensors do not fit one another.
        """
        # none stands for a rate that followed from noise; a model that only scores needs no rate
        known = {k: v for k, v in settings.items() if k in _parameters() and v is not None}
        try:
            model = CropClassifier(**(known | {"weights": None}))
        except (TypeError, ValueError) as error:
            raise ReleasedError(f"{where}: its settings build no model ({error}).") from error
        own = model.net.state_dict()
        odd = sorted(set(state) ^ set(own)) or [k for k in own if state[k].shape != own[k].shape]
        if odd:
            raise ReleasedError(
                f"{where}: is no crop classifier of this version: {', '.join(odd[:3])} missing, "
                f"unexpected or of another shape. {ADVICE}."
            )
        model.net.load_state_dict(state)
        return cls(model=model.eval(), calibration=calibration)


def load_classifier(checkpoint: str | Path) -> CropClassifier:
    """The model of a released checkpoint, in evaluation mode.

    Raises:
        ReleasedError: If the file is missing, damaged, or holds another kind of model.
    """
    return ReleasedClassifier.read(checkpoint).model


def settings_of(model: CropClassifier) -> dict[str, Any]:
    """What builds a model of the same shape again: arguments of a ``CropClassifier``."""
    return {key: value for key, value in model.hparams.items() if key in _parameters()}


def _parameters() -> set[str]:
    return set(inspect.signature(CropClassifier.__init__).parameters)
