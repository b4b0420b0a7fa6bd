# SPDX-License-Identifier: Apache-2.0
"""Recipes: each turns one published archive into a lesion table, for the cutter of all of them.

A recipe is a module with ``FACTS``, what is known of the archive, and ``read(root, ...)``. A fact
that was not seen in published material is checked when the archive is first read, and the recipe
stops where it does not hold.
"""
