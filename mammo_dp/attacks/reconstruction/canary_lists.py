# SPDX-License-Identifier: Apache-2.0
"""The worst case of the attack with a list: candidates whose gradients nobody else has.

Each patient's clipped gradient is a coordinate of its own at the clipping norm. Draws and noise
come from the code that trains, so success on the bound says that they are what is accounted.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import SGD

from mammo_dp.attacks.reconstruction.candidates import CandidateScores, likelihood_ratios
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import PoissonSampling

_OUTSIDERS = 20_000  # enough to know a chance of 1/100 to a tenth of itself


def canary_lists(
    mechanism: Mechanism, *, targets: int, candidates: int, key: int
) -> CandidateScores:
    """Runs the steps of a mechanism on canaries and scores their lists.

    Args:
        mechanism: Noise, sampling rate and steps of patients.
        targets: Canaries that take part, > 0.
        candidates: Length of each target's list, the target included, >= 2.
        key: 256 bits of draws and noise, see :func:`mammo_dp.privacy.training.sampling.new_key`.

    Returns:
        Scores; the outsiders are canaries on lists, none of whom took part.

    Raises:
        AttackError: For a list that holds nobody but the target.
    """
    if targets < 1 or candidates < 2:
        raise AttackError(
            f"{targets=}, {candidates=}. Give at least one target, and lists of at least two."
        )
    coordinates = targets * candidates
    weights = nn.Parameter(torch.zeros(coordinates))
    booked = iter(range(mechanism.steps))
    optimizer = PrivateOptimizer(
        SGD([weights], lr=1.0),
        noise_multiplier=mechanism.noise_multiplier,
        clipping_norm=1.0,
        expected_units=1.0,
        key=key,
        account=lambda: next(booked),
    )
    sampling = PoissonSampling(
        unit="patient",
        rows_of=tuple((row,) for row in range(targets)),
        rate=mechanism.sampling_rate,
    )
    scores: NDArray[np.float64] = np.zeros(coordinates)
    for step in range(mechanism.steps):
        total = torch.zeros(coordinates)
        total[torch.from_numpy(sampling.sample(key, step))] = 1.0
        optimizer.take({weights: total})
        optimizer.step()
        assert weights.grad is not None
        scores += likelihood_ratios(
            weights.grad.double().numpy(),
            np.ones(()),
            noise_multiplier=mechanism.noise_multiplier,
            sampling_rate=mechanism.sampling_rate,
        )
    others = scores[targets:]
    return CandidateScores(
        targets=scores[:targets], lists=others.reshape(targets, -1), outsiders=others[:_OUTSIDERS]
    )
