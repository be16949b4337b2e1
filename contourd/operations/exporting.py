"""A job's structure sets and images taken out of the spool, for a folder or a browser; audited, nothing overwritten.

What leaves so is what would be sent: of a job that is held, or waits for confirmation, nothing does.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from sqlalchemy import select

from contourd.dicom.reading.dataset_hash import dataset_sha256
from contourd.errors import InvalidTransition
from contourd.intake.releasing import refuse_outdated
from contourd.operations.operations import Operations
from contourd.store.constancy_series import own_series
from contourd.store.contourings import images_sha256, last_outputs
from contourd.store.database import Database
from contourd.store.states import JobState
from contourd.store.tables import ConstancySeriesRow, ContouringRow, DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.system.durable_files import write_fsynced
from contourd.system.regular_files import read_regular
from contourd.transfer.copies import Copies

# Whose structure sets a destination gets, or got.
GIVEN = (JobState.DELIVERING, JobState.DELIVERED, JobState.FAILED)
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
STRUCTURE_SETS, IMAGES = "RT", "CT"


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file: by what name it is given, where it lies relative to the spool, and its hash as ``hashed`` makes it."""

    name: str
    path: str
    sha256: str
    hashed: Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Export:
    """What is given of a job; ``left_out`` says why its images are not, and is empty where they are."""

    job: int
    files: tuple[ExportedFile, ...]
    left_out: str


def prepare_export(database: Database, root: Path, copies: Copies, job_id: int) -> Export:
    """Find a job's files, and see that its structure sets are what was made.

    Raises
    ------
    InvalidTransition
        Nothing of the job is given, in words.
    QueueUnavailable, StoreUnavailable
        The database or the object store does not answer.
    """
    with database.reading() as session:
        job = session.get(JobRow, job_id)
        if job is None:
            raise InvalidTransition(f"there is no job {job_id}")
        series = session.get_one(SeriesRow, job.series_id)
        if session.scalar(own_series().where(ConstancySeriesRow.series_id == series.id)) is not None:
            raise InvalidTransition(f"job {job_id} is a constancy check's own: it goes nowhere")
        refuse_outdated(session, job)
        if job.state not in GIVEN:
            raise InvalidTransition(f"nothing of job {job_id} is given out: it is {job.state}")
        if job.purged_at is not None:
            raise InvalidTransition(f"retention removed the structure set of job {job_id}; send the series again")
        given = select(DeliveryRow.output).where(DeliveryRow.job_id == job_id, DeliveryRow.output != "")
        outputs = list(dict.fromkeys(session.scalars(given.order_by(DeliveryRow.id))))
        known = {output.path: output.sha256 for output in last_outputs(session, job_id)}
        images = select(InstanceRow.sop_instance_uid, InstanceRow.path, InstanceRow.sha256)
        rows = session.execute(images.where(InstanceRow.series_id == series.id).order_by(InstanceRow.id)).all()
        last = select(ContouringRow.images_sha256).where(ContouringRow.job_id == job_id)
        contoured = session.scalar(last.order_by(ContouringRow.id.desc()).limit(1))
        left_out = _images_left_out(series, contoured, images_sha256(row.sha256 for row in rows))
    if not outputs:
        raise InvalidTransition(f"job {job_id} has no structure set: it is {job.state}")
    files = [
        ExportedFile(f"{STRUCTURE_SETS}/{Path(path).name}", path, known.get(path, ""), _sha256) for path in outputs
    ]
    if not left_out:
        files += [ExportedFile(f"{IMAGES}/{uid}.dcm", path, digest, dataset_sha256) for uid, path, digest in rows]
    copies.bring(file.path for file in files)
    for file in files[: len(outputs)]:
        read_exported(root, file)
    return Export(job_id, tuple(files), left_out)


def _images_left_out(series: SeriesRow, contoured: str | None, here: str) -> str:
    if series.purged_at is not None:
        return f"retention removed the images on {series.purged_at:%Y-%m-%d}"
    return "the series has other images now than those that it was contoured on" if contoured != here else ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_exported(root: Path, file: ExportedFile) -> bytes:
    """Read a file that is what was received, or made.

    Raises
    ------
    InvalidTransition
        It is gone or damaged: it is not given.
    """
    try:
        content = read_regular(root / file.path, follow=False)
    except OSError as error:
        raise InvalidTransition(f"{file.path} cannot be read: {error.strerror}") from error
    if file.sha256 and file.hashed(content) != file.sha256:
        raise InvalidTransition(f"{file.path} is damaged: it is not what was received or made")
    return content


def note_export(by: Operations, export: Export, where: str) -> None:
    """Write down who takes it, before it is given."""
    images = sum(file.hashed is dataset_sha256 for file in export.files)
    by.note("export", f"job {export.job}", f"{len(export.files) - images} structure sets, {images} images {where}")


def refuse_present(folder: Path) -> None:
    """Refuse a folder that is there; raises InvalidTransition."""
    if os.path.lexists(folder):
        raise InvalidTransition(f"{folder} is there already, and nothing is overwritten; name a folder that is not")


def write_export(root: Path, export: Export, folder: Path) -> None:
    """Write all files into a folder that is not there yet, or nothing.

    Raises
    ------
    InvalidTransition
        There is something of that name, it cannot be written, or a file is damaged.
    """
    refuse_present(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        for file in export.files:
            target = partial / file.name
            target.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            write_fsynced(target, [read_exported(root, file)], PRIVATE)
        refuse_present(folder)  # it may have been made meanwhile
        partial.rename(folder)
    except OSError as error:
        raise InvalidTransition(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            rmtree(partial, ignore_errors=True)


class _Passing(io.RawIOBase):
    """Takes what is written, and gives it on once."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def write(self, content: object) -> int:
        """Keep a part."""
        part = bytes(content)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zipped(root: Path, export: Export) -> Iterator[bytes]:
    """Give a zip file piece by piece: no more than one file of it is in memory.

    Raises
    ------
    InvalidTransition
        A file is gone or damaged: the zip ends before its directory, and no program opens it.
    """
    passing = _Passing()
    with zipfile.ZipFile(passing, "w", zipfile.ZIP_STORED) as archive:
        for file in export.files:
            archive.writestr(zipfile.ZipInfo(f"job-{export.job}/{file.name}"), read_exported(root, file))
            yield passing.take()
    yield passing.take()
