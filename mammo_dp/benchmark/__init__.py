# SPDX-License-Identifier: Apache-2.0
"""Utility at a fixed budget: regimes x budgets x units x seeds as independent jobs, one table."""
