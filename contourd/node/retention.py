"""What is removed when: the images of finished series first, then structure sets, and never what waits for delivery.

A removal is written down before the files go, and the rows of the images go last. Killed anywhere in between, it is
taken up by the next run: a row that promises a file which is gone is always one of a series that is marked as removed.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, case, delete, func, or_, select

from contourd.intake.newer_images import drop_newer, remove_decided
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.reviews.retention import ReviewRetention
from contourd.settings import RetentionSettings
from contourd.spool.folder import Spool
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.constancy_series import own_series
from contourd.store.constancy_standing import OPEN as OPEN_CHECKS
from contourd.store.database import Database
from contourd.store.locks import lock_one, locked
from contourd.store.states import (
    DELIVERIES_UNDER_WAY,
    JOBS_STOPPED,
    JOBS_UNDER_WAY,
    SeriesState,
)
from contourd.store.tables import (
    ConstancyCheckRow,
    ConstancySeriesRow,
    ContradictingFileRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    NewerImageRow,
    SeriesRow,
)
from contourd.store.transitions import record
from contourd.system.clock import Clock, Monotonic, utc_now
from contourd.transfer.removal import StoreRemoval

log = logging.getLogger(__name__)

ORPHANS_EVERY_S = 3600.0
# After the clock was set nothing counts as old for so long: somebody may set it right again.
DISTRUST_S = 86400.0


@dataclass(frozen=True, slots=True)
class FinishedWork:
    """A series or job of which nothing is under way: since when, and whether a person must look at it."""

    id: int
    since: datetime
    unsuccessful: bool


class Retention:
    """Removes files whose time has come, and, when the disk is nearly full, finished work before its time."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        settings: RetentionSettings,
        clock: Clock = utc_now,
        monotonic: Monotonic = time.monotonic,
        cache_bytes: int = 0,
    ) -> None:
        self._database = database
        self._spool = spool
        self._store = StoreRemoval(database, spool, cache_bytes, settings.failed_days, clock)
        self._reviews = ReviewRetention(database, spool, self._store, settings, clock)
        self._marks = SeriesJournal(spool.root)
        self._now = clock
        self._monotonic = monotonic
        self._days = {False: settings.input_days, True: settings.failed_days}
        self._output_days = {False: settings.output_days, True: settings.failed_days}
        self._trusted_from = self._orphans_from = 0.0
        self._cramped = False

    def clock_was_set(self) -> None:
        """Trust the clock again in a day: by a wrong one, everything would be old at once."""
        self._trusted_from = self._monotonic() + DISTRUST_S
        log.warning("nothing is removed for its age for %d h", DISTRUST_S / 3600, extra={"action": "retention"})

    def run(self) -> None:
        """Remove what is to be removed now.

        Raises
        ------
        QueueUnavailable, SpoolError
            It goes on the next time.
        """
        self._finish()
        self._reviews.finish()
        with suppress(OSError):  # it goes on the next time
            remove_decided(self._database, self._spool.root)
        self._remove_checks()
        if self._monotonic() >= self._trusted_from:
            for series in self._settled_series():
                if self._is_old(series, self._days):
                    self._remove_images(series.id, "its time is over")
            for job in self._settled_jobs():
                if self._is_old(job, self._output_days):
                    self._remove_outputs(job.id, "its time is over")
            self._reviews.remove_old()
            if self._monotonic() >= self._orphans_from:
                self._remove_orphans()
                self._reviews.remove_orphans()
                self._orphans_from = self._monotonic() + ORPHANS_EVERY_S
        self._store.remove_objects()
        self.clear_cache()
        self._make_room()
        self._spool.remove_empty_days(f"{self._now() - timedelta(days=1):%Y%m%d}")

    def clear_cache(self) -> None:
        """Remove from this host what is not needed here any more; raises QueueUnavailable, SpoolError."""
        self._store.clear_cache()

    def _remove_checks(self) -> None:
        """Remove the files of constancy checks that are over: they are nobody's, and nobody looks at them."""
        over = select(ConstancyCheckRow.id).where(ConstancyCheckRow.state.not_in(OPEN_CHECKS))
        own = own_series().where(ConstancySeriesRow.check_id.in_(over))
        stored = SeriesRow.state != SeriesState.RECEIVING, SeriesRow.id.in_(select(InstanceRow.series_id))
        with self._database.reading() as session:
            series = list(session.scalars(select(SeriesRow.id).where(SeriesRow.id.in_(own), *stored)))
            jobs = list(session.scalars(select(JobRow.id).where(JobRow.series_id.in_(own), JobRow.purged_at.is_(None))))
        for series_id in series:
            self._remove_images(series_id, "the constancy check is over")
        for job_id in jobs:
            self._remove_outputs(job_id, "the constancy check is over")

    def _is_old(self, settled: FinishedWork, days: dict[bool, float]) -> bool:
        return settled.since < self._now() - timedelta(days=days[settled.unsuccessful])

    def _make_room(self) -> None:
        """Remove finished images, then structure sets, then what came back, the oldest first, until enough is free."""
        if self._spool.store is not None and not self._spool.has_room():
            self._store.clear_cache(0)
        for settled, remove in (
            (self._settled_series, self._remove_images),
            (self._settled_jobs, self._remove_outputs),
            (self._settled_reviews, self._reviews.remove),
        ):
            if self._spool.has_room():
                break
            for finished in sorted((s for s in settled() if not s.unsuccessful), key=lambda s: s.since):
                if self._spool.has_room():
                    break
                remove(finished.id, "the disk is nearly full")
        cramped = not self._spool.has_room()
        if cramped and not self._cramped:
            log.error(
                "the disk is nearly full and nothing finished is left to remove; make room in %s",
                self._spool.root,
                extra={"action": "retention"},
            )
        self._cramped = cramped

    def _settled_series(self) -> list[FinishedWork]:
        """Find the series with images, whole or held, of which nothing is under way."""
        last_job = func.max(JobRow.updated_at)
        unsuccessful = func.sum(case((JobRow.state.in_(JOBS_STOPPED), 1), else_=0))
        found = (
            select(SeriesRow.id, SeriesRow.state, SeriesRow.last_instance_at, last_job, unsuccessful)
            .outerjoin(JobRow, JobRow.series_id == SeriesRow.id)
            .where(
                SeriesRow.state.in_((SeriesState.COMPLETE, SeriesState.HELD)),
                SeriesRow.id.in_(select(InstanceRow.series_id)),
                SeriesRow.id.not_in(select(JobRow.series_id).where(_under_way())),
            )
            .group_by(SeriesRow.id)
        )
        with self._database.reading() as session:
            rows = session.execute(found).all()
        return [
            FinishedWork(series_id, max(received, job or received), bool(failed) or state == SeriesState.HELD)
            for series_id, state, received, job, failed in rows
        ]

    def _settled_jobs(self) -> list[FinishedWork]:
        found = select(JobRow.id, JobRow.updated_at, JobRow.state).where(JobRow.purged_at.is_(None), ~_under_way())
        with self._database.reading() as session:
            return [FinishedWork(job, since, state in JOBS_STOPPED) for job, since, state in session.execute(found)]

    def _settled_reviews(self) -> list[FinishedWork]:
        return [FinishedWork(number, at, unsuccessful=False) for number, at in self._reviews.settled()]

    def _remove_images(self, series_id: int, reason: str) -> None:
        images = select(func.count()).where(InstanceRow.series_id == series_id)
        with self._database.transaction() as session:
            series = lock_one(session, SeriesRow, series_id)
            busy = session.scalars(select(JobRow.id).where(JobRow.series_id == series_id, _under_way())).first()
            if series.state == SeriesState.RECEIVING or busy is not None:
                return  # a slice, or a person, came meanwhile
            now = self._now()
            # What came again of an earlier removal is fewer than what was removed: the larger number is the series.
            series.purged_images = max(session.scalar(images) or 0, series.purged_images)
            latest = session.scalar(select(func.max(InstanceRow.received_at)).where(InstanceRow.series_id == series_id))
            series.purged_at = max(now, latest or now)  # also where the clock was set back
            text = f"{series.purged_images} images removed: {reason}"
            record(session, "series", series_id, "purge", series.state, text, now)
            if series.state == SeriesState.HELD:
                series.reason = self._removed(series.reason)
            held = select(JobRow).where(JobRow.series_id == series_id, JobRow.state.in_(JOBS_STOPPED))
            for job in session.scalars(locked(held.order_by(JobRow.id))):
                job.reason = self._removed(job.reason)
        log.info("%s", text, extra={"action": "retention", "series": series_id})
        self._finish_images(series_id)

    def _removed(self, reason: Reason | None) -> Reason:
        return Reason.of(HoldReason.REMOVED_WHILE_HELD, why=reason or "held", on=f"{self._now():%Y-%m-%d}")

    def _finish_images(self, series_id: int) -> None:
        """Remove the files and then the rows of what was there at the removal; what came since stays."""
        removed = select(SeriesRow.purged_at).where(SeriesRow.id == series_id).scalar_subquery()
        of_series = InstanceRow.series_id == series_id, InstanceRow.received_at <= removed
        stored = select(InstanceRow.id, InstanceRow.path).where(*of_series)
        with self._database.reading() as session:
            rows = session.execute(stored).all()
        for _, path in rows:
            self._spool.remove(path)
        self._store.removed(path for _, path in rows)
        with self._database.transaction() as session:
            lock_one(session, SeriesRow, series_id)
            for instance_id, path in rows:  # one that came again meanwhile has another path
                session.execute(delete(InstanceRow).where(InstanceRow.id == instance_id, InstanceRow.path == path))
            drop_newer(session, series_id)
            uid = session.get_one(SeriesRow, series_id).series_uid
        self._marks.clear(uid, *JournalMark)

    def _remove_outputs(self, job_id: int, reason: str) -> None:
        with self._database.transaction() as session:
            job = session.scalars(locked(select(JobRow).where(JobRow.id == job_id, ~_under_way()))).one_or_none()
            if job is None:
                return
            job.purged_at = self._now()
            record(session, "job", job_id, "purge", job.state, f"structure sets removed: {reason}", self._now())
        for path in self._spool.outputs(job_id):
            self._spool.remove(path)
        self._store.outputs_removed(job_id)

    def _finish(self) -> None:
        """Take up the removals that were written down and not ended."""
        begun = (
            select(SeriesRow.id)
            .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
            .where(SeriesRow.state != SeriesState.RECEIVING, InstanceRow.received_at <= SeriesRow.purged_at)
            .distinct()
        )
        with self._database.reading() as session:
            series = list(session.scalars(begun))
            outputs = self._spool.outputs_by_job()
            jobs = select(JobRow.id).where(JobRow.purged_at.is_not(None), JobRow.id.in_(outputs))
            removed = list(session.scalars(jobs))
        for series_id in series:
            self._finish_images(series_id)
        for job_id in removed:
            for path in outputs[job_id]:
                self._spool.remove(path)

    def _remove_orphans(self) -> None:
        """Remove files that no row knows once their time is over: those of instances that were never acknowledged.

        They are kept as long as what a person must look at: after a database was lost they are all that is left.
        """
        with self._database.reading() as session:
            known = set(session.scalars(select(InstanceRow.path)))
            known |= set(session.scalars(select(NewerImageRow.path)))
            known |= set(session.scalars(_contradicting()))
        self._store.remove_orphans()
        cutoff = (self._now() - timedelta(days=self._days[True])).timestamp()
        for path in self._spool.incoming(cutoff):
            if path not in known:
                log.info("a file that belongs to no image is removed", extra={"action": "retention"})
                self._spool.remove(path)


def _under_way() -> ColumnElement[bool]:
    undelivered = select(DeliveryRow.job_id).where(DeliveryRow.state.in_(DELIVERIES_UNDER_WAY))
    return or_(JobRow.state.in_(JOBS_UNDER_WAY), JobRow.id.in_(undelivered))


def _contradicting() -> Select[str]:
    """Select the files of images that came twice with different content, of series that are held for it."""
    of_series = select(ContradictingFileRow.path).join(SeriesRow, SeriesRow.id == ContradictingFileRow.series_id)
    return of_series.where(SeriesRow.state == SeriesState.HELD)
