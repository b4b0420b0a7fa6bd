# SPDX-License-Identifier: Apache-2.0
"""Statements whose claims are attacked: only what the holder of the key has stated is a claim."""

from pathlib import Path
from typing import Any

from mammo_dp.attacks import AttackError
from mammo_dp.privacy.statement.document import read_statement
from mammo_dp.privacy.statement.seals import seal_doubt


def sealed_statement(path: Path) -> dict[str, Any]:
    """Content of a ``privacy.json``.

    Raises:
        PrivacyError: If there is no readable statement.
        AttackError: If its seal does not hold.
    """
    stored = read_statement(path)
    if doubt := seal_doubt(stored):
        raise AttackError(
            f"{path}: {doubt}. Nobody knows what may be believed of it. Restore the folder, or run "
            "the stage again."
        )
    return stored
