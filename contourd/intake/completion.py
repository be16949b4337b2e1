"""When a series is complete, by its geometry: then it has a job, else it is held.

A series is complete when no association holds it, it has been quiet for ``quiet_s`` and its slices are contiguous. With
a gap, or after an interruption, it waits ``gapped_s``; what is then incomplete is held, with the missing z named.
How long it has been quiet is measured by a clock that nobody can set.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.errors import SeriesUnusable, StoreUnavailable
from contourd.intake.describing import Described, SeriesDescriber, write_description
from contourd.intake.headers import HeaderCache
from contourd.intake.refusals import forget_refusals, open_refusals
from contourd.intake.series_steps import complete_series, hold_series, reopen_series
from contourd.intake.verdicts import SeriesVerdict, examine, reason_to_hold
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route, SeriesSettings
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.constancy_series import read_registration
from contourd.store.database import Database
from contourd.store.locks import lock_one
from contourd.store.queue import Queue
from contourd.store.route_choice import RouteChoice
from contourd.store.states import SeriesState
from contourd.store.tables import InstanceRow, SeriesRow
from contourd.system.clock import AgeTracker, Clock

log = logging.getLogger(__name__)

# Read while series are quiet, and not when they are due; few, for reception goes on meanwhile.
HEADERS_A_LOOK = 50


class Completion:
    """Examines series that are being received.

    Parameters
    ----------
    quiet
        Since when each series has been quiet, by its Series Instance UID.
    describer
        Says by what a series is found; None: nothing is written down of it.
    settings_sha256
        Of the settings that ``routes`` are of.
    """

    def __init__(
        self,
        database: Database,
        headers: HeaderCache,
        marks: SeriesJournal,
        quiet: AgeTracker,
        settings: SeriesSettings,
        routes: Sequence[Route],
        clock: Clock,
        describer: SeriesDescriber | None = None,
        settings_sha256: str = "",
    ) -> None:
        self._database = database
        self._headers = headers
        self._marks = marks
        self._quiet = quiet
        self._settings = settings
        self._routes = routes
        self._now = clock
        self._describer = describer
        self._settings_sha256 = settings_sha256

    def close_quiet(self, held: Collection[str]) -> None:
        """Examine each series that is quiet, but those that associations hold (Series Instance UIDs)."""
        receiving = select(SeriesRow.id, SeriesRow.series_uid, SeriesRow.last_instance_at)
        with self._database.reading() as session:
            rows = session.execute(receiving.where(SeriesRow.state == SeriesState.RECEIVING)).all()
        left = HEADERS_A_LOOK
        for series_id, uid, moment in rows:
            if uid in held:
                continue
            age_s = self._quiet.age_s(uid, moment)
            if age_s >= self._settings.quiet_s:
                try:
                    self._close(series_id, moment, age_s >= self._settings.gapped_s)
                except StoreUnavailable as error:
                    log.warning("a series waits: %s", error, extra={"action": "wait", "series": series_id})
            else:
                left -= self._headers.read_ahead(self._paths(series_id), left)
        self._quiet.keep({uid for _, uid, _ in rows}.union(held))

    def reopen_found(self) -> None:
        """Go on with the series that were held because another host had their images, where it has stored them."""
        far = SeriesRow.state == SeriesState.HELD, SeriesRow.reason_code == HoldReason.IMAGES_ELSEWHERE
        with self._database.reading() as session:
            held = list(session.scalars(select(SeriesRow.id).where(*far)))
        for series_id in held:
            if self._headers.elsewhere(self._paths(series_id)):
                continue
            with self._database.transaction() as session:
                row = session.scalars(select(SeriesRow).where(SeriesRow.id == series_id, *far)).one_or_none()
                if row is not None:
                    queue = Queue(self._database, self._now)
                    reopen_series(session, queue, row, "its images are in the object store now", self._now())

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
        elsewhere = self._headers.elsewhere(paths)
        if elsewhere and not waited:
            return
        if elsewhere:
            far = Reason.of(HoldReason.IMAGES_ELSEWHERE, elsewhere=elsewhere, images=len(paths))
            verdict = SeriesVerdict(None, far)
        else:
            sender, version = series.calling_ae, self._settings_sha256
            verdict = examine(self._headers, paths, sender, registration, self._routes, version)
        if verdict.incomplete and not waited:
            return
        described = None if elsewhere or registration is not None else self._describe(paths, verdict.choice)
        with self._database.transaction() as session:
            row = lock_one(session, SeriesRow, series_id)
            if row.state != SeriesState.RECEIVING or row.last_instance_at != moment:
                return  # another slice came meanwhile
            if described is not None:
                write_description(session, row.id, described)
            self._judge(session, row, verdict, described, len(paths))
        if row.state == SeriesState.COMPLETE:
            self._marks.clear(row.series_uid, JournalMark.INTERRUPTED, JournalMark.REFUSED)
        self._headers.forget(paths)

    def _describe(self, paths: Sequence[str], choice: RouteChoice | None) -> Described | None:
        if self._describer is None:
            return None
        try:
            return self._describer.describe(self._headers.read(paths), choice)
        except SeriesUnusable:  # the verdict says so
            return None

    def _judge(
        self, session: Session, series: SeriesRow, verdict: SeriesVerdict, described: Described | None, images: int
    ) -> None:
        reason = reason_to_hold(series, verdict, images, open_refusals(session, series))
        if reason is not None:
            hold_series(session, series, reason, self._now())
        elif verdict.route is not None:
            choice = verdict.choice.without_found() if verdict.choice else None
            complete_series(session, series, verdict.route, self._now(), described.choice if described else choice)
            forget_refusals(session, series.series_uid)
