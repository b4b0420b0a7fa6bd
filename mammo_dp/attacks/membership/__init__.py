# SPDX-License-Identifier: Apache-2.0
"""Membership inference on a released classifier."""
