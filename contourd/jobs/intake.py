"""Instance stored -> series; completion by geometry; late slices.

A series is complete when no association holds it, it has been quiet for ``quiet_s`` and its slices are contiguous. With
a gap, or after an interruption, it waits ``gapped_s``; what is then incomplete is held, with the missing z named.
How long it has been quiet is measured by a clock that nobody can set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from sqlite3 import Cursor

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.clock import Ages, Clock, Monotonic, utc_now
from contourd.dicom.integrity import stored_sha256
from contourd.dicom.pixels import same_image
from contourd.dicom.reception import ReceivedInstance, RefusedInstance
from contourd.errors import QueueUnavailable, SeriesFull
from contourd.jobs.arrivals import add_further, after_removal
from contourd.jobs.database import Database
from contourd.jobs.group_commit import GroupCommit, NotUsual
from contourd.jobs.headers import Headers
from contourd.jobs.job import SeriesEvent, SeriesState
from contourd.jobs.marks import Mark, Marks
from contourd.jobs.newer_images import note_newer, told_newer, withdraw_newer
from contourd.jobs.own_series import note_arrival, read_registration
from contourd.jobs.queue import Queue
from contourd.jobs.refusals import adopt_unnamed, forget_refusals, open_refusals, settle_refusal
from contourd.jobs.refusing import Refusing
from contourd.jobs.series_steps import complete_series, hold_series, reopen_series, stop_jobs
from contourd.jobs.tables import InstanceRow, SeriesRow
from contourd.jobs.transitions import record
from contourd.jobs.verdicts import ABORTED, BROKEN_OFF, ENDED, OPEN, RESTART, Verdict, examine, reason_to_hold
from contourd.settings import Route, SeriesSettings

log = logging.getLogger(__name__)

# Read while series are quiet, and not when they are due; few, for reception goes on meanwhile.
HEADERS_A_LOOK = 50


class Intake:
    """Takes what the SCP stored; what comes at the same time is committed together."""

    def __init__(
        self,
        database: Database,
        spool_root: Path,
        settings: SeriesSettings,
        routes: Sequence[Route],
        clock: Clock = utc_now,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._database = database
        self._root = spool_root
        self._settings = settings
        self._routes = routes
        self._now = clock
        self._quiet = Ages(clock, monotonic)  # SeriesInstanceUID -> since when
        self._queue = Queue(database, clock)
        self._group = GroupCommit(database, self._record, self._record_further if database.is_sqlite else None)
        self._lock = threading.Lock()
        self._open: dict[int, dict[str, set[str]]] = {}  # association -> SeriesInstanceUID -> SOPInstanceUIDs
        self._again: dict[str, set[str]] = {}  # of series that broke off: SOPInstanceUIDs that came in good order since
        self._ended: dict[int, bool] = {}  # association whose end is not written down yet -> aborted
        self._headers = Headers(spool_root)
        self._marks = Marks(spool_root)
        self._refusing = Refusing(database, self._queue, self._marks, clock)

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:  # noqa: ARG002
        """Remember an association; it holds no series yet."""
        with self._lock:
            self._open[association_id] = {}

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Let go of the series that the association held; an abort marks them as interrupted, a release unmarks.

        What cannot be written down now is written down later; until then the association holds its series.
        """
        with self._lock:
            self._ended[association_id] = aborted
        self._record_end(association_id, aborted)

    def _record_end(self, association_id: int, aborted: bool) -> None:
        with self._lock:
            brought = {uid: set(images) for uid, images in self._open.get(association_id, {}).items()}
            others = set().union(*(uids for number, uids in self._open.items() if number != association_id))
        now, ended = self._now(), ABORTED if aborted else ""
        mended: list[str] = []
        self._refusing.write()
        if brought or self._refusing.knows(association_id):
            with self._database.transaction() as session:
                self._refusing.attribute(session, association_id, brought, now)
                for row in session.scalars(select(SeriesRow).where(SeriesRow.series_uid.in_(brought))):
                    if row.interrupted in BROKEN_OFF and not aborted:
                        if row.state == SeriesState.RECEIVING:
                            row.last_instance_at = now
                        if not self._all_came_again(session, row, brought[row.series_uid]):
                            continue
                        if row.state == SeriesState.HELD:
                            reopen_series(session, self._queue, row, "all of it was sent again", now)
                        mended.append(row.series_uid)
                    row.interrupted = ended or (OPEN if row.series_uid in others else "")
                    if row.state == SeriesState.RECEIVING:
                        row.last_instance_at = now
        for uid in brought:
            self._quiet.note(uid, now)
            if aborted:
                self._again.pop(uid, None)
                self._marks.add(Mark.INTERRUPTED, uid, ABORTED)
        for uid in mended:
            self._again.pop(uid, None)
            self._marks.clear(uid, Mark.INTERRUPTED)
        self._refusing.ended(association_id)
        with self._lock:
            self._open.pop(association_id, None)
            self._ended.pop(association_id, None)

    def _all_came_again(self, session: Session, series: SeriesRow, brought: set[str]) -> bool:
        """Say whether a series whose transfer broke off came again, whole, in associations that ended in good order.

        A further slice or the rest alone says nothing of how many there are.
        """
        with self._lock:
            again = self._again[series.series_uid] = self._again.get(series.series_uid, set()) | brought
        images = select(InstanceRow.sop_instance_uid).where(InstanceRow.series_id == series.id)
        return again.issuperset(session.scalars(images))

    def instance_refused(self, refused: RefusedInstance) -> None:
        """Mark the series of an image that is refused."""
        self._refusing.take(refused)

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record an instance whose file is durable; returning means that it may be acknowledged."""
        with self._lock:
            of_association = self._open.setdefault(received.association_id, {})
            of_association.setdefault(received.series_instance_uid, set()).add(received.sop_instance_uid)
        now = self._now()
        try:
            unneeded = self._group.commit((received, now))
        except (QueueUnavailable, SeriesFull) as error:
            self._refusing.away = isinstance(error, QueueUnavailable)
            with self._lock:
                of_association[received.series_instance_uid].discard(received.sop_instance_uid)
            self._discard(received)
            raise
        self._refusing.away = False
        self._quiet.note(received.series_instance_uid, now)
        if unneeded:
            with suppress(OSError):  # it is written down, and so it must be acknowledged
                (self._root / unneeded).unlink(missing_ok=True)

    def _discard(self, received: ReceivedInstance) -> None:
        """Remove the file of a refused instance, which would fill the disk with each try, once it is sure of no row."""
        try:
            with self._database.reading() as session:
                if session.scalars(select(InstanceRow.id).where(InstanceRow.path == received.path)).first() is None:
                    (self._root / received.path).unlink(missing_ok=True)
        except (QueueUnavailable, OSError):
            log.warning("the file of a refused instance is left to retention", extra={"action": "leave"})

    def _record_further(self, cursor: Cursor, arrived: tuple[ReceivedInstance, datetime]) -> str:
        received, now = arrived
        if not add_further(cursor, received, self._settings.max_instances, now):
            raise NotUsual
        return ""

    def _record(self, session: Session, arrived: tuple[ReceivedInstance, datetime]) -> str:
        """Write an instance down; returns the path of a file that is not needed afterwards, or nothing."""
        received, now = arrived
        series = session.scalars(
            select(SeriesRow).where(SeriesRow.series_uid == received.series_instance_uid)
        ).one_or_none()
        if series is None:
            series = SeriesRow(
                series_uid=received.series_instance_uid,
                state=SeriesState.RECEIVING,
                calling_ae=received.calling_ae,
                patient=received.patient,
                created_at=now,
                last_instance_at=now,
                interrupted=OPEN,
                revision=1,
                reason="",
            )
            session.add(series)
            session.flush()
            note_arrival(session, series)
            adopt_unnamed(session, series, now - timedelta(seconds=self._settings.gapped_s))
            record(session, "series", series.id, SeriesEvent.INSTANCE, series.state, received.calling_ae, now)
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
        settle_refusal(session, series.series_uid, received.sop_instance_uid)
        if stored_sha256(self._root / known.path) != known.sha256:
            damaged, known.path, known.sha256 = known.path, received.path, received.sha256
            known.received_at = after_removal(series.purged_at, now)
            self._reopen(session, series, now, "an image that was damaged on the disk came again")
            return damaged
        if self._same(known, received):
            withdraw_newer(session, series, known.sop_instance_uid)
            if learnt:
                self._reopen(session, series, now, "its sender is known now")
            if series.state == SeriesState.RECEIVING:
                series.last_instance_at = now
            return received.path
        if not note_newer(session, self._root, series, known, received, now):
            return received.path
        first, series.hold = not series.hold, told_newer(session, series)
        if first or series.state != SeriesState.HELD:
            stop_jobs(session, self._queue, series, "its images came again with different content; look at its series")
            hold_series(session, series, series.hold, now)
        series.reason = series.hold  # how many they are by now
        return ""

    def _add(self, session: Session, series: SeriesRow, received: ReceivedInstance, now: datetime) -> None:
        most = self._settings.max_instances
        last = select(InstanceRow.id).where(InstanceRow.series_id == series.id).offset(most - 1).limit(1)
        if session.scalar(last) is not None:
            raise SeriesFull(f"the series has {most} images already; series.max_instances allows no more")
        session.add(
            InstanceRow(
                series_id=series.id,
                sop_instance_uid=received.sop_instance_uid,
                path=received.path,
                sha256=received.sha256,
                received_at=after_removal(series.purged_at, now),
            )
        )
        self._reopen(session, series, now, "another slice arrived")
        series.interrupted = series.interrupted if series.interrupted in BROKEN_OFF else OPEN

    def _reopen(self, session: Session, series: SeriesRow, now: datetime, why: str) -> None:
        reopen_series(session, self._queue, series, why, now)

    def _same(self, known: InstanceRow, received: ReceivedInstance) -> bool:
        if known.sha256 == received.sha256:
            return True
        return same_image(self._root / known.path, self._root / received.path)

    def stopped(self) -> None:
        """Say of what is open when the node is stopped whether it was in the midst of a series.

        A sender that brought nothing for ``quiet_s`` had sent all: it keeps its association for the next series.
        """
        with self._lock:
            held = set().union(*self._open.values())
        with self._database.transaction() as session:
            for row in session.scalars(select(SeriesRow).where(SeriesRow.series_uid.in_(held))):
                age_s = self._quiet.age_s(row.series_uid, row.last_instance_at)
                if row.interrupted == OPEN and age_s >= self._settings.quiet_s:
                    row.interrupted = ""

    def forget_associations(self) -> None:
        """Let go of what was recorded without one, at the start."""
        with self._lock:
            self._open.clear()

    def recover(self) -> None:
        """After a start no association is open: what was being received waits for ``gapped_s`` before it is judged."""
        now, broken_off = self._now(), list[str]()
        with self._database.transaction() as session:
            for row in session.scalars(select(SeriesRow).where(SeriesRow.state == SeriesState.RECEIVING)):
                if row.interrupted == OPEN:
                    row.interrupted = ENDED
                    broken_off.append(row.series_uid)
                row.interrupted = row.interrupted or RESTART
                row.last_instance_at = now
                self._quiet.note(row.series_uid, now)
        for uid in broken_off:
            self._marks.add(Mark.INTERRUPTED, uid, ENDED)

    def close_quiet(self) -> None:
        """Examine each series that is quiet and that no association holds."""
        self._refusing.write()
        with self._lock:
            ended = dict(self._ended)
        for association_id, aborted in ended.items():
            self._record_end(association_id, aborted)
        with self._lock:
            held = set().union(*self._open.values())
        receiving = select(SeriesRow.id, SeriesRow.series_uid, SeriesRow.last_instance_at)
        with self._database.reading() as session:
            rows = session.execute(receiving.where(SeriesRow.state == SeriesState.RECEIVING)).all()
        left = HEADERS_A_LOOK
        for series_id, uid, moment in rows:
            if uid in held:
                continue
            age_s = self._quiet.age_s(uid, moment)
            if age_s >= self._settings.quiet_s:
                self._close(series_id, moment, age_s >= self._settings.gapped_s)
            else:
                left -= self._headers.read_ahead(self._paths(series_id), left)
        self._quiet.keep({uid for _, uid, _ in rows} | held)

    def _paths(self, series_id: int) -> list[str]:
        with self._database.reading() as session:
            paths = select(InstanceRow.path).where(InstanceRow.series_id == series_id)
            return list(session.scalars(paths.order_by(InstanceRow.id)))

    def _close(self, series_id: int, moment: datetime, waited: bool) -> None:
        with self._database.reading() as session:
            series = session.get_one(SeriesRow, series_id)
            paths = tuple(session.scalars(select(InstanceRow.path).where(InstanceRow.series_id == series_id)))
            registration = read_registration(session, series.series_uid)
            refused = bool(open_refusals(session, series))
        if not waited and (series.interrupted or refused):
            return
        verdict = examine(self._headers, paths, series.calling_ae, registration, self._routes)
        if verdict.incomplete and not waited:
            return
        with self._database.transaction() as session:
            row = session.get_one(SeriesRow, series_id)
            if row.state != SeriesState.RECEIVING or row.last_instance_at != moment:
                return  # another slice came meanwhile
            self._judge(session, row, verdict, len(paths))
        if row.state == SeriesState.COMPLETE:
            self._marks.clear(row.series_uid, Mark.INTERRUPTED, Mark.REFUSED)
        self._headers.forget(paths)

    def _judge(self, session: Session, series: SeriesRow, verdict: Verdict, images: int) -> None:
        reason = reason_to_hold(series, verdict, images, open_refusals(session, series))
        if reason or verdict.route is None:
            hold_series(session, series, reason, self._now())
        else:
            complete_series(session, series, verdict.route, self._now())
            forget_refusals(session, series.series_uid)
