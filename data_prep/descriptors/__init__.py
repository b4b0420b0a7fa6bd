# SPDX-License-Identifier: Apache-2.0
"""Descriptors of crops: four fixed sets of numbers, side by side.

None is fitted to data, and all stay as they are when a crop is turned or mirrored.

=================  =======  ====================================================================
module             numbers  used by
=================  =======  ====================================================================
``targets``             88  pre-training of a body; attacks on synthetic sets
``measurements``       592  the default classifier; ``matching`` of an MCGAN
``independent``        425  ``fidelity``: a classifier on what no generator was matched to
``voting``              24  ``evolve``: the space in which patients vote
=================  =======  ====================================================================

They measure similar things (rings around the centre, edges along and across the radius, bands of
detail) by code of their own, on purpose. ``independent`` must not share what a generator is matched
to, else fidelity would reward the match. ``voting`` is part of a private mechanism, so a change of
another descriptor must not change it.
"""
