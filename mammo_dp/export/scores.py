# SPDX-License-Identifier: Apache-2.0
"""Scores candidates with a classifier, and forms the table ``predictions.csv``."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifier.module import CropClassifier
from data_prep.datamodule import model_input
from data_prep.errors import RecordRejected
from data_prep.transforms import pipeline
from mammo_dp.export import PredictError
from mammo_dp.export.candidates import Candidate
from mammo_dp.export.shared_classifier import SharedClassifier

COLUMNS = (
    "file",
    "box",
    "probability",
    "calibrated_probability",
    "logit",
    "statement_sha256",
    "checkpoint_sha256",
)
_AT_ONCE = 64  # crops in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Logit of one candidate.

    Attributes:
        file: The user's name of the file.
        box: The user's name of the box.
        logit: Above 0 means malignant.
    """

    file: str
    box: str
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one candidate has no score.

    Attributes:
        file: The user's name of the file.
        box: The user's name of the box.
        reason: Code.
        message: Sentence with cause and remedy.
    """

    file: str
    box: str
    reason: str
    message: str


def score(
    model: CropClassifier, candidates: Iterable[Candidate]
) -> tuple[list[Score], list[Refusal]]:
    """Scores what can be scored, some crops at a time.

    Args:
        model: In evaluation mode.
        candidates: What is asked about.

    Raises:
        PredictError: If a logit is not finite.
    """
    scores: list[Score] = []
    refusals: list[Refusal] = []
    resize, remaining = pipeline("none", int(model.hparams["image_size"])), iter(candidates)
    while some := list(islice(remaining, _AT_ONCE)):
        usable: list[tuple[Candidate, Tensor]] = []
        for one in some:
            if isinstance(error := one.pixels, RecordRejected):
                refusals.append(
                    Refusal(file=one.file, box=one.box, reason=error.reason, message=str(error))
                )
            else:
                usable.append((one, model_input(error, resize)))
        if not usable:
            continue
        with torch.inference_mode():
            logits = model(torch.stack([image for _, image in usable])).double().tolist()
        scores += [
            Score(file=one.file, box=one.box, logit=logit)
            for (one, _), logit in zip(usable, logits, strict=True)
        ]
    if not np.isfinite([one.logit for one in scores]).all():
        raise PredictError("the model gives logits that are not finite. Take a run that converged.")
    return scores, refusals


def table(scores: Sequence[Score], shared: SharedClassifier) -> str:
    """``predictions.csv``; logits keep all their digits.

    Args:
        scores: In the order of the rows.
        shared: Calibration, if there is one, and the hashes that each row carries.
    """
    logits = np.array([one.logit for one in scores], np.float64)
    calibration = shared.released.calibration
    calibrated = [""] * len(scores) if calibration is None else _sigmoid(calibration(logits))
    stands = (shared.statement_sha256, shared.checkpoint_sha256)
    rows = (
        (one.file, one.box, plain, fitted, one.logit, *stands)
        for one, plain, fitted in zip(scores, _sigmoid(logits), calibrated, strict=True)
    )
    return _csv(COLUMNS, rows)


def rejected(refusals: Sequence[Refusal]) -> str:
    """``rejected.csv``: what has no score, and why."""
    rows = ((one.file, one.box, one.reason, one.message) for one in refusals)
    return _csv(("file", "box", "reason", "message"), rows)


def _sigmoid(logit: NDArray[np.float64]) -> list[float]:
    probabilities: list[float] = np.exp(-np.logaddexp(0, -logit)).tolist()
    return probabilities


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
