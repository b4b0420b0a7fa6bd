# SPDX-License-Identifier: Apache-2.0
"""Crops become synthetic crops: a malignancy-conditioned GAN."""

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported
