# SPDX-License-Identifier: Apache-2.0
"""Accounts: from noisy mechanisms to epsilon, to bounds on attacks, and from a target to noise."""
