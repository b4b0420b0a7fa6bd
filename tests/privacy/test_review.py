from pathlib import Path

import pytest

from mammo_dp.privacy import review
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.ledger import PrivacyLedger
from mammo_dp.privacy.statement import write_statement


def test_explain_prints_the_statement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_statement(tmp_path, PrivacyLedger())
    review.explain(str(tmp_path))
    assert capsys.readouterr().out == (tmp_path / "PRIVACY.md").read_text()
    with pytest.raises(PrivacyError, match=r"nowhere.PRIVACY.md: cannot be read"):
        review.explain(str(tmp_path / "nowhere"))
