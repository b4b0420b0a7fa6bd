# SPDX-License-Identifier: Apache-2.0
"""Fidelity: how near synthetic crops come to real ones, and whether they copy any."""
