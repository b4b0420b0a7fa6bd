# SPDX-License-Identifier: Apache-2.0
"""A page printed to PDF by the Chromium that is already there."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mammo_dp.report.errors import ReportError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
SECONDS = 180
QUIET = (  # neither looks for updates nor talks to anybody
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
)


def find_chromium() -> str:
    """Path of a Chromium or a relative of it.

    Raises:
        ReportError: If there is none on ``PATH``.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ReportError(
            f"report: a PDF needs Chromium, but none of {', '.join(BROWSERS)} is on PATH. Install "
            "one of them, or leave --format out and print report.html from a browser."
        )
    return found


def sandbox_flags() -> tuple[str, ...]:
    """What Chromium needs to start as the superuser, as in a container; nothing otherwise."""
    return ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def print_pdf(page: Path, pdf: Path, chromium: str) -> None:
    """Prints a page in one move, so that the PDF is whole or absent.

    Args:
        page: HTML file.
        pdf: Target.
        chromium: Result of :func:`find_chromium`.

    Raises:
        ReportError: If Chromium fails or takes too long.
    """
    with tempfile.TemporaryDirectory() as profile:
        made = Path(profile) / "page.pdf"
        flags = [f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        call = [chromium, *QUIET, *sandbox_flags(), *flags, page.resolve().as_uri()]
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReportError(
                f"{page}: {chromium} did not print it ({error}). Print it from a browser."
            ) from error
        if done.returncode or not made.is_file():
            raise ReportError(
                f"{page}: {chromium} ended with {done.returncode} and no PDF "
                f"({done.stderr.strip()[-300:]}). Print the page from a browser."
            )
        part = pdf.with_name(pdf.name + ".part")
        shutil.copyfile(made, part)
        part.replace(pdf)
