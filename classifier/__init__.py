# SPDX-License-Identifier: Apache-2.0
"""Crops become malignancy scores: timm transformers on Lightning."""

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported
