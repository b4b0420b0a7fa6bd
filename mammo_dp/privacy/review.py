# SPDX-License-Identifier: Apache-2.0
"""``privacy explain``: what a reader does with a statement."""

from pathlib import Path

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement import TEXT_NAME
from mammo_dp.runs import run_of


def explain(run: str) -> None:
    """Prints a run's privacy statement in plain sentences.

    Args:
        run: Run folder or data folder.
    """
    folder = run_of(run) or Path(run)
    try:
        print((folder / TEXT_NAME).read_text(), end="")
    except OSError as error:
        raise PrivacyError(
            f"{folder / TEXT_NAME}: cannot be read ({error.strerror}). Give the folder of a "
            "finished run."
        ) from error
