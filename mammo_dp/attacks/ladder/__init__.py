# SPDX-License-Identifier: Apache-2.0
"""The same attacks on runs along a list of budgets: one table, the risk corridor, image sheets."""
