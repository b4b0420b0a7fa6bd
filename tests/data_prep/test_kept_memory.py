# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from data_prep.kept_memory import KEEPING, kept_memory


def test_only_processes_that_start_meanwhile_keep_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = sorted(KEEPING)[:2]
    monkeypatch.setenv(name, "7")
    monkeypatch.delenv(other, raising=False)
    ask = [sys.executable, "-S", "-c", f"import os; print(os.environ[{name!r}])"]
    with kept_memory():
        assert subprocess.check_output(ask, text=True).strip() == KEEPING[name]
    assert (os.environ[name], os.environ.get(other)) == ("7", None)
