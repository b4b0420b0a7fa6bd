# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.benchmark.grid OUT [ADDRESS]``: three jobs, one of which kills its worker."""

import sys
from pathlib import Path

from rich.console import Console

from mammo_dp.benchmark.cluster import workers
from mammo_dp.benchmark.schedule import run_jobs
from tests.benchmark.lines import command, job

if __name__ == "__main__":
    out, address = Path(sys.argv[1]), next(iter(sys.argv[2:]), None)
    jobs = [job(out, "first"), job(out, "killed", "die" if address is None else "work")]
    with workers(address, count=1) as client:
        client.wait_for_workers(1 if address is None else 2, timeout=90)
        jobs.append(job(out, "last", after="killed"))
        outcomes = run_jobs(client, jobs, command, title="test", console=Console())
    sys.exit("; ".join(outcome.error for outcome in outcomes.values() if outcome.error))
