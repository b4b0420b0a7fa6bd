# SPDX-License-Identifier: Apache-2.0
"""Run folders: written once, resumed when unfinished, traceable by hashes.

``run.json`` says which command with which configuration read which inputs and wrote which outputs.
A folder is new, unfinished (the same command resumes) or finished (the same command is done, any
other is refused). Commands fill a folder within :func:`run_folder`; functions of lower packages
are wrapped by :func:`mammo_dp.commands.recorded`, and a fit, which lives in Lightning's hooks,
calls :func:`open_run` and :func:`close_run` itself.
"""

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.recorded import as_recorded

FILE_NAME = "run.json"
LOCK = ".lock"  # of the process that is at work on an unfinished run
_PART = ".part"  # ends the name of a file that is being written
MADE_BY = "made by mammo_dp"  # stands in files of weights and means that leave a run folder
RELEASED = (
    Path("checkpoints") / "last.ckpt"
)  # of a fit: weights and hyper-parameters, below the run
DIRTY, THEN = "+dirty", ", then "
_SOURCE = ("data_prep", "gan", "classifier", "mammo_dp")
_PACKAGES = ("mammo-dp", "torch", "lightning", "timm", "opacus", "dp-accounting", "albumentations")
# Of the run itself, and no file that it makes; a record that is being written may outlive a kill.
_OF_THE_RUN = (FILE_NAME, FILE_NAME + _PART, LOCK)
# Not hashed as outputs: they may change after the run without changing what it released.
_UNHASHED = ("features", "logs")
_AT_ONCE = 1 << 18  # bytes
_READERS = 4
_WAITING = 16  # readers where a file takes a request or two, and time passes on the way
_END = 4096  # bytes
_Found = TypeVar("_Found")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_AT_WORK = (
    "{folder}: another {other} is at work on this run. Wait for it; the same command then finds "
    "the run finished, or resumes it."
)
_LOGGER = logging.getLogger(__name__)
_TAKEN: dict[str, tuple[int, int]] = {}  # locks of this process, by folder: descriptor, thread


class RunError(ValueError):
    """A run folder cannot be used as asked; the message names folder, cause and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A file that a run read.

    Attributes:
        path: As given on the command line.
        sha256: Hash of the file, or of ``crops.csv`` for a folder of crops.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Content of ``run.json``.

    Attributes:
        folder: Where the run writes.
        command: Name of the command, such as ``fit``.
        config: Exact configuration, without the folder itself.
        config_sha256: Hash of command, configuration and seed.
        inputs: What was read, by role.
        outputs: Hash of each file that was written, by path below the folder.
        seed: Seed of everything that is not privacy-relevant, if one was given.
        commit: Commit of the source that ran, if it is a git checkout, with ``+dirty`` if files
            differ; several are joined by :data:`THEN` where a run resumed on another source.
        versions: Versions of the packages that shape the result.
        started: ISO time in UTC of the first start.
        finished: ISO time in UTC, none until the run is done.
        seconds: Wall-clock time from the first start to the end, pauses of a resumed run included.
        resumed: Whether this process resumes an unfinished folder (not stored).
    """

    folder: Path
    command: str
    config: Mapping[str, Any]
    config_sha256: str
    inputs: Mapping[str, RunInput]
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None
    commit: str | None
    versions: Mapping[str, str]
    started: str
    finished: str | None = None
    seconds: float = 0.0
    resumed: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether the run is done."""
        return self.finished is not None

    def is_finished_as_said(self) -> bool:
        """Whether the run is done; if so, prints that nothing is left to do."""
        if self.is_finished:
            print(f"{self.folder}: already finished; nothing to do.")
        return self.is_finished


def recorded_files(record: RunRecord, inputs: Mapping[str, Path]) -> dict[Path, str]:
    """Hash of each file among the inputs of a run, for :func:`data_prep.recorded.as_recorded`.

    Args:
        record: The run.
        inputs: What it reads, by role, as seen from here.
    """
    files = {role: _hashed_file(path) for role, path in inputs.items()}
    return {file: record.inputs[role].sha256 for role, file in files.items() if file is not None}


@contextmanager
def run_folder(
    folder: str | Path,
    *,
    command: str,
    config: Mapping[str, object],
    inputs: Mapping[str, Path],
    seed: int | None = None,
) -> Iterator[RunRecord]:
    """The life of a run: opens its folder, and marks it as finished when the block ends.

    A block that fails or is killed leaves the run unfinished, and the same command resumes it. A
    run that failed before it wrote anything is taken back with its folder, so that the folder is
    free for the right flags. The block of a finished run is entered, too: ``is_finished`` says that
    there is nothing left to do, and the record stays as it is.

    Args:
        folder: As for :func:`open_run`, like all others.
        command: Name of the command.
        config: Configuration.
        inputs: What will be read, by role.
        seed: Seed, if one was given.

    Yields:
        The record.

    Raises:
        RunError: If an input is missing, the folder belongs to another run or to no run, or another
            process is at work on it.
    """
    record = open_run(folder, command=command, config=config, inputs=inputs, seed=seed)
    try:
        with as_recorded(recorded_files(record, inputs)):
            yield record
        if not record.is_finished:
            close_run(record)
    except Exception:
        forget_run(record)
        raise
    finally:
        leave_run(record)


def open_run(
    folder: str | Path,
    *,
    command: str,
    config: Mapping[str, object],
    inputs: Mapping[str, Path],
    seed: int | None = None,
    alone: bool = True,
) -> RunRecord:
    """Starts a run, or finds the one that the folder already holds.

    The folder of an unfinished run belongs to this process until :func:`leave_run`, or until the
    process ends: two at once would release twice what the statement counts once.

    Args:
        folder: New or empty folder, or one that an earlier call of the same run made.
        command: Name of the command.
        config: Configuration, without the folder itself, so that a copy elsewhere hashes alike.
        inputs: Files or folders of crops that will be read, by role.
        seed: Seed, if one was given.
        alone: Whether no other process may be at work on the run; false for further processes of
            one that is.

    Returns:
        The record; ``is_finished`` says that there is nothing left to do, ``resumed`` that an
        unfinished run resumes.

    Raises:
        RunError: If an input is missing, the folder lies in one that is read file by file, it
            belongs to another run or to no run, or another process is at work on it.
    """
    folder = Path(folder)
    for role, path in inputs.items():
        is_read_whole = path.is_dir() and _hashed_file(path) is None
        if is_read_whole and folder.resolve().is_relative_to(path.resolve()):
            raise RunError(
                f"{folder}: lies in {path}, which is read as {role}, so what is written there "
                "would be read when the command is repeated. Choose a folder outside."
            )
    plain = json.loads(json.dumps(config, sort_keys=True, default=str))
    record = RunRecord(
        folder=folder,
        command=command,
        config=plain,
        config_sha256=config_sha256(command, plain, seed),
        inputs={
            role: RunInput(path=str(path), sha256=input_sha256(path))
            for role, path in sorted(inputs.items())
        },
        seed=seed,
        commit=source_commit(),
        versions=versions(),
        started=_now(),
    )
    if (earlier := _earlier(record)) is not None and earlier.is_finished:
        return earlier
    if alone:
        _take(folder)
    try:
        return _begun(record)
    except Exception:
        leave_run(record)
        raise


def _begun(record: RunRecord) -> RunRecord:
    """The record of a run that now belongs to this process, as it stands in the folder."""
    earlier = _earlier(record)  # once more: another process may have been faster
    if earlier is None:
        _write(record)
        return record
    if earlier.is_finished:
        leave_run(record)
        return earlier
    sources = [earlier.commit or "unknown", record.commit or "unknown"]
    if sources[0].split(THEN)[-1] != sources[1]:
        earlier = replace(earlier, commit=THEN.join(sources))
        _write(earlier)
    return replace(earlier, resumed=True)


def _earlier(record: RunRecord) -> RunRecord | None:
    """What an earlier process left of this run; none in a new or empty folder.

    Raises:
        RunError: If the folder belongs to another run or to no run.
    """
    folder = record.folder
    if not (folder / FILE_NAME).exists():
        if folder.exists() and any(path.name not in _OF_THE_RUN for path in folder.iterdir()):
            raise RunError(
                f"{folder}: holds files but no {FILE_NAME}. Choose a new folder; nothing is "
                "overwritten."
            )
        return None
    earlier = read_run(folder)
    if earlier.config_sha256 != record.config_sha256:
        raise RunError(
            f"{folder}: holds a run of `{earlier.command}` with another configuration "
            f"({_difference(earlier, record)}). Choose a new folder; nothing is overwritten."
        )
    changed = [
        role
        for role in {*earlier.inputs, *record.inputs}
        if _hash_of(earlier, role) != _hash_of(record, role)
    ]
    if changed:
        raise RunError(
            f"{folder}: its inputs {sorted(changed)} have changed since it was started. "
            "Choose a new folder; nothing is overwritten."
        )
    return earlier


def _take(folder: Path) -> None:
    """Keeps other processes off a folder, until :func:`_leave` or the end of this one.

    Raises:
        RunError: If another process is at work there.
    """
    path, name = folder / LOCK, str(folder.resolve())
    if (before := _TAKEN.get(name)) is not None:
        if _is_file(path, before[0]):
            if before[1] == threading.get_ident():
                return
            raise RunError(_AT_WORK.format(folder=folder, other="thread of this process"))
        os.close(_TAKEN.pop(name)[0])  # of a folder that was deleted since
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = _opened(path)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise RunError(_AT_WORK.format(folder=folder, other="process")) from error
            _LOGGER.warning(
                "%s: its file system has no locks. Start nothing else on this run meanwhile: two "
                "processes would release twice what the statement counts once.",
                folder,
            )
        if _is_file(path, descriptor):  # and not one that was deleted since
            break
        os.close(descriptor)
    _TAKEN[name] = (descriptor, threading.get_ident())


def _opened(path: Path) -> int:
    """Opens the lock of a folder; one that somebody else left behind may be readable only."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)


def _lock(descriptor: int) -> None:
    """Locks a file for this process, or raises ``OSError`` at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go() -> None:
    """In a forked process: a lock ends with the process that took it, and not with its workers."""
    for descriptor, _ in _TAKEN.values():
        os.close(descriptor)
    _TAKEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def leave_run(record: RunRecord) -> None:
    """Lets other processes at an unfinished run again; nothing where this one did not keep it."""
    _leave(record.folder)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes off a folder that holds runs and is none itself, as of a benchmark.

    Args:
        folder: Made if it is missing.

    Raises:
        RunError: If another process is at work there.
    """
    _take(folder)
    try:
        yield
    finally:
        _leave(folder)


def _leave(folder: Path) -> None:
    name = str(folder.resolve())
    descriptor, holder = _TAKEN.get(name, (-1, 0))
    if holder != threading.get_ident():
        return
    del _TAKEN[name]
    if _is_file(folder / LOCK, descriptor):
        with suppress(OSError):  # a folder that may be read only by now
            (folder / LOCK).unlink()
    os.close(descriptor)


def close_run(record: RunRecord, *, passing: Path | None = None) -> RunRecord:
    """Marks a run as finished, with the hash of each file in its folder.

    Args:
        record: The run.
        passing: File below the folder that is deleted next, and so is no output.
    """
    left = None if passing is None else record.folder / passing
    files = [path for path in files_of(record.folder) if path != left]
    names = (path.relative_to(record.folder).as_posix() for path in files)
    outputs = dict(zip(names, _of_each(file_sha256, files, _READERS), strict=True))
    finished = datetime.now(UTC)
    seconds = (finished - datetime.fromisoformat(record.started)).total_seconds()
    done = replace(
        record, outputs=outputs, finished=finished.isoformat(timespec="seconds"), seconds=seconds
    )
    _write(done)
    leave_run(done)
    return done


def files_of(folder: Path) -> list[Path]:
    """Files of a run, sorted.

    Nested run folders have records of their own and are left out, as are caches and logs.
    """
    return sorted(map(Path, _files_below(str(folder), left_out=_UNHASHED)))


def _files_below(folder: str, *, left_out: Sequence[str] = ()) -> Iterator[str]:
    """Files of a folder and of those in it that are no runs of their own."""
    with os.scandir(folder) as found:  # pathlib takes six times as long
        entries = [entry for entry in found if entry.name not in left_out]
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not Path(entry.path, FILE_NAME).exists():
                yield from _files_below(entry.path)
        elif entry.name not in _OF_THE_RUN and entry.is_file():
            yield entry.path


def forget_run(record: RunRecord, *traces: str) -> None:
    """Takes back a run that was refused before it made anything, and its folder with it.

    Args:
        record: An unfinished run.
        traces: Files that only repeat what was asked for, as patterns below the folder. Where any
            other file lies beside them, all is left as it is.
    """
    written = [path for path in record.folder.rglob("*") if not path.is_dir()]
    patterns = (*_OF_THE_RUN, *traces)
    if record.is_finished or not all(
        any(fnmatch(path.relative_to(record.folder).as_posix(), one) for one in patterns)
        for path in written
    ):
        return
    with suppress(OSError):  # a further process of the same fit may do so, too
        for path in written:
            path.unlink()
        for folder in sorted(record.folder.rglob("*"), reverse=True):
            folder.rmdir()
        record.folder.rmdir()
    leave_run(record)


def read_run(folder: str | Path) -> RunRecord:
    """Reads ``run.json``.

    Raises:
        RunError: If the folder holds none, or one that cannot be read.
    """
    path = Path(folder) / FILE_NAME
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        inputs = {role: RunInput(**value) for role, value in stored.pop("inputs").items()}
        return RunRecord(folder=Path(folder), inputs=inputs, **stored)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"{path}: is no readable run record ({error}). Give the folder of a run."
        ) from error


def run_of(path: str | Path) -> Path | None:
    """The nearest folder at or above ``path`` that holds ``run.json``, if there is one."""
    path = Path(path)
    for folder in (path, *path.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    return None


def config_sha256(command: str, config: Mapping[str, Any], seed: int | None) -> str:
    """Hash of what a run was asked to do; 1 and 1.0 are one number.

    An option that takes both is read as one or the other, which depends on what was imported first.

    Args:
        command: Name of the command.
        config: Plain values, as JSON gives them.
        seed: Seed, if one was given.
    """
    return _text_sha256([command, _whole(config), seed])


def _whole(value: object) -> object:
    """The same plain value with whole floats as integers."""
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    # hashlib.file_digest clears a buffer for each file, which takes half as long as to hash a crop.
    with Path(path).open("rb", buffering=0) as file:
        while part := file.read(_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def _of_each(read: Callable[[Path], _Found], files: Sequence[Path], readers: int) -> list[_Found]:
    """What a function gives for each file; several are read at once, as reading lets others run."""

    def share(first: int) -> list[_Found]:
        return [read(path) for path in files[first::readers]]

    with ThreadPoolExecutor(readers) as pool:
        shares = list(pool.map(share, range(readers)))
    return [shares[number % readers][number // readers] for number in range(len(files))]


def _hashed_file(path: Path) -> Path | None:
    """The file whose hash stands for an input: itself, or the table of a folder of crops."""
    file = path / "crops.csv" if path.is_dir() else path
    return file if file.is_file() else None


def input_sha256(path: str | Path) -> str:
    """SHA-256 of a file; of ``crops.csv`` for crops; of any other folder, what shows its files.

    ``crops.csv`` holds a hash of each crop. Archives are too large to read on each start, so name,
    size, first and last 4 KB stand for a file: they hold the number of a DICOM image, and the
    checksum of a PNG. :func:`files_sha256` reads files whole. Links are followed, as by whoever
    reads the folder.

    Raises:
        RunError: If the path does not exist.
        ArchiveError: If a folder below it cannot be listed, or a name is no valid text.
    """
    path = Path(path)
    if (file := _hashed_file(path)) is not None:
        return file_sha256(file)
    if not path.is_dir():
        raise RunError(f"{path}: does not exist. Check the path, or run the stage that makes it.")
    files = find_files(path).paths
    names = [file.relative_to(path).as_posix() for file in files]
    return _text_sha256([names, _of_each(_size_and_ends, files, _WAITING)])


def is_still(path: Path, sha256: str) -> bool:
    """Whether what lies at a path is known to be an input that was hashed before."""
    try:
        return path.exists() and input_sha256(path) == sha256
    except (OSError, ArchiveError):  # not to be listed or read, so nobody knows
        return False


def _size_and_ends(path: Path) -> tuple[int, str] | None:
    """Size of a file, and hash of its first and last bytes; None if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(file.read(_END))
            file.seek(max(_END, size - _END))
            digest.update(file.read(_END))
    except OSError:  # whoever reads it next says what is wrong with it
        return None
    return size, digest.hexdigest()


def files_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the names and the contents of files, all of which are read.

    A file that cannot be read is no error: whoever reads it next says what is wrong with it.
    """

    def content(path: Path) -> str | None:
        try:
            return file_sha256(path)
        except OSError:
            return None

    names = [path.as_posix() for path in files]
    return _text_sha256([names, _of_each(content, files, _READERS)])


def versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed versions, by distribution; ``"unknown"`` for what is not installed."""
    return {name: _version(name) for name in names}


@cache  # a version is read from files, and does not change under a process that has the package
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def write_text_atomically(path: str | Path, text: str) -> None:
    """Writes a text file in one move, so that it is whole or absent."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: str | Path, content: bytes) -> None:
    """Writes a binary file in one move, so that it is whole or absent.

    What a full disk cut off is removed; a kill may leave the file under :func:`part_of` its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if error.filename is None:  # a full disk does not say what was written
            error.filename = str(path)
        raise


def part_of(path: Path) -> Path:
    """Where a file stands while it is being written."""
    return path.with_name(path.name + _PART)


def _write(record: RunRecord) -> None:
    stored = asdict(replace(record, config={}, versions={}, outputs={}, inputs={}))
    stored |= {name: dict(getattr(record, name)) for name in ("config", "versions", "outputs")}
    stored["inputs"] = {role: asdict(value) for role, value in record.inputs.items()}
    del stored["folder"], stored["resumed"]
    write_text_atomically(record.folder / FILE_NAME, json.dumps(stored, indent=2) + "\n")


def _difference(one: RunRecord, other: RunRecord) -> str:
    """Names what differs, so that a user sees which flag to undo."""
    if one.command != other.command:
        return f"command {one.command!r}, now {other.command!r}"
    before, after = _flat(one.config), _flat(other.config)
    before["seed"], after["seed"] = one.seed, other.seed
    names = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    shown = [f"{key}: {before.get(key)!r}, now {after.get(key)!r}" for key in names[:3]]
    return "; ".join(shown + ([f"and {len(names) - 3} more"] if len(names) > 3 else []))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _hash_of(record: RunRecord, role: str) -> str | None:
    return record.inputs[role].sha256 if role in record.inputs else None


def _text_sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def source_commit() -> str | None:
    """Commit of this package's checkout, with ``+dirty`` if source differs; None outside of git.

    Source is what can be imported: changed or new files of the packages.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *_SOURCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return head + (DIRTY if changed else "")


def _git(root: Path, *words: str) -> str:
    ask = ["git", "-C", str(root), *words]
    return subprocess.run(
        ask, capture_output=True, text=True, check=True, timeout=10, encoding="utf-8"
    ).stdout.strip()
