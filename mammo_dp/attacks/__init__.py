# SPDX-License-Identifier: Apache-2.0
"""What an adversary of a stated strength achieves, beside the bound that holds for it."""


class AttackError(ValueError):
    """The attack would not measure what it claims; the message says why and what to do."""
