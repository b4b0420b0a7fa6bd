# SPDX-License-Identifier: Apache-2.0
"""Workers of this machine."""

import os
import signal

import dask
import pytest

from data_prep import cluster


def _blocks_interrupts() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no masks")
def test_workers_neither_hear_ctrl_c_nor_watch_themselves() -> None:
    with cluster.workers(None, count=1) as client:
        assert client.submit(_blocks_interrupts).result()
        assert not _blocks_interrupts()
        for name, value in cluster.QUIET.items():  # no worker wakes up to watch itself
            assert client.submit(dask.config.get, name).result() == value
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup has it ignored
        try:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)
