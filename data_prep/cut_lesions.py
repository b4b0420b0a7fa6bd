# SPDX-License-Identifier: Apache-2.0
"""A table of lesions becomes a folder of crops: image by image, on every core or any cluster.

A worker reads one image, cuts all its lesions, writes their files and answers with a few facts, so
memory is that of one image for each worker. What is done stands in a journal beside the crops:
after an interruption, whenever it comes, the same call resumes, reads no finished image again, and
ends with the same bytes. Results are used in the order of the table, whoever computed them.

Where a statement will follow (:mod:`data_prep.authentication`), the lines of the journal have codes
and tables that an unfinished call left are written again: anyone may have put them there.
"""

import csv
import faulthandler
import hashlib
import json
import os
import threading
import time
from asyncio import CancelledError
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from distributed import Client, Future, KilledWorker, as_completed, wait
from distributed.comm.core import CommClosedError

from data_prep import cluster
from data_prep.authentication import Authenticate, authenticator
from data_prep.card import TriedLesion, write_card
from data_prep.cluster import ClusterError, FixedThreads, usable_cores
from data_prep.crop_image import is_whole
from data_prep.crop_set import REJECTED_FILE, CropSet, clear_majority, print_counts
from data_prep.cut_image import Cut, ImageOrder, LesionOrder, cut_image
from data_prep.cutting import Cutting
from data_prep.duplicates import AcrossPatients
from data_prep.errors import ArchiveError, ManifestError, RecordRejected
from data_prep.identity import normalised
from data_prep.lesions import LesionRow, LesionTable, Region, Slab, require_clear_patients
from data_prep.manifest import FILE_NAME, Crop, CropsManifest, Split
from data_prep.progress import watched
from data_prep.splits import assign_split, check_patients, refine_split

JOURNAL = "cutting.jsonl"
IN_PROCESS = 16  # images up to which starting workers takes longer than the work
LIMIT_S = 300.0  # for one image, which takes a second or less
_AHEAD = 2  # images handed out for each worker, so that none waits for the next
_TASK_S = 0.5  # that a task should take: images of less are handed out several at a time
_MOST_IN_TASK = 16
_COUNT_AGAIN_S = 5.0  # between looks at how many workers a cluster has
_IMPORTED = ("cv2", "data_prep.cut_lesions")


def cut_lesions(
    table: LesionTable,
    out: Path,
    *,
    cutting: Cutting,
    origin: str,
    scheduler: str | None = None,
    workers: int | None = None,
    strict: bool = False,
    across_patients: AcrossPatients = "refuse",
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    scanned_film: bool = False,
    limit_s: float = LIMIT_S,
    card: bool = True,
) -> CropsManifest:
    """Cuts the lesions of a table out of their images and fills a folder of crops.

    Patients whom the table puts in a split stay there; if it knows no val, a share of its training
    patients becomes val. Patients without a split get one by a keyed hash of their id.

    Args:
        table: What to cut.
        out: Folder to fill: new, or one that this call left unfinished. One that is finished is
            left as it is, if no statement will follow.
        cutting: How to cut.
        origin: Name of the data set in ``crops.csv``.
        scheduler: Address of a dask scheduler; none for this machine.
        workers: Processes on this machine; all usable cores if not given. Up to one, and for a
            few images, all happens in this process.
        strict: Whether the first lesion that becomes no crop stops.
        across_patients: As for :func:`data_prep.duplicates.deduplicate`.
        val_fraction: Expected share of patients in ``val``.
        test_fraction: Expected share of patients in ``test``, of those without a split.
        scanned_film: Whether secondary capture is accepted; always for an archive that says so.
        limit_s: Seconds after which an image is given up.
        card: Whether the private page :data:`data_prep.card.FILE_NAME` is written, too.

    Raises:
        ArchiveError: If no crop is left, or rows of two patients name one image.
        ClusterError: If the scheduler or its workers cannot be used.
        LeakageError: If a patient or a copy is in two splits.
        ManifestError: If the folder was begun by a call for other images or other settings, or for
            ids that could be one patient's or two.
    """
    require_clear_patients([(row.path, row.patient_id, row.where) for row in table.rows])
    splits = patient_splits(table.rows, val_fraction=val_fraction, test_fraction=test_fraction)
    film = scanned_film or (table.facts is not None and table.facts.scanned_film)
    work = _Work(orders=_orders(table.rows, origin, film), cutting=cutting, out=out)
    journal = Journal(out / JOURNAL, work.key, authenticator())
    if (out / FILE_NAME).exists() and journal.authenticate is None:
        return _finished(work, journal)
    if done := journal.read():
        noted = watched(done.items(), "Checking crops")
        done = {number: cuts for number, cuts in noted if work.stands(number, cuts)}
    if done:
        print(f"{out}: {len(done):,} of {len(work.orders):,} images are read; resuming.")
    out.mkdir(parents=True, exist_ok=True)
    left = [number for number in range(len(work.orders)) if number not in done]
    rejected = [RecordRejected(one.reason, one.message) for one in table.left_out]
    if strict and rejected:
        raise rejected[0]
    first = 0  # lesions are judged in the order of the table, so that strict stops at the same one
    with closing(_Reading(work, journal, limit_s).results(left, scheduler, workers)) as results:
        for number, cuts in watched(results, "Reading images", total=len(left)):
            done[number] = cuts
            while strict and first in done:
                for cut in done[first]:
                    if cut.reason:
                        raise RecordRejected(cut.reason, cut.message)
                first += 1
    crops = CropSet(
        out,
        strict=strict,
        across_patients=across_patients,
        found=len(table.rows) + len(table.left_out) + sum(table.skipped.values()),
        skipped=table.skipped,
    )
    for row, error in zip(table.left_out, rejected, strict=True):
        crops.reject(row.key, error)
    unused = _collect(crops, table.rows, work, done, splits, origin)
    page = None
    if card:
        tried = _tried(table.rows, work, done, origin)
        page = partial(write_card, name=origin, table=table, lesions=tried, cutting=cutting)
    manifest = crops.finish(page)
    for file in unused:
        (out / file).unlink(missing_ok=True)
    journal.remove()
    return manifest


def patient_splits(
    rows: Sequence[LesionRow], *, val_fraction: float, test_fraction: float
) -> dict[str, Split]:
    """Split of each patient, by normalised id.

    Args:
        rows: Lesions.
        val_fraction: Expected share of patients in ``val``; of the training patients where the
            table assigns splits and knows no ``val``.
        test_fraction: Expected share of patients in ``test``, of those without a split.

    Raises:
        DataError: If a share is outside its range.
        LeakageError: If the table puts a patient in two splits.
    """
    official = [(row.patient_id, row.split, row.where) for row in rows if row.split is not None]
    check_patients(official)
    known = {normalised(patient): split for patient, split, _ in official}
    refine = "val" not in known.values()
    splits: dict[str, Split] = {}
    for row in rows:
        name = normalised(row.patient_id)
        if name in splits:
            continue
        if (given := known.get(name)) is None:
            splits[name] = assign_split(
                row.patient_id, val_fraction=val_fraction, test_fraction=test_fraction
            )
        elif refine:
            splits[name] = refine_split(given, row.patient_id, val_fraction=val_fraction)
        else:
            splits[name] = given
    return splits


@dataclass(slots=True)
class Journal:
    """What has become of each image, one line of JSON each, appended as it happens.

    A line that an interruption cut off is no line, and where lines have codes, one that was not
    written for this folder, these settings and this image is none either. In one process, an image
    is noted before it is read, too: the one that was being read when the process died may have been
    the cause.

    Attributes:
        path: The file.
        key: Hash of images and settings that the lines are about.
        authenticate: Gives the code of a line; none if lines have none.
        suspects: Images that were begun in an earlier process and not ended.
    """

    path: Path
    key: str
    authenticate: Authenticate | None = None
    suspects: set[int] = field(default_factory=set)
    _file: TextIO | None = None

    def read(self) -> dict[int, list[Cut]]:
        """Answers by number of the image.

        Raises:
            ManifestError: If the lines are about other images or settings.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        found: dict[int, list[Cut]] = {}
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # cut off
                entry = json.loads(line)
                if (key := entry.get("key", self.key)) != self.key:
                    break
                if "begun" in entry:
                    self.suspects.add(int(entry["begun"]))
                elif "image" in entry and entry == self._line(entry["image"], entry["lesions"]):
                    found[int(entry["image"])] = [Cut(**cut) for cut in entry["lesions"]]
        else:
            self.suspects -= set(found)
            return found
        raise ManifestError(
            f"{self.path}: was begun for other images, another table or other settings (its key is "
            f"{key[:8]}, not {self.key[:8]}). Repeat the first call to finish it, or give a new "
            "folder."
        )

    def begin(self, number: int) -> None:
        """Notes that an image is about to be read in this process."""
        self._write({"begun": number})

    def add(self, number: int, cuts: Sequence[Cut]) -> None:
        """Notes what became of an image."""
        empty = Cut()
        lesions = [
            {name: value for name, value in asdict(cut).items() if value != getattr(empty, name)}
            for cut in cuts
        ]
        self._write(self._line(number, lesions))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Deletes the file, when all tables are written."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _line(self, number: int, lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is noted of an image, with its code where lines have one."""
        line = {"image": number, "lesions": lesions}
        if self.authenticate is None:
            return line
        run = {"journal": str(self.path.resolve()), "key": self.key}
        return {**line, "code": self.authenticate({**run, **line})}

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n" + json.dumps({"key": self.key}) + "\n")  # ends a cut-off line
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """All images to be read, in the order in which the table first names them."""

    orders: Sequence[ImageOrder]
    cutting: Cutting
    out: Path

    @property
    def key(self) -> str:
        """Hash of images and settings."""
        digest = hashlib.sha256(repr(self.cutting).encode())
        for order in self.orders:
            digest.update(repr(order).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def stands(self, number: int, cuts: Sequence[Cut]) -> bool:
        """Whether an answer is about this image and its crops are there, pixel by pixel.

        After a loss of power a file may be there and empty, and somebody may have replaced it.
        """
        if not number < len(self.orders) or len(cuts) != len(self.orders[number].lesions):
            return False
        return all(
            cut.reason or is_whole(self.out / lesion.file, cut.sha256, depth=_depth(lesion.region))
            for lesion, cut in zip(self.orders[number].lesions, cuts, strict=True)
        )


@dataclass(slots=True)
class _Reading:
    """Reads images in this process or on workers, and sees to those that kill or hang them."""

    work: _Work
    journal: Journal
    limit_s: float
    _blamed: set[int] = field(default_factory=set)

    def results(
        self, numbers: Sequence[int], scheduler: str | None, count: int | None
    ) -> Generator[tuple[int, list[Cut]], None, None]:
        """Answers as they come, each noted in the journal before.

        An image whose worker died or hung is tried once more, with no other at work, so that none
        is blamed for another.

        Raises:
            ClusterError: If the scheduler or its workers cannot be used.
            OSError: If a crop cannot be written.
        """
        self._blamed = set(numbers) & self.journal.suspects
        plain = [number for number in numbers if number not in self._blamed]
        count = usable_cores() if count is None else count
        try:
            if scheduler is None and (count <= 1 or len(plain) <= IN_PROCESS):
                yield from self._noted(self._here(plain))
                if self._blamed:
                    with self._workers(None, 1) as client:
                        yield from self._noted(self._alone(client))
                return
            with self._workers(scheduler, min(count, len(plain))) as client:
                yield from self._noted(self._together(client, plain))
                yield from self._noted(self._alone(client))
        finally:
            self.journal.close()

    def _noted(self, results: Iterator[tuple[int, list[Cut]]]) -> Iterator[tuple[int, list[Cut]]]:
        for number, cuts in results:
            self.journal.add(number, cuts)
            yield number, cuts

    @contextmanager
    def _workers(self, scheduler: str | None, count: int) -> Iterator[Client]:
        with cluster.workers(scheduler, count=count, deaths_allowed=0, keep_memory=True) as client:
            folders = {str(self.work.out): self.work.out}
            if self.work.orders:  # whose folder may be called as its patient
                folders["the folder of the first image"] = self.work.orders[0].path.parent
            cluster.prepare(client, FixedThreads(1, _IMPORTED), folders)
            yield client

    def _here(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[Cut]]]:
        """In a thread of this process, which is left behind if it hangs."""
        for number in numbers:
            self.journal.begin(number)
            answer: list[list[Cut] | BaseException] = []
            order = self.work.orders[number]

            def read(order: ImageOrder = order, answer: list[Any] = answer) -> None:
                try:
                    answer.append(cut_image(order, self.work.cutting, self.work.out))
                except BaseException as error:
                    answer.append(error)

            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            thread.join(self.limit_s)
            if not answer:
                self._blamed.add(number)
            elif isinstance(one := answer[0], BaseException):
                raise one
            else:
                yield number, one

    def _together(self, client: Client, numbers: Sequence[int]) -> Iterator[tuple[int, list[Cut]]]:
        """On all workers, a bounded number at a time."""
        waiting = deque(numbers)
        futures: dict[Future[_Answers], list[int]] = {}
        ended = as_completed([], loop=client.loop)
        most, counted, seconds = 0, -_COUNT_AGAIN_S, _TASK_S
        while waiting or futures:
            if (now := time.monotonic()) - counted >= _COUNT_AGAIN_S:
                most, counted = _AHEAD * max(1, len(client.nthreads())), now
            while waiting and len(futures) < most:
                size = max(1, min(_MOST_IN_TASK, round(_TASK_S / seconds), len(waiting) // most))
                some = [waiting.popleft() for _ in range(size)]
                future = self._submit(client, some)
                futures[future] = some
                ended.add(future)
            future = next(ended)
            some = futures.pop(future)
            if (answers := _answers(future)) is None:
                self._blamed |= set(some)
                continue
            seconds = max(answers.seconds / len(some), 1e-3)
            yield from zip(some, answers.cuts, strict=True)

    def _alone(self, client: Client) -> Iterator[tuple[int, list[Cut]]]:
        """Those that are blamed, one after another."""
        for number in sorted(self._blamed):
            begun = time.monotonic()
            future = self._submit(client, [number])
            wait(future)
            if (answers := _answers(future)) is not None:
                yield number, answers.cuts[0]
                continue
            late = time.monotonic() - begun >= self.limit_s
            yield number, self._given_up(self.work.orders[number], late=late)

    def _submit(self, client: Client, numbers: Sequence[int]) -> "Future[_Answers]":
        orders, work = [self.work.orders[number] for number in numbers], self.work
        key = f"image-{numbers[0]}-{time.time_ns()}"
        return client.submit(
            _on_worker, orders, work.cutting, work.out, self.limit_s, key=key, pure=False
        )

    def _given_up(self, order: ImageOrder, *, late: bool) -> list[Cut]:
        what = f"takes more than {self.limit_s:g} s" if late else "ends the process that reads it"
        return [
            Cut(
                reason="timeout" if late else "worker_died",
                message=f"{lesion.where}: its image {what}, twice. Copy the file again, or leave "
                "the row out.",
            )
            for lesion in order.lesions
        ]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a task answers: lesions of each of its images, and how long all took."""

    cuts: list[list[Cut]]
    seconds: float


def _on_worker(
    orders: Sequence[ImageOrder], cutting: Cutting, out: Path, limit_s: float
) -> _Answers:
    """Cuts, and ends the process if an image takes too long, even in code that hears nothing."""
    begun, cuts = time.monotonic(), []
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        try:
            for order in orders:
                faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
                cuts.append(cut_image(order, cutting, out))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return _Answers(cuts, time.monotonic() - begun)


def _answers(future: "Future[_Answers]") -> _Answers | None:
    """What a worker answered; none if it died.

    Raises:
        ClusterError: If nobody knows, since the scheduler is gone.
        OSError: If the crop could not be written.
    """
    try:
        # An answer that was lost with its worker is computed again, which this waits for.
        found: _Answers = future.result()
    except KilledWorker:
        return None
    except (Exception, CancelledError) as error:
        if future.status in ("cancelled", "lost") or isinstance(error, CommClosedError):
            raise ClusterError(
                f"the scheduler was lost ({type(error).__name__}). Start it and its workers, and "
                "run the same command: only the images that were being read are read again."
            ) from error
        raise
    return found


def _orders(rows: Sequence[LesionRow], origin: str, film: bool) -> list[ImageOrder]:
    """One per image, in the order in which the table first names them."""
    groups: dict[Path, list[LesionRow]] = {}
    for row in rows:
        groups.setdefault(row.path, []).append(row)
    return [
        ImageOrder(
            path=path,
            spacing_mm=lesions[0].spacing_mm,  # one for each file, as the table was checked
            scanned_film=film,
            lesions=tuple(
                LesionOrder(where=row.where, region=row.region, file=_file(row, origin))
                for row in lesions
            ),
        )
        for path, lesions in groups.items()
    ]


def _file(row: LesionRow, origin: str) -> str:
    return f"images/{origin}_{row.key}.{'tif' if _depth(row.region) else 'png'}"


def _depth(region: Region) -> int | None:
    """Slices of a volume; none for a crop in the plane."""
    return region.depth if isinstance(region, Slab) else None


def _collect(
    crops: CropSet,
    rows: Sequence[LesionRow],
    work: _Work,
    done: Mapping[int, Sequence[Cut]],
    splits: Mapping[str, Split],
    origin: str,
) -> list[str]:
    """Gives all crops and rejections to the set, in the order of the table.

    Returns:
        Image files that may have been written and are no crops.
    """
    answers: dict[str, Cut] = {}  # by file of the crop, which is one per row
    for number, order in enumerate(work.orders):
        for lesion, cut in zip(order.lesions, done[number], strict=True):
            answers[lesion.file] = cut
    unit = _one_unit(rows, answers, origin)
    unused = []
    for row in rows:
        file = _file(row, origin)
        cut = answers[file]
        reason, message = cut.reason, cut.message
        if not reason and (cut.spacing_mm is not None) != unit:
            states, others = ("states no", "do") if unit else ("states its", "do not")
            reason = "spacing"
            message = (
                f"{row.where}: its image {states} pixel spacing, but most {others}, so margins "
                "would have two units. Give --spacing_mm, with a new folder."
            )
        if not reason and row.malignant is None:
            reason, message = "no_label", f"{row.where}: has no label. Leave the row out."
        if reason:
            crops.reject(row.key, RecordRejected(reason, message))
            unused += [file, f"{file}.part"]
            continue
        crops.add_written(
            Crop(
                file=file,
                patient_id=row.patient_id,
                lesion_id=row.lesion_id,
                image_id=row.image_id,
                malignant=bool(row.malignant),
                split=splits[normalised(row.patient_id)],
                origin=origin,
                label_source=row.label_source,
                crop_rule="centred",
                sha256=cut.sha256,
                fingerprint=cut.fingerprint,
                view=row.view or cut.view,
                laterality=row.laterality or cut.laterality,
                pixel_spacing_mm=cut.spacing_mm,
                depth=_depth(row.region),
                slice_spacing_mm=cut.slice_mm,
                attributes=row.attributes
                if cut.centre_slice is None
                else {**row.attributes, "centre_slice": str(cut.centre_slice)},
            ),
            work.cutting.size,
        )
    return unused


def _tried(
    rows: Sequence[LesionRow], work: _Work, done: Mapping[int, Sequence[Cut]], origin: str
) -> list[TriedLesion]:
    """What the card says and shows of each lesion, in the order of the table."""
    known = {
        lesion.file: (order, cut)
        for number, order in enumerate(work.orders)
        for lesion, cut in zip(order.lesions, done[number], strict=True)
    }
    tried = []
    for row in rows:
        file = _file(row, origin)
        order, cut = known[file]
        tried.append(
            TriedLesion(
                row=row,
                file=file,
                scanned_film=order.scanned_film,
                reason=cut.reason,
                format=cut.format,
                image_mm=cut.image_mm,
                spacing_source=cut.spacing_source,
            )
        )
    return tried


def _one_unit(rows: Sequence[LesionRow], answers: Mapping[str, Cut], origin: str) -> bool:
    """Whether margins of the set are millimetres, as for most crops, or pixels.

    Raises:
        ArchiveError: If neither has a clear majority; it names a row of each kind.
    """
    cut = [row for row in rows if not answers[_file(row, origin)].reason]
    units = [answers[_file(row, origin)].spacing_mm is not None for row in cut]
    unit = clear_majority(units, [normalised(row.patient_id) for row in cut])
    if unit is None and units:
        without, having = (cut[units.index(one)].where for one in (False, True))
        raise ArchiveError(
            f"{without}: its image states no pixel spacing, but that of {having} does, so margins "
            "would have two units. Give --spacing_mm for those that state none, or leave the rows "
            "of one kind out. Either needs a new folder: this one was begun otherwise."
        )
    return bool(unit)


def _finished(work: _Work, journal: Journal) -> CropsManifest:
    """The crops of a folder whose tables are written; removes what an interruption left."""
    manifest = CropsManifest.read(work.out)
    if journal.path.exists():
        kept = {crop.file for crop in manifest.crops}
        for order in work.orders:
            for lesion in order.lesions:
                if lesion.file not in kept:
                    (work.out / lesion.file).unlink(missing_ok=True)
                (work.out / f"{lesion.file}.part").unlink(missing_ok=True)
        journal.remove()
    else:
        print(f"{work.out}: holds its crops already; nothing to do.")
    with (work.out / REJECTED_FILE).open(encoding="utf-8", newline="") as file:
        reasons = Counter(row["reason"] for row in csv.DictReader(file))
    print_counts(manifest, reasons, merged=0)
    return manifest
