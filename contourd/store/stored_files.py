"""The index of what lies in the object store: which object, where in it, and the hash of each file's bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from contourd.spool.objects import StoredFile
from contourd.store.tables import (
    ContradictingFileRow,
    InstanceRow,
    JobRow,
    NewerImageRow,
    StoredFileRow,
)

# Of paths in one statement: SQLite takes 32766 parameters, and older ones 999.
AT_ONCE = 500


def add_stored(session: Session, files: Iterable[StoredFile], now: datetime) -> None:
    """Write down where files lie that the index does not know."""
    session.add_all(_row(file, now) for file in files)


def find_stored(session: Session, paths: Iterable[str]) -> dict[str, StoredFile]:
    """Return where files lie, by their paths; those that were not stored, or were removed, are left out."""
    found = dict[str, StoredFile]()
    for some in _some(paths):
        wanted = select(StoredFileRow).where(StoredFileRow.path.in_(some), StoredFileRow.removed_at.is_(None))
        found |= {row.path: _file(row) for row in session.scalars(wanted)}
    return found


def move_stored(session: Session, files: Collection[StoredFile], before: dict[str, StoredFile], now: datetime) -> int:
    """Write down that files lie in another object now, or for the first time; returns of how many that is so.

    Parameters
    ----------
    before
        Where those lay that had been stored, by their paths. Another host may have moved one meanwhile: that counts.
    """
    moved = 0
    known = {
        row.path: row
        for some in _some(f.path for f in files)
        for row in session.scalars(select(StoredFileRow).where(StoredFileRow.path.in_(some)).with_for_update())
    }
    for file in files:
        row, old = known.get(file.path), before.get(file.path)
        if row is None and old is None:
            session.add(_row(file, now))
        elif row is not None and old is not None and row.removed_at is None and row.object == old.name:
            row.object = file.name
            row.offset_bytes = file.offset
            row.size_bytes = file.size_bytes
            row.sha256 = file.sha256
        else:
            continue
        moved += 1
    return moved


def mark_removed(session: Session, paths: Iterable[str], now: datetime) -> None:
    """Write down that files are no more: their objects go, and the copies that other hosts have."""
    for some in _some(paths):
        session.execute(
            update(StoredFileRow)
            .where(StoredFileRow.path.in_(some), StoredFileRow.removed_at.is_(None))
            .values(removed_at=now)
        )


def stored_outputs(session: Session, job_id: int) -> list[str]:
    """Return the structure sets of a job that are in the store, by their paths."""
    of_job = or_(StoredFileRow.path == f"outgoing/{job_id}.dcm", StoredFileRow.path.like(f"outgoing/{job_id}-%"))
    return list(session.scalars(select(StoredFileRow.path).where(of_job, StoredFileRow.removed_at.is_(None))))


def removed_among(session: Session, paths: Iterable[str]) -> set[str]:
    """Return which of these files were removed, and not only are unknown."""
    found = set[str]()
    for some in _some(paths):
        gone = select(StoredFileRow.path).where(StoredFileRow.path.in_(some), StoredFileRow.removed_at.is_not(None))
        found |= set(session.scalars(gone))
    return found


def needless_objects(session: Session, most: int) -> list[str]:
    """Return objects of which every file was removed."""
    removed = select(StoredFileRow.object).where(StoredFileRow.removed_at.is_not(None), StoredFileRow.object != "")
    other = aliased(StoredFileRow)
    needed = exists().where(other.object == StoredFileRow.object, other.removed_at.is_(None))
    return list(session.scalars(removed.where(~needed).distinct().limit(most)))


def object_is_gone(session: Session, name: str) -> None:
    """Write down that an object was deleted."""
    session.execute(
        update(StoredFileRow)
        .where(StoredFileRow.object == name, StoredFileRow.removed_at.is_not(None))
        .values(object="")
    )


def is_referred_to(session: Session, name: str) -> bool:
    """Return whether a file that was not removed lies in an object."""
    row = select(StoredFileRow.id).where(StoredFileRow.object == name, StoredFileRow.removed_at.is_(None))
    return session.scalar(row.limit(1)) is not None


def forget_removed(session: Session, before: datetime) -> None:
    """Drop the rows of files that were removed so long ago that no host has a copy, and whose objects are gone."""
    session.execute(delete(StoredFileRow).where(StoredFileRow.removed_at < before, StoredFileRow.object == ""))


def is_image(session: Session, path: str) -> bool:
    """Return whether a file is that of a recorded image."""
    return session.scalar(select(InstanceRow.id).where(InstanceRow.path == path).limit(1)) is not None


def known_objects(session: Session) -> set[str]:
    """Return the names of all objects that the index knows."""
    return set(session.scalars(select(StoredFileRow.object).distinct()))


def unneeded_files(session: Session, before: datetime) -> list[str]:
    """Return images in the index that no row is of any more, stored before a moment."""
    kinds = (InstanceRow, NewerImageRow, ContradictingFileRow)
    wanted = or_(*(exists().where(kind.path == StoredFileRow.path) for kind in kinds))
    images = StoredFileRow.path.like("incoming/%"), StoredFileRow.removed_at.is_(None)
    return list(session.scalars(select(StoredFileRow.path).where(*images, StoredFileRow.stored_at < before, ~wanted)))


def within_reach(host: str) -> ColumnElement[bool]:
    """Say of jobs that each of their images is in the object store, or was received by this host."""
    stored = exists().where(StoredFileRow.path == InstanceRow.path)
    escaped = host.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    own = InstanceRow.path.like(f"incoming/{'_' * 8}/{escaped}-{'_' * 32}.dcm", escape="\\")
    elsewhere = exists().where(InstanceRow.series_id == JobRow.series_id, ~own, ~stored)
    return ~elsewhere


def _row(file: StoredFile, now: datetime) -> StoredFileRow:
    return StoredFileRow(
        path=file.path,
        object=file.name,
        offset_bytes=file.offset,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        stored_at=now,
    )


def _file(row: StoredFileRow) -> StoredFile:
    return StoredFile(row.path, row.object, row.offset_bytes, row.size_bytes, row.sha256)


def _some(paths: Iterable[str]) -> Iterator[Sequence[str]]:
    left = iter(paths)
    while some := list(islice(left, AT_ONCE)):
        yield some
