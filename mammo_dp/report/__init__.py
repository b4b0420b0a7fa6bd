# SPDX-License-Identifier: Apache-2.0
"""What a reader gets: one table, its figures and one self-contained page."""
