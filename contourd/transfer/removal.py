"""What goes: objects whose files were removed, copies on this host, orphans in the store, and copies beyond the cache.

Of the cache what was used last stays; what is being received, contoured or was used in the last minutes always does,
and so does everything that the store does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select

from contourd.errors import StoreUnavailable
from contourd.spool.folder import INCOMING, OUTGOING, REVIEWS, Spool
from contourd.spool.grouping import WAITING
from contourd.store.database import Database
from contourd.store.states import JobState, SeriesState
from contourd.store.stored_files import (
    find_stored,
    forget_removed,
    known_objects,
    mark_removed,
    needless_objects,
    object_is_gone,
    removed_among,
    stored_outputs,
    unneeded_files,
)
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from contourd.system.clock import Clock, utc_now
from contourd.transfer.copies import USED_EVERY_S
from contourd.transfer.uploading import SERIES

log = logging.getLogger(__name__)

# After which a removed file's row goes: hosts that were down for longer find its copy with the orphans.
TOMBSTONE_DAYS = 30
# A file of which no row is after so long is nobody's: its image was replaced, or decided against.
UNNEEDED_S = 3600.0
OBJECTS_AT_ONCE = 200
# Of a file that was used or fetched so lately somebody may be about to read it.
IN_USE_S = 2 * USED_EVERY_S


@dataclass(frozen=True, slots=True)
class _Copy:
    path: str
    size_bytes: int
    used: float


class StoreRemoval:
    """Removes from the store, and from this host, what is not needed any more.

    Parameters
    ----------
    cache_bytes
        Of copies on this host.
    orphan_days
        How long an object that no row names is kept: after a database was lost these are all that is left.
    """

    def __init__(
        self, database: Database, spool: Spool, cache_bytes: int, orphan_days: float, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._spool = spool
        self._now = clock
        self._cache_bytes = cache_bytes
        self._orphan_days = orphan_days

    def removed(self, paths: Iterable[str]) -> None:
        """Write down that files were removed; their objects and copies go later. Raises QueueUnavailable."""
        if self._spool.store is None:
            return
        with self._database.transaction() as session:
            mark_removed(session, paths, self._now())

    def outputs_removed(self, job_id: int) -> None:
        """Write down the same of a job's structure sets; raises QueueUnavailable."""
        if self._spool.store is None:
            return
        with self._database.transaction() as session:
            mark_removed(session, stored_outputs(session, job_id), self._now())

    def remove_objects(self) -> None:
        """Delete the objects of which nothing is needed, now or when the store answers; raises QueueUnavailable."""
        store = self._spool.store
        if store is None:
            return
        with self._database.reading() as session:
            names = needless_objects(session, OBJECTS_AT_ONCE)
        try:
            for name in names:
                store.delete(name)
                with self._database.transaction() as session:
                    object_is_gone(session, name)
        except StoreUnavailable as error:
            log.warning("%s; what is not needed is deleted later", error, extra={"action": "retention"})

    def remove_orphans(self) -> None:
        """Delete what no row names, once its time is over; raises QueueUnavailable."""
        store = self._spool.store
        if store is None:
            return
        now = self._now()
        with self._database.transaction() as session:
            mark_removed(session, unneeded_files(session, now - timedelta(seconds=UNNEEDED_S)), now)
            forget_removed(session, now - timedelta(days=TOMBSTONE_DAYS))
            known = known_objects(session)
        cutoff = (now - timedelta(days=self._orphan_days)).timestamp()
        try:
            for folder in (SERIES, WAITING, OUTGOING, REVIEWS):
                for found in store.list(folder):
                    if found.modified < cutoff and found.name not in known:
                        log.info("an object that no image is in is deleted", extra={"action": "retention"})
                        store.delete(found.name)
        except StoreUnavailable as error:
            log.warning("%s; orphans are looked for later", error, extra={"action": "retention"})

    def clear_cache(self, kept_bytes: int | None = None) -> None:
        """Remove from this host what was removed elsewhere, and copies beyond the cache; raises QueueUnavailable.

        Parameters
        ----------
        kept_bytes
            Of copies; by default the cache's.
        """
        if self._spool.store is None:
            return
        copies = {copy.path: copy for copy in self._copies()}
        with self._database.reading() as session:
            gone = removed_among(session, copies)
        for path in gone:
            self._spool.remove(path)
            del copies[path]
        excess = sum(copy.size_bytes for copy in copies.values()) - (
            self._cache_bytes if kept_bytes is None else kept_bytes
        )
        if excess <= 0:
            return
        used_before = self._now().timestamp() - IN_USE_S
        oldest = sorted((copy for copy in copies.values() if copy.used < used_before), key=lambda copy: copy.used)
        with self._database.reading() as session:
            stored = find_stored(session, [copy.path for copy in oldest])
        in_use = self._in_use()
        for copy in oldest:
            if excess <= 0:
                return
            place = stored.get(copy.path)
            if place is not None and not place.name.startswith(f"{WAITING}/") and copy.path not in in_use:
                self._spool.remove(copy.path)
                excess -= copy.size_bytes

    def _copies(self) -> Iterator[_Copy]:
        for pattern in (f"{INCOMING}/*/*.dcm", f"{OUTGOING}/*.dcm", f"{REVIEWS}/*/*.dcm"):
            for file in self._spool.root.glob(pattern):
                with suppress(OSError):
                    found = file.stat()
                    path = str(file.relative_to(self._spool.root))
                    yield _Copy(path, found.st_size, max(found.st_atime, found.st_mtime))

    def _in_use(self) -> set[str]:
        """Return the images of series that arrive, and of jobs that are being contoured."""
        contoured = select(JobRow.series_id).where(JobRow.state == JobState.CONTOURING)
        arriving = select(SeriesRow.id).where(SeriesRow.state == SeriesState.RECEIVING)
        with self._database.reading() as session:
            rows = select(InstanceRow.path).where(
                InstanceRow.series_id.in_(contoured) | InstanceRow.series_id.in_(arriving)
            )
            return set(session.scalars(rows))
