# SPDX-License-Identifier: Apache-2.0
"""Processes of their own that start at once, for tests that kill them.

A new Python imports torch and Lightning for seconds before it does anything. Here one process is
forked from that of pytest when all tests are collected, so that all is imported and nothing has
run, and it forks one more for each call. Those are processes as any other: `kill -9` ends them at
once and leaves behind what it leaves behind.
"""

import atexit
import io
import json
import logging
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

_calls: list[socket.socket] = []  # to the process that forks, once it is there


class Started:
    """A process that runs a function and writes what it prints to a file."""

    def __init__(self, function: Callable[..., int | None], *words: object, log: Path) -> None:
        """Starts it, with folder and environment of this process.

        Args:
            function: Of a module; what it returns is the exit status.
            words: Its arguments, which JSON can hold.
            log: Where the file is; appended to.
        """
        self.log = log
        self.status: int | None = None
        call = {"call": f"{function.__module__}:{function.__qualname__}", "words": words}
        told = call | {"folder": str(Path.cwd()), "environment": dict(os.environ), "log": str(log)}
        self.pid = _number(_ask(told))

    def poll(self) -> int | None:
        """Exit status, minus the signal if one ended it; none as long as it runs."""
        if self.status is None:
            self.status = _ask({"poll": self.pid})
        return self.status

    def wait(self) -> int:
        """Waits for the end; returns the exit status."""
        if self.status is None:
            self.status = _number(_ask({"wait": self.pid}))
        return self.status

    def kill(self) -> int:
        """``kill -9``; returns the exit status, -9 unless it had ended before."""
        os.kill(self.pid, signal.SIGKILL)  # until somebody waits for it, nobody else has its number
        return self.wait()

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text() if self.log.exists() else ""


def fork_once() -> None:
    """Forks the process that forks those of tests; called when all is imported."""
    if _calls or not hasattr(os, "fork"):
        return
    here, there = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Beside this thread there is at most the one by which xdist waits for words, and idle
        # ones of linear algebra, which forking knows how to stop.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            here.close()
            _serve(there)
        finally:
            os._exit(1)
    there.close()
    _calls.append(here)
    atexit.register(here.close)


def _ask(told: Mapping[str, Any]) -> int | None:
    (calls,) = _calls
    calls.sendall(json.dumps(told).encode() + b"\n")
    with calls.makefile("rb") as answers:
        answer: int | None = json.loads(answers.readline())
        return answer


def _number(answer: int | None) -> int:
    assert answer is not None
    return answer


def _serve(calls: socket.socket) -> NoReturn:
    """Forks a process for each call until pytest ends, whose end takes all along."""
    os.closerange(3, calls.fileno())
    os.closerange(calls.fileno() + 1, 2**16)
    _streams(os.devnull)
    running: set[int] = set()
    with calls.makefile("rb") as lines:
        for line in lines:
            told = json.loads(line)
            if "call" in told:
                if not (child := os.fork()):
                    calls.close()
                    lines.detach()
                    _run(told)
                running.add(child)
                answer: int | None = child
            else:
                (kind, pid), *_ = told.items()
                ended, status = os.waitpid(pid, os.WNOHANG if kind == "poll" else 0)
                running -= {ended}
                answer = os.waitstatus_to_exitcode(status) if ended else None
            calls.sendall(json.dumps(answer).encode() + b"\n")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _run(told: Mapping[str, Any]) -> NoReturn:
    """Runs one call in this process, as if it were a new one."""
    status: object = 1
    try:
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        _streams(told["log"])
        warnings.resetwarnings()
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        module, _, name = told["call"].partition(":")
        status = getattr(import_module(module), name)(*told["words"]) or 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _streams(log: str) -> None:
    """Reads nothing, and appends what is printed to a file."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, source in ((0, nothing), (1, file), (2, file)):
        os.dup2(source, number)
    os.close(nothing)
    os.close(file)
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False))
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
    for logger in map(logging.getLogger, (None, *logging.root.manager.loggerDict)):
        for handler in logger.handlers:  # made while another stream was stderr
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stderr)


def run_command(words: Sequence[str]) -> int:
    """``mammo-dp WORDS`` in a process of its own."""
    from mammo_dp.main import main

    sys.argv[1:] = words
    return main(list(words))
