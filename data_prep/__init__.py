# SPDX-License-Identifier: Apache-2.0
"""Mammograms become crops: reading, cropping, splitting, loading."""

from data_prep.torchvision_cpu import prepare_torchvision

prepare_torchvision()  # before anything imports timm or lightning
