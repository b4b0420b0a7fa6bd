# SPDX-License-Identifier: Apache-2.0
"""The error of this package."""


class PrivacyError(ValueError):
    """The claimed guarantee would not hold; the message names what is wrong and what to do."""
