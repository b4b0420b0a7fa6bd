# SPDX-License-Identifier: Apache-2.0
"""Patients release noisy class means of features once; phantoms are chosen to have these means.

Source of the release: DP-MEPF, Harder et al. 2022, arXiv 2205.12900. Ours counts patients, not
images: all crops of a patient, of both classes, share one vector of length at most 1. In place of
training a generator, crops of a pool are chosen, which cannot collapse.
"""
