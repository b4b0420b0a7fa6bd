# SPDX-License-Identifier: Apache-2.0
"""Mammograms become crops: reading, cropping, splitting, loading."""

from data_prep.torchvision_cpu import declare_missing_operators

declare_missing_operators()  # before anything imports timm or lightning
