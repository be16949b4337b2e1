"""Instance stored -> series; completion by geometry; late slices.

A series is complete when no association holds it, it has been quiet for ``quiet_s`` and its slices are contiguous. With
a gap, or after an interruption, it waits ``gapped_s``; what is then incomplete is held, with the missing z named.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from contourd.dicom.pixels import same_image
from contourd.dicom.scp import ReceivedInstance
from contourd.dicom.series import Instance, gate, read_instance
from contourd.errors import QueueUnavailable, SeriesIncomplete, SeriesUnusable
from contourd.jobs.database import Database
from contourd.jobs.job import JobState, SeriesEvent, SeriesState, next_series_state
from contourd.jobs.queue import Clock, Queue, record, utc_now
from contourd.jobs.routing import choose_route
from contourd.jobs.tables import InstanceRow, JobRow, SeriesRow
from contourd.settings import Route, SeriesSettings

ABORTED, RESTART = "aborted", "restart"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an examination found: a route, or why there is none; ``incomplete``: more slices may mend it."""

    route: Route | None
    reason: str = ""
    incomplete: bool = False


class Intake:
    """Takes what the SCP stored; one transaction for each instance."""

    def __init__(
        self,
        database: Database,
        spool_root: Path,
        settings: SeriesSettings,
        routes: Sequence[Route],
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._root = spool_root
        self._settings = settings
        self._routes = routes
        self._now = clock
        self._queue = Queue(database, clock)
        self._lock = threading.Lock()
        self._open: dict[int, set[str]] = {}  # association -> SeriesInstanceUIDs
        self._read: dict[str, Instance] = {}  # path -> header

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:  # noqa: ARG002
        """Remember an association; it holds no series yet."""
        with self._lock:
            self._open[association_id] = set()

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Let go of the series that the association held; an abort marks them as interrupted, a release unmarks."""
        with self._lock:
            held = self._open.pop(association_id, set())
        if not held:
            return
        try:
            with self._database.transaction() as session:
                for row in session.scalars(select(SeriesRow).where(SeriesRow.series_uid.in_(held))):
                    row.interrupted = ABORTED if aborted else ""
                    if row.state == SeriesState.RECEIVING:
                        row.last_instance_at = self._now()
        except SQLAlchemyError as error:
            raise QueueUnavailable(f"the end of an association could not be recorded: {error}") from error

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record an instance whose file is durable; returning means that it may be acknowledged."""
        with self._lock:
            self._open.setdefault(received.association_id, set()).add(received.series_instance_uid)
        try:
            with self._database.transaction() as session:
                self._store(session, received)
        except SQLAlchemyError as error:
            raise QueueUnavailable(f"the instance could not be recorded: {error}") from error

    def _store(self, session: Session, received: ReceivedInstance) -> None:
        now = self._now()
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
            record(session, "series", series.id, SeriesEvent.INSTANCE, series.state, received.calling_ae, now)
        known = session.scalars(
            select(InstanceRow).where(
                InstanceRow.series_id == series.id, InstanceRow.sop_instance_uid == received.sop_instance_uid
            )
        ).one_or_none()
        if known is None:
            self._add(session, series, received, now)
        elif self._same(known, received):
            (self._root / received.path).unlink(missing_ok=True)
            if series.state == SeriesState.RECEIVING:
                series.last_instance_at = now
        else:
            self._hold(
                session, series, f"an image was sent twice with different content ({received.path}); look at the sender"
            )

    def _add(self, session: Session, series: SeriesRow, received: ReceivedInstance, now: datetime) -> None:
        session.add(
            InstanceRow(
                series_id=series.id,
                sop_instance_uid=received.sop_instance_uid,
                path=received.path,
                sha256=received.sha256,
                received_at=now,
            )
        )
        series.last_instance_at = now
        if series.state == SeriesState.RECEIVING:
            return
        jobs = list(session.scalars(select(JobRow).where(JobRow.series_id == series.id)))
        if jobs:
            series.revision += 1
            self._queue.supersede(session, jobs, "another slice arrived; a newer revision takes its place")
        series.calling_ae, series.reason = received.calling_ae, ""
        self._advance(session, series, SeriesEvent.INSTANCE, "re-opened by another slice")

    def _same(self, known: InstanceRow, received: ReceivedInstance) -> bool:
        if known.sha256 == received.sha256:
            return True
        return same_image(self._root / known.path, self._root / received.path)

    def recover(self) -> None:
        """After a start no association is open: what was being received waits for ``gapped_s`` before it is judged."""
        with self._database.transaction() as session:
            for row in session.scalars(select(SeriesRow).where(SeriesRow.state == SeriesState.RECEIVING)):
                row.interrupted = row.interrupted or RESTART
                row.last_instance_at = self._now()

    def close_quiet(self) -> None:
        """Examine each series that is quiet and that no association holds."""
        now = self._now()
        with self._lock:
            held = set().union(*self._open.values())
        quiet_since = now - timedelta(seconds=self._settings.quiet_s)
        with self._database.reading() as session:
            quiet = select(SeriesRow.id, SeriesRow.series_uid).where(
                SeriesRow.state == SeriesState.RECEIVING, SeriesRow.last_instance_at <= quiet_since
            )
            candidates = [series_id for series_id, uid in session.execute(quiet) if uid not in held]
        for series_id in candidates:
            self._close(series_id, now)

    def _close(self, series_id: int, now: datetime) -> None:
        with self._database.reading() as session:
            series = session.get_one(SeriesRow, series_id)
            paths = tuple(session.scalars(select(InstanceRow.path).where(InstanceRow.series_id == series_id)))
        waited = (now - series.last_instance_at).total_seconds() >= self._settings.gapped_s
        if series.interrupted and not waited:
            return
        verdict = self._examine(paths, series.calling_ae)
        if verdict.incomplete and not waited:
            return
        with self._database.transaction() as session:
            row = session.get_one(SeriesRow, series_id)
            if row.state != SeriesState.RECEIVING or row.last_instance_at != series.last_instance_at:
                return  # another slice came meanwhile
            if verdict.route is None:
                self._hold(session, row, verdict.reason)
            elif row.interrupted == ABORTED:
                self._hold(
                    session,
                    row,
                    f"the sender aborted in mid-series; {len(paths)} contiguous slices are here; "
                    "send it again, or release it if that is all",
                )
            else:
                self._complete(session, row, verdict.route, now)
        for path in paths:
            self._read.pop(path, None)

    def _examine(self, paths: Sequence[str], calling_ae: str) -> Verdict:
        try:
            for path in paths:
                if path not in self._read:
                    self._read[path] = read_instance(self._root / path)
            instances = [self._read[path] for path in paths]
            series = gate(instances)
        except SeriesIncomplete as error:
            return Verdict(None, str(error), incomplete=True)
        except SeriesUnusable as error:
            return Verdict(None, str(error))
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
        series.reason, series.interrupted = "", ""
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
        series.reason = reason

    def _advance(self, session: Session, series: SeriesRow, event: SeriesEvent, detail: str) -> None:
        series.state = next_series_state(SeriesState(series.state), event)
        record(session, "series", series.id, event, series.state, detail, self._now())
