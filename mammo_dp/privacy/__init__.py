# SPDX-License-Identifier: Apache-2.0
"""Patient-level differential privacy: sampling, accounting, private training, statements."""

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported
