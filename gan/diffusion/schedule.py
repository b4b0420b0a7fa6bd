# SPDX-License-Identifier: Apache-2.0
"""The noise of a diffusion over time, what is predicted, and how samples are drawn.

Time runs from 0, a code as it is, to 1, pure noise, along a quarter circle: a noised code is
``cos(pi t / 2) code + sin(pi t / 2) noise``. Predicted is its derivative in the angle, the velocity
``cos noise - sin code``. At time 1 a sample starts from noise alone, without what is left of a code
in schedules that stop short of it, so tone and class are decided by the network.

Source: Nichol and Dhariwal 2021, arXiv 2102.09672 (cosine); Salimans and Ho 2022, arXiv 2202.00512
(velocity); Lin et al. 2023, arXiv 2305.08891 (why time 1 is pure noise).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from data_prep.progress import watched

GUIDED = 0.5 + 1e-6  # the time that guidance begins at


def shares(time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of code and of noise.

    Args:
        time: Shape ``(B,)``, in ``[0, 1]``.
        like: Shape ``(B, ...)``.

    Returns:
        Cosine and sine, shaped to multiply ``like``.

    >>> shares(torch.tensor([1.0]), torch.zeros(1, 2))[1]
    tensor([[1.]])
    """
    angle = (math.pi / 2 * time).view(-1, *[1] * (like.ndim - 1))
    return angle.cos(), angle.sin()


def noised(code: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Codes ``(B, ...)`` with the noise of their times ``(B,)``."""
    code_share, noise_share = shares(time, code)
    return code_share * code + noise_share * noise


def velocity(code: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What the network shall predict from :func:`noised`."""
    code_share, noise_share = shares(time, code)
    return code_share * noise - noise_share * code


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int,
    *,
    moved: Callable[[Tensor], Tensor] | None = None,
    progress: str | None = None,
) -> Tensor:
    """Draws codes by following the velocity back in time: equal noise gives equal codes.

    A step takes the velocity in its middle, extrapolated from the last two. DDIM, which holds code
    and noise fixed within a step, makes codes shrink where the velocity is small: 20 steps leave
    94 % of the deviation of white codes.

    Args:
        predict: Maps noised codes ``(B, ...)`` and times ``(B,)`` to velocities.
        noise: Standard normal, shape ``(B, ...)``.
        steps: Equal steps from time 1 to time 0, ``>= 1``.
        moved: Guides what is drawn: maps the codes without noise that are predicted to others, to
            which steps from time ``GUIDED`` on lead, with the noise that is predicted. Before, a
            prediction is the blurred mean of many codes, and not worth guiding.
        progress: Name under which progress is shown; none shows none.

    Returns:
        Codes, shape ``(B, ...)``.

    Source: the ordinary differential equation of Song et al. 2020, arXiv 2010.02502, by the method
    of Adams and Bashforth of second order; its first step is DDIM's. Guidance of the predicted
    code, without a gradient through the network: He et al. 2023, arXiv 2311.16424.
    """
    current, before = noise, None
    angle = math.pi / 2 / steps
    times: Iterable[Tensor] = torch.linspace(1, 0, steps + 1, device=noise.device)[:-1].unbind()
    for time in times if progress is None else watched(times, progress):
        now = time.expand(len(noise))
        predicted = predict(current, now)
        if before is None:
            after = math.cos(angle) * current - math.sin(angle) * predicted
        else:
            after = current - angle * (1.5 * predicted - 0.5 * before)
        if moved is not None and float(time) <= GUIDED:
            code_share, noise_share = shares(now, current)
            clean = code_share * current - noise_share * predicted
            after += math.cos(math.pi / 2 * float(time) - angle) * (moved(clean) - clean)
        current, before = after, predicted
    return current
