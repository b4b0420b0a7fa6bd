# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with a prediction itself."""


class PredictError(ValueError):
    """Nothing can be scored as asked; the message names the cause and the remedy."""
