# SPDX-License-Identifier: Apache-2.0
"""What a report refuses."""


class ReportError(ValueError):
    """The runs cannot be reported truthfully; the message names the folder and the remedy."""
