# SPDX-License-Identifier: Apache-2.0
"""Attacks on noisy updates: images that a malicious server reads, and patients named from a list.

The clients are real: gradients of each patient are averaged, clipped and summed, noise is added and
each step is accounted for by the code that trains. What the adversary chooses, sees and
knows stands at the top of each module.
"""
