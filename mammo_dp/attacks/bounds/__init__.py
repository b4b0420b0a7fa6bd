# SPDX-License-Identifier: Apache-2.0
"""What an adversary of a stated strength achieves at most, along a list of privacy budgets."""
