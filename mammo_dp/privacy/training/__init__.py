# SPDX-License-Identifier: Apache-2.0
"""Private training on Lightning: sampling, clipped gradients, noise, and the private models."""
