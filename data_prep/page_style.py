# SPDX-License-Identifier: Apache-2.0
"""The stylesheet of all pages that are written: the data card here, the report of runs."""

from importlib.resources import files


def stylesheet() -> str:
    """CSS for light and dark screens and for A4; it loads nothing."""
    return (files(__package__) / "page.css").read_text("utf-8")
