# SPDX-License-Identifier: Apache-2.0
"""Phantoms: procedural masses on procedural tissue, with label, mask and descriptors.

Phantoms use no patient data, so they consume no privacy budget. No algorithm was fitted to
patients. Brightness, contrast and appearance were chosen by hand while looking at published
CBIS-DDSM training crops and summaries of them (mean, standard deviation, spectral slope); this
choice is not accounted for. Numbers from a publication are cited in
:mod:`data_prep.phantoms.parameters` or in the function that uses them.
"""
