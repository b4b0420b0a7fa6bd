# SPDX-License-Identifier: Apache-2.0
"""Figures of a report, drawn by hand as SVG: one module per figure, each a function of facts."""
