# SPDX-License-Identifier: Apache-2.0
"""Private Evolution: patients vote on candidates of a public simulator; nothing is trained.

Source: Lin et al. 2023, arXiv 2305.15560; with simulators, 2502.05505. Ours counts patients, not
images: all crops of a patient, of both classes, share one vote of unit length.
"""
