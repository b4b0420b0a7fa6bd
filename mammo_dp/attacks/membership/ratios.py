# SPDX-License-Identifier: Apache-2.0
"""Which attacks the adversary's models allow, and the control that they offer."""

from dataclasses import replace

import numpy as np

from data_prep.manifest import Unit
from mammo_dp.attacks.audit import auc
from mammo_dp.attacks.membership import lira
from mammo_dp.attacks.membership.observed import Observed
from mammo_dp.attacks.membership.query import LOSS_THRESHOLD
from mammo_dp.attacks.membership.rmia import RMIA, rmia
from mammo_dp.attacks.signals import Signals

ATTACKS = {attack.name: attack for attack in (LOSS_THRESHOLD, RMIA, lira.OFFLINE, lira.ONLINE)}
STAND_INS = 16  # heads put in the target's place: pairs, so that each patient is in half of them


def with_ratios(signals: Signals, observed: Observed) -> Signals:
    """Adds the column of each attack that the models allow; runs no model.

    Args:
        signals: Of the attacked model alone.
        observed: Logits on the same crops, of the adversary's models too.
    """
    knew, did_not = observed.seen_by
    columns = {RMIA.name: rmia(observed)}
    if did_not >= 2:
        columns[lira.OFFLINE.name] = lira.offline(observed)
    if min(knew, did_not) >= 2:
        columns[lira.ONLINE.name] = lira.online(observed)
    return replace(signals, columns={**signals.columns, **columns})


def controls(signals: Signals, observed: Observed, unit: Unit) -> dict[str, float]:
    """Areas that the attacks reach where nothing tells members from others but who they are.

    Each of some shadow heads stands in for the attacked model, the others for the adversary's, and
    the groups stay those of the target. Half of either group was in the stand-in's training, by
    chance, so an area away from .5 comes from a difference between the groups.

    Args:
        signals: Which crops, and whose.
        observed: Logits of shadow heads, in complementary pairs.
        unit: Whose crops are combined.

    Returns:
        Mean area under the ROC curve, by attack. The loss threshold sees the mean over views
        here, since heads were asked about nothing else.
    """
    areas: dict[str, list[float]] = {}
    for model in range(min(STAND_INS, len(observed.models))):
        stand_in = observed.with_target(model)
        alone = replace(signals, columns={LOSS_THRESHOLD.name: stand_in.of_target()})
        for name, column in with_ratios(alone, stand_in).columns.items():
            groups = signals.scores(column, unit, ATTACKS[name].combine)
            areas.setdefault(name, []).append(auc(*groups, resamples=1).value)
    return {name: float(np.mean(found)) for name, found in areas.items()}
