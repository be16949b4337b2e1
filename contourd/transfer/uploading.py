"""A host's received images, packed into one object for each series and put into the store, once they are quiet.

Killed anywhere in between nothing is lost: an image's file stays on this host until the index says that the store has
it, and an object in which images waited is deleted only after the index names the packed one. What a kill leaves in the
store that no row names is removed with the orphans.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import and_, select

from contourd.errors import SpoolError, StoreUnavailable
from contourd.spool.folder import Spool
from contourd.spool.grouping import WAITING
from contourd.spool.objects import ObjectStore
from contourd.spool.packing import MOST_BYTES, pack
from contourd.store.database import Database
from contourd.store.states import SeriesState
from contourd.store.stored_files import find_stored, is_referred_to, move_stored
from contourd.store.tables import InstanceRow, NewerImageRow, SeriesRow, StoredFileRow
from contourd.system.clock import Clock, utc_now
from contourd.system.regular_files import read_regular
from contourd.transfer.copies import LocalCopies

log = logging.getLogger(__name__)

SERIES = "series"
# Images that are looked at in one round, and after how many rounds all of them are, and not only later ones.
AT_ONCE, ROUNDS = 5000, 120
# So old an image that waits is packed by whatever host is there: the one that received it may never come back.
ABANDONED_S = 3600.0
MOST_COUNTED = 20_000


@dataclass(frozen=True, slots=True)
class _Image:
    id: int
    series_id: int
    path: str


class Uploader:
    """Packs and uploads what this host received.

    Parameters
    ----------
    quiet_s
        A series that is being received is packed when no image of it came for so long.
    """

    def __init__(self, database: Database, spool: Spool, quiet_s: float, clock: Clock = utc_now) -> None:
        self._database = database
        self._spool = spool
        self._quiet_s = quiet_s
        self._now = clock
        self._copies = LocalCopies(database, spool, clock)
        self._from_id = 0
        self._rounds = 0
        self._away = False

    def run(self) -> None:
        """Pack what is quiet.

        Raises
        ------
        QueueUnavailable
            It goes on the next time, as where the store is away.
        """
        store = self._spool.store
        if store is None:
            return
        try:
            for series_id, images in self._due():
                self._upload(store, series_id, images)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("%s; images are stored there when it answers", error, extra={"action": "upload"})
            self._away = True
        else:
            if self._away:
                log.info("the object store answers again", extra={"action": "upload"})
            self._away = False

    def count_waiting(self) -> int:
        """Count this host's images that are nowhere in the store yet; raises QueueUnavailable.

        Whatever is above MOST_COUNTED counts as that.
        """
        if self._spool.store is None:
            return 0
        rows = (
            select(InstanceRow.path)
            .outerjoin(StoredFileRow, StoredFileRow.path == InstanceRow.path)
            .where(InstanceRow.id >= self._from_id, StoredFileRow.id.is_(None))
            .limit(MOST_COUNTED)
        )
        with self._database.reading() as session:
            return sum(map(self._spool.received_here, session.scalars(rows)))

    def _due(self) -> Iterator[tuple[int, list[str]]]:
        """Yield series with the paths of this host's images of it that are not packed and do not change soon."""
        self._rounds += 1
        if self._rounds % ROUNDS == 0:
            self._from_id = 0
        now = self._now()
        found = dict[int, list[str]]()
        later = 0
        for image, still in self._unpacked(now):
            later = later or image.id  # until it is packed
            if not still:
                found.setdefault(image.series_id, []).append(image.path)
        self._from_id = later or self._from_id
        yield from found.items()
        yield from self._newer()

    def _unpacked(self, now: datetime) -> Iterator[tuple[_Image, bool]]:
        """Yield images that are in no packed object, and whether their series still arrives."""
        packed = and_(StoredFileRow.path == InstanceRow.path, ~StoredFileRow.object.like(f"{WAITING}/%"))
        rows = (
            select(
                InstanceRow.id,
                InstanceRow.series_id,
                InstanceRow.path,
                InstanceRow.received_at,
                SeriesRow.state,
                SeriesRow.last_instance_at,
            )
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .outerjoin(StoredFileRow, packed)
            .where(InstanceRow.id >= self._from_id, StoredFileRow.id.is_(None))
            .order_by(InstanceRow.id)
            .limit(AT_ONCE)
        )
        with self._database.reading() as session:
            found = session.execute(rows).all()
        quiet, abandoned = now - timedelta(seconds=self._quiet_s), now - timedelta(seconds=ABANDONED_S)
        for number, series_id, path, received_at, state, last in found:
            if self._spool.received_here(path) or received_at < abandoned:
                yield _Image(number, series_id, path), state == SeriesState.RECEIVING and last > quiet

    def _newer(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the same of images that came again with other content."""
        packed = and_(StoredFileRow.path == NewerImageRow.path, ~StoredFileRow.object.like(f"{WAITING}/%"))
        rows = select(NewerImageRow.series_id, NewerImageRow.path).outerjoin(StoredFileRow, packed)
        with self._database.reading() as session:
            found = session.execute(
                rows.where(StoredFileRow.id.is_(None), NewerImageRow.to_remove.is_(False)).limit(AT_ONCE)
            ).all()
        by_series = dict[int, list[str]]()
        for series_id, path in found:
            if self._spool.received_here(path):
                by_series.setdefault(series_id, []).append(path)
        yield from by_series.items()

    def _upload(self, store: ObjectStore, series_id: int, paths: Sequence[str]) -> None:
        """Pack images of a series, in as many objects as it takes, and delete those in which they waited."""
        with self._database.reading() as session:
            before = find_stored(session, paths)
            uid = session.get_one(SeriesRow, series_id).series_uid
        self._copies.bring(paths)
        folder = f"{SERIES}/{hashlib.sha256(uid.encode()).hexdigest()[:16]}"  # no UID in a name that others may list
        emptied = set[str]()
        for files in self._parts(paths):
            name = f"{folder}/{self._spool.host}-{uuid4().hex}.tar"
            content, places = pack(name, files)
            store.put(name, [content])
            with self._database.transaction() as session:
                moved = move_stored(session, places, before, self._now())
            if not moved:  # another host was first
                store.delete(name)
                continue
            emptied |= {before[path].name for path in files if path in before}
            log.info("%d images are in the object store", moved, extra={"action": "upload", "series": series_id})
        for name in emptied:
            with self._database.reading() as session:
                needed = is_referred_to(session, name)
            if not needed:
                with suppress(SpoolError):  # it is found with the orphans
                    store.delete(name)

    def _parts(self, paths: Sequence[str]) -> Iterator[dict[str, bytes]]:
        """Yield files that are here, so many as one object takes."""
        part, size = dict[str, bytes](), 0
        for path in paths:
            try:
                content = read_regular(self._spool.root / path, follow=False)
            except OSError:
                continue  # the job tells it
            if part and size + len(content) > MOST_BYTES:
                yield part
                part, size = {}, 0
            part[path] = content
            size += len(content)
        if part:
            yield part
