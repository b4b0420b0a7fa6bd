from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mammo_dp.attacks.audit.canary_fit import Observed
from mammo_dp.attacks.audit.loop_check import SURE, LoopCheck, check_loop
from mammo_dp.privacy.accounting.account import Mechanism

STATED = Mechanism(noise_multiplier=1.5, sampling_rate=0.2, steps=6)


def measured(executed: Mechanism, *, canaries: int = 60, seed: int = 0) -> LoopCheck:
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5

    def products(steps: int) -> NDArray[np.float64]:
        drawn = inside & (rng.random((steps, canaries)) < executed.sampling_rate)
        return drawn + executed.noise_multiplier * rng.standard_normal((steps, canaries))

    seen = Observed(
        products=products(executed.steps), again=products(2), inside=inside, accounted=STATED
    )
    return check_loop(seen, STATED, epsilon=100.0, delta=1e-4)


def test_a_loop_that_does_as_stated_is_rarely_a_finding() -> None:
    fits = 1000
    wrong = sum(bool(measured(STATED, seed=seed).findings) for seed in range(fits))
    assert wrong <= stats.binom.ppf(0.999, fits, 3 * (1 - SURE))  # 3 expected at most
    inside = [measured(STATED, seed=seed) for seed in range(200)]
    for name, true in (("noise", 1.5), ("part", 0.2)):
        limits = [getattr(found, name) for found in inside]
        assert sum(not found.low <= true <= found.high for found in limits) <= 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"noise_multiplier": 1.2}, "noise multiplier"),
        ({"sampling_rate": 0.7}, "clipping norms"),
        ({"steps": 7}, "7 updates"),
    ],
)
def test_a_few_canaries_show_what_is_worse(change: dict[str, Any], word: str) -> None:
    found = [measured(replace(STATED, **change), seed=seed, canaries=200) for seed in range(20)]
    assert sum(any(word in finding for finding in each.findings) for each in found) >= 18


def test_no_noise_at_all_is_a_finding() -> None:
    silent = measured(replace(STATED, noise_multiplier=1e-9))
    assert any("noise multiplier is" in finding for finding in silent.findings)
