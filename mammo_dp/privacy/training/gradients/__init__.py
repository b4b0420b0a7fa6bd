# SPDX-License-Identifier: Apache-2.0
"""Clipped sums of gradients per unit, by several methods that compute the same.

``book_keeping`` is fast, for layers with a rule; ``loop`` takes one backward pass per unit and is
exact for every module that does not mix samples; ``opacus`` uses Opacus' hooks and exists so that
the benchmark and the tests can compare. The method changes speed and memory, nothing else.
"""
