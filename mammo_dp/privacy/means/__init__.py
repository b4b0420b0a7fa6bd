# SPDX-License-Identifier: Apache-2.0
"""DP-MEPF: patients release noisy class means of features once; a generator is trained to match.

Source: Harder et al. 2022, arXiv 2205.12900. Ours counts patients, not images: all crops of a
patient, of both classes, share one vector of length at most 1.
"""
