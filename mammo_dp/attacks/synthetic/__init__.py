# SPDX-License-Identifier: Apache-2.0
"""Membership inference on released synthetic crops, without their generator."""
