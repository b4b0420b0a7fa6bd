# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with an export itself."""


class ExportError(ValueError):
    """Something cannot be exported as asked; the message names it and the remedy."""
