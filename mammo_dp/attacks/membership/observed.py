# SPDX-License-Identifier: Apache-2.0
"""What an adversary with models of its own saw: logits of all models on all crops, saved once."""

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mammo_dp.attacks.signals import AttackError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Answers of the attacked model and of the adversary's own; private data.

    Crops stand in the order of the :class:`~mammo_dp.attacks.signals.Signals` beside it.

    Attributes:
        malignant: True label, 1 for malignant, shape ``(crops,)``.
        target: Logits of the attacked model, shape ``(crops, views)``.
        models: Logits of the adversary's models, shape ``(models, crops, views)``.
        inside: Whether a model was trained on the patient of a crop, shape ``(models, crops)``.
    """

    malignant: NDArray[np.int64]
    target: Floats
    models: Floats
    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Checks that every logit is a number.

        Raises:
            AttackError: If one is not.
        """
        for name in ("target", "models"):
            if bad := int((~np.isfinite(getattr(self, name))).sum()):
                raise AttackError(
                    f"{name}: {bad} logits are not finite. The model has diverged; train it again."
                )

    @property
    def seen_by(self) -> tuple[int, int]:
        """Fewest models that were, and that were not, trained on the patient of any crop."""
        inside = self.inside.sum(0)
        return int(inside.min()), int((len(self.inside) - inside).min())

    def with_target(self, model: int) -> Self:
        """What the adversary sees if it attacks one of its own models with the others."""
        others = np.arange(len(self.models)) != model
        return replace(
            self,
            target=self.models[model],
            models=self.models[others],
            inside=self.inside[others],
        )

    def of_target(self) -> Floats:
        """``log(p_y / (1 - p_y))`` of the attacked model, mean over views, shape ``(crops,)``."""
        return np.asarray(self._signed(self.target).mean(1))

    def of_models(self) -> Floats:
        """The same of the adversary's models, shape ``(models, crops)``."""
        return np.asarray(self._signed(self.models).mean(2))

    def log_likelihood(self, logits: Floats) -> Floats:
        """Logarithm of the probability of the true label, itself a mean over views.

        Args:
            logits: Shape ``(..., crops, views)``.
        """
        each = -np.logaddexp(0, -self._signed(logits))
        return np.asarray(np.logaddexp.reduce(each, axis=-1) - np.log(each.shape[-1]))

    def _signed(self, logits: Floats) -> Floats:
        return np.where(self.malignant[:, None] == 1, logits, -logits)


def write_observed(path: Path, observed: Observed) -> None:
    """Writes ``models.npz`` in one move; logits as 32-bit numbers."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        malignant=observed.malignant,
        target=observed.target.astype(np.float32),
        models=observed.models.astype(np.float32),
        inside=observed.inside,
    )
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content.getvalue())
    temporary.replace(path)


def read_observed(path: Path) -> Observed:
    """Reads ``models.npz``.

    Raises:
        AttackError: If it is unreadable.
    """
    try:
        with np.load(path) as stored:
            return Observed(
                malignant=stored["malignant"],
                target=stored["target"].astype(np.float64),
                models=stored["models"].astype(np.float64),
                inside=stored["inside"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise AttackError(
            f"{path}: holds no logits of models ({error!r}). Remove it; the attack makes it again."
        ) from error
