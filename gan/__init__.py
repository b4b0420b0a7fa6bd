# SPDX-License-Identifier: Apache-2.0
"""A malignancy-conditioned GAN: trained on crops, generates synthetic crops."""

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported
