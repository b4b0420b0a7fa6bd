# SPDX-License-Identifier: Apache-2.0
"""Clipped sums per unit: one unit moves the sum of gradients by at most the clipping norm.

A unit's gradient is the mean over its crops and their views; it is clipped as one vector. Four
methods give the same sums: book-keeping (one forward and one backward pass for all units), one
backward pass per unit (exact for every module that does not mix samples), vectorised rows
(``torch.func``), and Opacus' hooks. ``choice`` picks one, ``self_check`` compares it with plain
backward passes at the start of every fit.
"""
