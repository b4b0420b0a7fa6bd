# SPDX-License-Identifier: Apache-2.0
"""What makes a benchmark impossible or dishonest."""


class BenchmarkError(ValueError):
    """The benchmark cannot run as asked; the message names the offender and the remedy."""
