# SPDX-License-Identifier: Apache-2.0
"""Latent diffusion of crops and of volumes: an autoencoder, and a network that denoises its codes.

The networks are MONAI's (extra ``diffusion``). MONAI takes seconds to import, so only what builds a
network does. ``spatial_dims`` 2 and 3 share all code.
"""
