# SPDX-License-Identifier: Apache-2.0
"""Audit of a private fit by canaries."""
