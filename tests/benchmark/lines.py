# SPDX-License-Identifier: Apache-2.0
"""Command lines that workers run in tests: they write run folders, fail, or kill a process."""

import os
import signal
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from mammo_dp.benchmark.jobs import Job
from mammo_dp.runs import close_run, open_run


def command(line: Sequence[str]) -> None:
    kind, folder = line[0], Path(line[1])
    record = open_run(folder, command=kind, config={}, inputs={})
    if kind == "fail":
        raise ValueError("the crops are too small")
    if kind == "kill" and not record.resumed:
        os.kill(int(line[2]) or os.getpid(), signal.SIGKILL)
    number = sha256(folder.name.encode()).hexdigest()[:8]
    (folder / "number.txt").write_text(number)
    close_run(record)


def job(
    out: Path,
    name: str,
    kind: str = "work",
    *,
    victim: int = 0,
    needs: tuple[str, ...] = (),
    after: str = "",
) -> Job:
    folder = out / name
    return Job(
        key=name,
        label=f"cell {name}",
        lines=((kind, str(folder), str(victim)),),
        folders=(folder,),
        needs=needs,
        after=(after,) if after else (),
        log=out / "logs" / f"{name}.log",
    )
