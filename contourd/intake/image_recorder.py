"""One stored image -> its rows: a further one, one that came again, one that contradicts what is there."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from sqlite3 import Cursor

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.pixels import same_image
from contourd.errors import QueueUnavailable, SeriesFull, StoreUnavailable
from contourd.intake.further_images import add_further, add_further_by_two, after_removal
from contourd.intake.newer_images import differences, note_newer, reason_of_newer, withdraw_newer
from contourd.intake.refusals import assign_unnamed, settle_refusal
from contourd.intake.series_steps import hold_series, reopen_series, stop_jobs
from contourd.intake.verdicts import BROKEN_OFF, OPEN
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import SeriesSettings
from contourd.store.constancy_series import note_arrival
from contourd.store.database import Database
from contourd.store.group_commit import FastPathUnavailable, GroupCommit
from contourd.store.locks import lock_series
from contourd.store.queue import Queue
from contourd.store.states import SeriesState
from contourd.store.stored_files import add_stored, mark_removed
from contourd.store.tables import InstanceRow, SeriesRow
from contourd.store.transitions import add_series
from contourd.transfer.copies import Copies

log = logging.getLogger(__name__)

# Of series that come again; beyond it the oldest are forgotten, which costs their next image a second try.
MOST_REPEATED = 1000


@dataclass(frozen=True, slots=True)
class Earlier:
    """An image that is there under the UID of one that came: what its file is, read while nothing was locked.

    Attributes
    ----------
    path, sha256
        Of its row then; where they are others by now, this says nothing.
    missing
        It is neither here nor in the store: another host has it.
    damaged
        Its file is not what was received.
    same
        The one that came is the very same image.
    differs
        What of the patient, and of the slice's place, is other in the one that came.
    """

    path: str
    sha256: str
    missing: bool = False
    damaged: bool = False
    same: bool = False
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrived:
    """An image that came, when, and the earlier one of its UID, if it is known."""

    image: ReceivedInstance
    at: datetime
    earlier: Earlier | None = None


class EarlierUnread(Exception):
    """An image of that UID is there: its file is to be read before anything is locked."""

    def __init__(self, path: str, sha256: str) -> None:
        super().__init__(path)
        self.path, self.sha256 = path, sha256


class ImageRecorder:
    """Writes stored images down; what comes at the same time is committed together."""

    def __init__(
        self, database: Database, spool_root: Path, settings: SeriesSettings, queue: Queue, copies: Copies
    ) -> None:
        self._copies = copies
        self._database = database
        self._root = spool_root
        self._settings = settings
        self._queue = queue
        shorter = self._record_further if database.is_sqlite else None
        self._group = GroupCommit(database, self._record, shorter, lambda arrived: arrived.image.series_instance_uid)
        self._repeated, self._noting = dict[str, None](), threading.Lock()

    def record(self, received: ReceivedInstance, now: datetime) -> str:
        """Write an image down; returns the path of a file that is not needed afterwards, or nothing.

        Raises
        ------
        QueueUnavailable
            The database does not take it.
        SeriesFull
            Its series has as many images as one may have.
        StoreUnavailable
            An earlier image of its UID cannot be had now.
        """
        earlier = self._find_earlier(received) if received.series_instance_uid in self._repeated else None
        while True:
            try:
                return self._group.commit(Arrived(received, now, earlier))
            except EarlierUnread as found:
                self._note_repeated(received.series_instance_uid)
                earlier = self._read_earlier(received, found.path, found.sha256)

    def _note_repeated(self, series_uid: str) -> None:
        """Remember that a series comes again: its further images are looked for before they are written down."""
        with self._noting:
            self._repeated[series_uid] = None
            if len(self._repeated) > MOST_REPEATED:
                del self._repeated[next(iter(self._repeated))]

    def _find_earlier(self, received: ReceivedInstance) -> Earlier | None:
        of_series = SeriesRow.series_uid == received.series_instance_uid
        row = select(InstanceRow.path, InstanceRow.sha256).join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        with self._database.reading() as session:
            found = session.execute(
                row.where(of_series, InstanceRow.sop_instance_uid == received.sop_instance_uid)
            ).first()
        return None if found is None else self._read_earlier(received, *found)

    def _read_earlier(self, received: ReceivedInstance, path: str, sha256: str) -> Earlier:
        """Read what is to be known of it: from the store, if need be, and the file; nothing is locked meanwhile."""
        self._copies.bring([path])
        if self._copies.missing([path]):
            return Earlier(path, sha256, missing=True, same=sha256 == received.sha256)
        if stored_sha256(self._root / path) != sha256:
            return Earlier(path, sha256, damaged=True)
        if sha256 == received.sha256 or same_image(self._root / path, self._root / received.path):
            return Earlier(path, sha256, same=True)
        return Earlier(path, sha256, differs=differences(self._root / path, self._root / received.path))

    def discard(self, received: ReceivedInstance) -> None:
        """Remove the file of a refused image, which would fill the disk with each try, once it is sure of no row."""
        try:
            with self._database.reading() as session:
                if session.scalars(select(InstanceRow.id).where(InstanceRow.path == received.path)).first() is None:
                    (self._root / received.path).unlink(missing_ok=True)
        except (QueueUnavailable, OSError):
            log.warning("the file of a refused instance is left to retention", extra={"action": "leave"})

    def _record_further(self, cursor: Cursor, arrived: Arrived) -> str:
        if not add_further(cursor, arrived.image, self._settings.max_instances, arrived.at):
            raise FastPathUnavailable
        return ""

    def _record(self, session: Session, arrived: Arrived) -> str:
        """Write an instance down; returns the path of a file that is not needed afterwards, or nothing."""
        received, now = arrived.image, arrived.at
        if not self._database.is_sqlite and add_further_by_two(session, received, self._settings.max_instances, now):
            return ""
        uid = received.series_instance_uid
        series = lock_series(session, [uid]).get(uid)
        if series is None:
            series = add_series(session, uid, received.calling_ae, received.patient, now)
            note_arrival(session, series)
            assign_unnamed(session, series, now - timedelta(seconds=self._settings.gapped_s))
        learnt = not series.calling_ae and bool(received.calling_ae)
        series.calling_ae = series.calling_ae or received.calling_ae
        if series.state == SeriesState.RECEIVING:
            series.interrupted = series.interrupted if series.interrupted in BROKEN_OFF else OPEN
        known = session.scalars(
            select(InstanceRow).where(
                InstanceRow.series_id == series.id, InstanceRow.sop_instance_uid == received.sop_instance_uid
            )
        ).one_or_none()
        if known is None:
            self._add(session, series, received, now)
            return ""
        gone, earlier = _is_to_go(series, known), arrived.earlier
        if not gone and (earlier is None or (earlier.path, earlier.sha256) != (known.path, known.sha256)):
            raise EarlierUnread(known.path, known.sha256)
        settle_refusal(session, series.series_uid, received.sop_instance_uid)
        if gone or (earlier is not None and earlier.damaged):
            damaged, known.path, known.sha256 = known.path, received.path, received.sha256
            known.received_at = after_removal(series.purged_at, now)
            self._note_stored(session, received, now)
            mark_removed(session, [damaged], now)
            self._reopen(session, series, now, "an image that was damaged on the disk came again")
            return damaged
        assert earlier is not None
        if earlier.same:
            return self._came_again(session, series, received, learnt, now)
        if earlier.missing:
            raise StoreUnavailable("another host has the earlier image, and did not store it yet; send it again")
        if not note_newer(session, series, received, earlier.differs, now):
            return self._not_needed(session, received, now)
        self._note_stored(session, received, now)
        first, series.hold = not series.hold, reason_of_newer(session, series)
        if series.hold and (first or series.state != SeriesState.HELD):
            stop_jobs(session, self._queue, series, Reason(HoldReason.IMAGES_DIFFER_NOW))
            hold_series(session, series, series.hold, now)
        series.reason = series.hold  # how many they are by now
        return ""

    def _came_again(
        self, session: Session, series: SeriesRow, received: ReceivedInstance, learnt: bool, now: datetime
    ) -> str:
        """Record that the very image came again that is there; returns the path of its file, which is not needed."""
        withdraw_newer(session, series, received.sop_instance_uid)
        if learnt:
            self._reopen(session, series, now, "its sender is known now")
        if series.state == SeriesState.RECEIVING:
            series.last_instance_at = now
        return self._not_needed(session, received, now)

    def _not_needed(self, session: Session, received: ReceivedInstance, now: datetime) -> str:
        """Return the path of an image that is not kept; in the object store it is removed with its object."""
        self._note_stored(session, received, now)
        mark_removed(session, [received.path], now)
        return received.path

    def _note_stored(self, session: Session, received: ReceivedInstance, now: datetime) -> None:
        if received.stored is not None:
            add_stored(session, [received.stored], now)

    def _add(self, session: Session, series: SeriesRow, received: ReceivedInstance, now: datetime) -> None:
        most = self._settings.max_instances
        last = select(InstanceRow.id).where(InstanceRow.series_id == series.id).offset(most - 1).limit(1)
        if session.scalar(last) is not None:
            raise SeriesFull(HoldReason.SERIES_FULL, most=most)
        session.add(
            InstanceRow(
                series_id=series.id,
                sop_instance_uid=received.sop_instance_uid,
                path=received.path,
                sha256=received.sha256,
                received_at=after_removal(series.purged_at, now),
            )
        )
        self._note_stored(session, received, now)
        self._reopen(session, series, now, "another slice arrived")
        series.interrupted = series.interrupted if series.interrupted in BROKEN_OFF else OPEN

    def _reopen(self, session: Session, series: SeriesRow, now: datetime, reason: str) -> None:
        reopen_series(session, self._queue, series, reason, now)


def _is_to_go(series: SeriesRow, known: InstanceRow) -> bool:
    """Return whether retention is about to remove the file of an image."""
    return series.purged_at is not None and known.received_at <= series.purged_at
