# SPDX-License-Identifier: Apache-2.0
"""A browser under test: DevTools messages over a pipe, so that no port and no package is needed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

from mammo_dp.report.page import QUIET, sandbox_flags


class Browser:
    """One page of a running Chromium; remembers what the page asked for and complained about."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._count, self._rest = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """Result of one command; events that come before it are kept."""
        self._count += 1
        message: dict[str, object] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, page: Path) -> None:
        """Loads a page and waits until all of it is there."""
        self.send("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def ask(self, script: str) -> Any:  # noqa: ANN401  whatever the page answers
        """Value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._back, 65536)
            assert piece, "Chromium has ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browser(chromium: str, profile: Path) -> Iterator[Browser]:
    """Starts Chromium and ends it."""
    to_read, to = _pipe()
    back, back_write = _pipe()
    flags = [*QUIET, *sandbox_flags(), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    start = (
        f"import os, sys; os.dup2({to_read}, 3); os.dup2({back_write}, 4);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start, chromium, *flags],
        pass_fds=(to_read, back_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(to_read)
        os.close(back_write)
        try:
            yield Browser(to, back)
        finally:
            os.close(to)  # Chromium ends when nobody speaks to it any more
            os.close(back)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe, away from the numbers 3 and 4 that Chromium wants."""
    low = os.pipe()
    high = fcntl(low[0], F_DUPFD, 10), fcntl(low[1], F_DUPFD, 10)
    for end in low:
        os.close(end)
    return high
