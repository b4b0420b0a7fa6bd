# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from data_prep.worker_environment import WORKER_ENVIRONMENT, worker_environment


def test_only_processes_that_start_meanwhile_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = sorted(WORKER_ENVIRONMENT)[:2]
    monkeypatch.setenv(name, "7")
    monkeypatch.delenv(other, raising=False)
    ask = [sys.executable, "-S", "-c", f"import os; print(os.environ[{name!r}])"]
    with worker_environment():
        assert subprocess.check_output(ask, text=True).strip() == WORKER_ENVIRONMENT[name]
    assert (os.environ[name], os.environ.get(other)) == ("7", None)
