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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from sqlite3 import Cursor

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.clock import Ages, Clock, Monotonic, utc_now
from contourd.dicom.integrity import stored_sha256
from contourd.dicom.pixels import same_image
from contourd.dicom.reception import ReceivedInstance
from contourd.dicom.series import gate
from contourd.errors import QueueUnavailable, SeriesFull, SeriesIncomplete, SeriesUnusable
from contourd.jobs.arrivals import add_further, after_removal
from contourd.jobs.database import Database
from contourd.jobs.group_commit import GroupCommit, NotUsual
from contourd.jobs.headers import Headers
from contourd.jobs.job import JobState, SeriesEvent, SeriesState, next_series_state
from contourd.jobs.own_series import PATIENT_ID_PREFIX, Registration, note_arrival, read_registration, route_of_check
from contourd.jobs.queue import Queue
from contourd.jobs.routing import choose_route
from contourd.jobs.tables import InstanceRow, JobRow, SeriesRow
from contourd.jobs.transitions import record
from contourd.settings import Route, SeriesSettings

log = logging.getLogger(__name__)

ABORTED, RESTART = "aborted", "restart"
# Read while series are quiet, and not when they are due; few, for reception goes on meanwhile.
HEADERS_A_LOOK = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an examination found: a route, or why there is none; ``incomplete``: more slices may mend it."""

    route: Route | None
    reason: str = ""
    incomplete: bool = False


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
        self._open: dict[int, set[str]] = {}  # association -> SeriesInstanceUIDs
        self._ended: dict[int, bool] = {}  # association whose end is not written down yet -> aborted
        self._headers = Headers(spool_root)

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:  # noqa: ARG002
        """Remember an association; it holds no series yet."""
        with self._lock:
            self._open[association_id] = set()

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Let go of the series that the association held; an abort marks them as interrupted, a release unmarks.

        What cannot be written down now is written down later; until then the association holds its series.
        """
        with self._lock:
            self._ended[association_id] = aborted
        self._record_end(association_id, aborted)

    def _record_end(self, association_id: int, aborted: bool) -> None:
        with self._lock:
            held = set(self._open.get(association_id, ()))
        now = self._now()
        if held:
            with self._database.transaction() as session:
                for row in session.scalars(select(SeriesRow).where(SeriesRow.series_uid.in_(held))):
                    row.interrupted = ABORTED if aborted else ""
                    if row.state == SeriesState.RECEIVING:
                        row.last_instance_at = now
        for uid in held:
            self._quiet.note(uid, now)
        with self._lock:
            self._open.pop(association_id, None)
            self._ended.pop(association_id, None)

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record an instance whose file is durable; returning means that it may be acknowledged."""
        with self._lock:
            self._open.setdefault(received.association_id, set()).add(received.series_instance_uid)
        now = self._now()
        try:
            unneeded = self._group.commit((received, now))
        except (QueueUnavailable, SeriesFull):
            self._discard(received)
            raise
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
                interrupted="",
                revision=1,
                reason="",
            )
            session.add(series)
            session.flush()
            note_arrival(session, series)
            record(session, "series", series.id, SeriesEvent.INSTANCE, series.state, received.calling_ae, now)
        series.calling_ae = series.calling_ae or received.calling_ae
        known = session.scalars(
            select(InstanceRow).where(
                InstanceRow.series_id == series.id, InstanceRow.sop_instance_uid == received.sop_instance_uid
            )
        ).one_or_none()
        if known is None:
            self._add(session, series, received, now)
            return ""
        if stored_sha256(self._root / known.path) != known.sha256:
            damaged, known.path, known.sha256 = known.path, received.path, received.sha256
            known.received_at = after_removal(series.purged_at, now)
            self._reopen(session, series, received, now, "an image that was damaged on the disk came again")
            return damaged
        if self._same(known, received):
            if series.state == SeriesState.RECEIVING:
                series.last_instance_at = now
            return received.path
        self._hold(
            session, series, f"an image was sent twice with different content ({received.path}); look at the sender"
        )
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
        self._reopen(session, series, received, now, "another slice arrived")

    def _reopen(self, session: Session, series: SeriesRow, received: ReceivedInstance, now: datetime, why: str) -> None:
        series.last_instance_at = now
        series.calling_ae = series.calling_ae or received.calling_ae  # a kill may have left it unknown
        if series.state == SeriesState.RECEIVING:
            return
        jobs = list(session.scalars(select(JobRow).where(JobRow.series_id == series.id)))
        if jobs:
            series.revision += 1
            self._queue.supersede(session, jobs, f"{why}; a newer revision takes its place")
        series.calling_ae, series.reason = received.calling_ae or series.calling_ae, ""
        self._advance(session, series, SeriesEvent.INSTANCE, f"re-opened: {why}")

    def _same(self, known: InstanceRow, received: ReceivedInstance) -> bool:
        if known.sha256 == received.sha256:
            return True
        return same_image(self._root / known.path, self._root / received.path)

    def recover(self) -> None:
        """After a start no association is open: what was being received waits for ``gapped_s`` before it is judged."""
        now = self._now()
        with self._database.transaction() as session:
            for row in session.scalars(select(SeriesRow).where(SeriesRow.state == SeriesState.RECEIVING)):
                row.interrupted = row.interrupted or RESTART
                row.last_instance_at = now
                self._quiet.note(row.series_uid, now)

    def close_quiet(self) -> None:
        """Examine each series that is quiet and that no association holds."""
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
        if series.interrupted and not waited:
            return
        verdict = self._examine(paths, series.calling_ae, registration)
        if verdict.incomplete and not waited:
            return
        with self._database.transaction() as session:
            row = session.get_one(SeriesRow, series_id)
            if row.state != SeriesState.RECEIVING or row.last_instance_at != moment:
                return  # another slice came meanwhile
            self._judge(session, row, verdict, len(paths))
        self._headers.forget(paths)

    def _judge(self, session: Session, series: SeriesRow, verdict: Verdict, images: int) -> None:
        removed = ""
        if series.purged_at is not None and images < series.purged_images:
            removed = (
                f"only {images} of the {series.purged_images} images came again that retention removed "
                f"on {series.purged_at:%Y-%m-%d}; send the whole series"
            )
        if verdict.route is None:
            self._hold(session, series, f"{removed} ({verdict.reason})" if removed else verdict.reason)
        elif removed:
            self._hold(session, series, f"{removed}, or release it if that is all")
        elif series.interrupted == ABORTED:
            self._hold(
                session,
                series,
                f"the sender aborted in mid-series; {images} contiguous slices are here; "
                "send it again, or release it if that is all",
            )
        else:
            self._complete(session, series, verdict.route, self._now())

    def _examine(self, paths: Sequence[str], calling_ae: str, registration: Registration | None) -> Verdict:
        try:
            instances = self._headers.read(paths)
            series = gate(instances)
        except SeriesIncomplete as error:
            return Verdict(None, str(error), incomplete=True)
        except SeriesUnusable as error:
            return Verdict(None, str(error))
        if registration is not None or any(i.patient_id.startswith(PATIENT_ID_PREFIX) for i in instances):
            way = route_of_check(registration, [i.sop_instance_uid for i in instances])
            return Verdict(None, way) if isinstance(way, str) else Verdict(way)
        route = choose_route(self._routes, series.instances[0], calling_ae)
        if route is None:
            return Verdict(
                None,
                f"no route fits (from {calling_ae}, body part {series.instances[0].body_part or 'not given'}); "
                "add a [[route]] to the configuration, restart, and release the series",
            )
        return Verdict(route)

    def _complete(self, session: Session, series: SeriesRow, route: Route, now: datetime) -> None:
        self._advance(session, series, SeriesEvent.COMPLETED, f"revision {series.revision}")
        series.reason, series.interrupted, series.purged_at, series.purged_images = "", "", None, 0
        same = select(JobRow).where(
            JobRow.series_id == series.id, JobRow.revision == series.revision, JobRow.model == route.model
        )
        if session.scalars(same).first() is not None:
            return  # released after a hold that left its job untouched
        job = JobRow(
            series_id=series.id,
            revision=series.revision,
            model=route.model,
            destinations=",".join(dict.fromkeys(route.destinations)),
            state=JobState.QUEUED,
            confirm=route.confirm,
            created_at=now,
            updated_at=now,
            lease_until=None,
        )
        session.add(job)
        session.flush()
        record(session, "job", job.id, "queued", job.state, route.model, now)

    def _hold(self, session: Session, series: SeriesRow, reason: str) -> None:
        if series.state == SeriesState.COMPLETE:
            self._advance(session, series, SeriesEvent.INSTANCE, reason)
        if series.state == SeriesState.RECEIVING:
            self._advance(session, series, SeriesEvent.HOLD, reason)
        elif series.reason != reason:
            record(session, "series", series.id, SeriesEvent.HOLD, series.state, reason, self._now())
        series.reason = reason

    def _advance(self, session: Session, series: SeriesRow, event: SeriesEvent, detail: str) -> None:
        series.state = next_series_state(SeriesState(series.state), event)
        record(session, "series", series.id, event, series.state, detail, self._now())
