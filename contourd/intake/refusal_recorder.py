"""Refusals as they happen: written down before the sender hears of them, or as soon as the database can be had.

Where it cannot, they are written before the end of their association is: a series whose association was not seen to
end is held after a kill all the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.dicom.network.events import RefusedInstance
from contourd.errors import QueueUnavailable
from contourd.intake.refusals import mark_refused, write_refusal
from contourd.intake.series_steps import reopen_series
from contourd.spool.marks import SeriesJournal
from contourd.store.database import Database
from contourd.store.locks import lock_series
from contourd.store.queue import Queue
from contourd.store.states import SeriesState
from contourd.store.tables import SeriesRow
from contourd.system.clock import Clock

log = logging.getLogger(__name__)

# Of no known series, and of what the database did not take yet.
MOST_UNNAMED, MOST_WAITING = 1000, 10_000


class RefusalRecorder:
    """Takes note of refused images; ``away`` says that the database was not to be had just now."""

    def __init__(self, database: Database, queue: Queue, marks: SeriesJournal, clock: Clock) -> None:
        self._database = database
        self._queue = queue
        self._marks = marks
        self._now = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._named: list[RefusedInstance] = []
        self._unnamed: dict[int, list[RefusedInstance]] = {}
        self._series_of: dict[int, set[str]] = {}  # association -> series of which it brought what was refused
        self._logged: dict[int, set[int]] = {}  # association -> numbers of the series of which a refusal was told
        self.away = False

    def take(self, refused: RefusedInstance) -> None:
        """Mark the series of an image that is refused; never raises for a database that cannot be had."""
        with self._lock:
            if refused.series_instance_uid:
                self._series_of.setdefault(refused.association_id, set()).add(refused.series_instance_uid)
                if len(self._named) < MOST_WAITING:
                    self._named.append(refused)
            else:
                unnamed = self._unnamed.setdefault(refused.association_id, [])
                if len(unnamed) < MOST_UNNAMED:
                    unnamed.append(refused)
        if not self.away:  # else the sender has waited for the database already
            with suppress(QueueUnavailable):
                self.write()

    def write(self) -> None:
        """Write down what waits; raises QueueUnavailable, and then it waits on."""
        with self._writing:
            with self._lock:
                waiting, now = list(self._named), self._now()
            if not waiting:
                return
            with self._database.transaction() as session:
                lock_series(session, {refused.series_instance_uid for refused in waiting})
                for refused in waiting:
                    self._mark(session, refused, certain=True, now=now)
            with self._lock:
                del self._named[: len(waiting)]
        for refused in waiting:
            mark_refused(self._marks, refused, certain=True)

    def attribute(self, session: Session, association_id: int, instances: Iterable[str], now: datetime) -> None:
        """Mark each series that an image may be of which does not name it: those that its association brought.

        Where that brought nothing else, those of its sender that are being received, or the next one.
        """
        with self._lock:
            unnamed = list(self._unnamed.get(association_id, ()))
            candidates = {*instances, *self._series_of.get(association_id, ())}
        for refused in unnamed:
            uids = candidates or self._of_sender(session, refused.calling_ae)
            lock_series(session, uids)
            for uid in sorted(uids):
                self._mark(session, replace(refused, series_instance_uid=uid), certain=False, now=now)

    def series_of(self, association_id: int) -> set[str]:
        """Return the Series Instance UIDs of which an association brought what was refused."""
        with self._lock:
            return set(self._series_of.get(association_id, ()))

    def knows(self, association_id: int) -> bool:
        """Return whether an association brought an image that does not name its series."""
        with self._lock:
            return association_id in self._unnamed

    def ended(self, association_id: int) -> None:
        """Forget an association whose end is written down."""
        with self._lock:
            self._unnamed.pop(association_id, None)
            self._series_of.pop(association_id, None)
            self._logged.pop(association_id, None)

    def _of_sender(self, session: Session, calling_ae: str) -> set[str]:
        of_sender = SeriesRow.state == SeriesState.RECEIVING, SeriesRow.calling_ae == calling_ae
        return set(session.scalars(select(SeriesRow.series_uid).where(*of_sender))) or {""}

    def _tell(self, series: SeriesRow, association_id: int) -> None:
        """Log once for each association which series lacks an image."""
        with self._lock:
            message = self._logged.setdefault(association_id, set())
            if series.id in message:
                return
            message.add(series.id)
        extra = {"action": "refuse", "association": association_id, "series": series.id}
        log.warning("images of the series were refused; it is held until they came", extra=extra)

    def _mark(self, session: Session, refused: RefusedInstance, certain: bool, now: datetime) -> None:
        series = write_refusal(session, refused, certain, now)
        if series is not None:
            self._tell(series, refused.association_id)
        if series is not None and series.state == SeriesState.COMPLETE:
            reopen_series(session, self._queue, series, "an image of it was refused", now)
