# SPDX-License-Identifier: Apache-2.0
"""What users of a released classifier do: score crops and mammograms, calibrate the scores."""
