# SPDX-License-Identifier: Apache-2.0
"""Readers: one file per kind of source, each turning its layout into the same records."""
