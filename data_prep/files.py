# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a folder so that none is lost without being counted.

Links are followed, the case of a suffix does not matter, and whatever is left out is counted by
reason. :class:`Balance` is the sum at the end of every import.
"""

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from data_prep.errors import ArchiveError

HELPER = "helper file"
OTHER = "another kind of file"
REPEATED = "link to a folder already read"
BROKEN = "broken link"
SPECIAL = "no regular file"
# Written by operating systems and file servers, never by whoever collected the images.
_HELPERS = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files below a folder.

    Attributes:
        paths: Those that were asked for, sorted.
        skipped: Number of other entries by reason; a helper folder counts once.
    """

    paths: tuple[Path, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What became of everything that was found: read, rejected or skipped.

    Attributes:
        found: Number of files or rows that an import started from.
        read: Those that became a crop.
        rejected: The others by the reason code of ``rejected.csv``.
        skipped: What was left out before it was opened, by reason.

    Raises:
        ArchiveError: If the numbers do not add up, so that something was lost.
    """

    found: int
    read: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a sum that does not add up."""
        accounted = self.read + sum(self.rejected.values()) + sum(self.skipped.values())
        if accounted != self.found:
            raise ArchiveError(
                f"{self.found} files or rows were found, but {accounted} are accounted for "
                f"({self}). The folder may have changed meanwhile; run the command again."
            )

    def __str__(self) -> str:
        """One line.

        >>> print(Balance(found=9, read=6, rejected={"unreadable": 1}, skipped={"helper file": 2}))
        found 9 = read 6 + rejected 1 (unreadable 1) + skipped 2 (helper file 2)
        """
        return (
            f"found {self.found:,} = read {self.read:,} + rejected {_listed(self.rejected)} + "
            f"skipped {_listed(self.skipped)}"
        )


def is_helper(name: str) -> bool:
    """Whether a name belongs to an operating system, a file server or an open editor.

    >>> [is_helper(name) for name in ("._1-1.dcm", ".DS_Store", "Thumbs.db", "__MACOSX", "1.dcm")]
    [True, True, True, True, False]
    """
    return name.startswith((".", "~$")) or name.lower() in _HELPERS


def has_suffix(name: str, suffixes: Collection[str]) -> bool:
    """Whether a name ends in one of the suffixes, whatever their case.

    Args:
        name: Name of a file.
        suffixes: With the dot, lower case, such as ``{".png"}``.
    """
    return PurePath(name).suffix.lower() in suffixes


def find_files(root: Path, *, suffixes: Collection[str] | None = None) -> FoundFiles:
    """Lists the files below a folder, in an order that does not depend on the machine.

    Links to files and folders are followed. Each folder is read once, by its own path if it has
    one below ``root``, so that circles of links end.

    Args:
        root: The folder.
        suffixes: Wanted suffixes with the dot, lower case; none for all files.

    Raises:
        ArchiveError: If a folder cannot be listed, or the name of a wanted file is no valid text.
    """
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    linked: list[Path] = []  # read last: a folder's own path goes before a link to it
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending or linked:
        folder = pending.pop() if pending else linked.pop(0)
        try:
            here = folder.stat()
            if (here.st_dev, here.st_ino) in seen:
                skipped[REPEATED] += 1
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise ArchiveError(
                f"{without_names(folder, root)}: cannot be listed ({error.strerror}). "
                "Correct its permissions, or leave the folder out."
            ) from error
        for entry in listed:
            path = folder / entry.name
            if is_helper(entry.name):
                skipped[HELPER] += 1
                continue
            try:
                mode = entry.stat().st_mode  # of what a link points to
            except OSError:
                skipped[BROKEN] += 1
                continue
            if stat.S_ISDIR(mode):
                (linked if entry.is_symlink() else pending).append(path)
            elif not stat.S_ISREG(mode):
                skipped[SPECIAL] += 1
            elif suffixes is not None and not has_suffix(entry.name, suffixes):
                skipped[OTHER] += 1
            else:
                _check_text(path, root)
                found.append(path)
    return FoundFiles(tuple(sorted(found)), dict(skipped))


def without_names(path: Path, root: Path, known: Collection[str] = ()) -> str:
    """A path for messages: positions stand for names below a folder, which may be patients'.

    ``data/train/<folder 2 of 3 by name>`` is the second folder of ``data/train`` in the order of
    names; helper files do not count.

    Args:
        path: File or folder at or below ``root``.
        root: Folder that the user named, which is shown.
        known: Names that are shown wherever they stand, since they belong to the layout.
    """
    shown, here = [_printable(root)], root
    for name in path.relative_to(root).parts:
        below, kind = here / name, "folder" if (here / name).is_dir() else "file"
        alike = (one for one in here.iterdir() if one.is_dir() == below.is_dir())
        names = sorted(os.fsencode(one.name) for one in alike if not is_helper(one.name))
        at = names.index(os.fsencode(name)) + 1
        shown.append(name if name in known else f"<{kind} {at} of {len(names)} by name>")
        here = below
    return "/".join(shown)


def _check_text(path: Path, root: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArchiveError(
            f"{without_names(path, root)}: its name, or that of a folder above it, is not UTF-8. "
            "Rename it, for instance with convmv."
        ) from error


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _listed(counts: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
    return f"{sum(counts.values()):,} ({parts})" if parts else "0"
