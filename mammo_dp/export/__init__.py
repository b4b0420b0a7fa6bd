# SPDX-License-Identifier: Apache-2.0
"""What is passed on: classifiers, generators and synthetic sets as folders, and their scores."""


class ExportError(ValueError):
    """Something cannot be exported as asked; the message names it and the remedy."""


class PredictError(ValueError):
    """Nothing can be scored as asked; the message names the cause and the remedy."""
