# SPDX-License-Identifier: Apache-2.0
"""What an adversary of a stated strength achieves, beside the bound that holds for it."""
