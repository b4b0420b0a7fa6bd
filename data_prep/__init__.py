# SPDX-License-Identifier: Apache-2.0
"""Mammograms become crops: reading, cropping, splitting, loading."""

import os

from data_prep.torchvision_cpu import prepare_torchvision

# Otherwise albumentations asks the package registry for its newest version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
prepare_torchvision()  # before anything imports timm or lightning
